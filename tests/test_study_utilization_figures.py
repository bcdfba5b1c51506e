"""What the study of utilization makes of its figures: which differences are clear, and which layer is where."""

from __future__ import annotations

from typing import Any

import pytest
from benchmarks.studies import utilization
from benchmarks.studies.utilization_figures import ABOUT, SHARES, place_of, summary, table

import rankfold
from rankfold.models import demo


def made_up_rows(supervised: list[float], masked: list[float]) -> list[dict[str, Any]]:
    """Return rows of three seeds, whose MLU is the same at all shares."""
    common: dict[str, Any] = {"stable": 0.1, "effective": 0.8, "layers": [], "trained": {"probe_accuracy": 0.5}}
    mlu = {"vit": [0.2], "dinov2": [0.4], "untrained": [0.1] * 3, "supervised": supervised, "masked": masked}
    return [
        {"kind": kind, "seed": seed, "about": about, "mlu": [value] * len(SHARES), **common}
        for kind, values in mlu.items()
        for seed, value in enumerate(values)
        for about in ABOUT
    ]


def test_what_is_said_of_the_difference_is_by_its_interval() -> None:
    higher = made_up_rows([0.30, 0.32, 0.34], [0.40, 0.43, 0.46])
    line = summary(higher)[0]
    assert (line["about"], line["share"], line["verdict"]) == ("mean", SHARES[0], "higher")
    # Differences .10, .11, .12: their mean, and Student's 4.3027 · .01 / √3 to each side.
    assert [line["difference"], line["low"], line["high"]] == pytest.approx([0.11, 0.0851586, 0.1348414], abs=1e-6)
    assert line["ratio"] == pytest.approx(0.43 / 0.32)
    text = table(higher)
    assert "| one ViT" not in text
    assert "| self-supervised | mean | 43.0 (40.0 to 46.0) |" in text
    assert "| points | mean | +11.0 (+8.5 to +13.5) |" in text
    assert "| relative | zero | +34 % |" in text
    assert {line["verdict"] for line in summary(made_up_rows([0.4, 0.43, 0.46], [0.30, 0.32, 0.34]))} == {"lower"}
    assert {line["verdict"] for line in summary(made_up_rows([0.3, 0.3, 0.3], [0.2, 0.4, 0.5]))} == {"not clear"}


def test_layers_are_told_by_their_names() -> None:
    assert place_of("blocks.11.attention.projections.0/MatMul") == (11, "attention in")
    assert place_of("/backbone/encoder/layer.3/attention/attention/query/MatMul") == (3, "attention in")
    assert place_of("/backbone/encoder/layer.3/attention/output/dense/MatMul") == (3, "attention out")
    assert place_of("/backbone/encoder/layer.0/mlp/fc2/MatMul") == (0, "fc2")
    found = rankfold.analyze(demo.embedded_model(), options=utilization.LAYERS)
    assert sorted(place_of(site.name) for site in found.sites) == sorted(
        (block, kind) for block in range(5) for kind in ("attention in", "attention out", "fc1", "fc2")
    )
    for name in ("head/Gemm", "blocks.0.fc3/MatMul"):
        with pytest.raises(ValueError, match="no name of a block's layer"):
            place_of(name)
