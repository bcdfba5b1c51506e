"""The study of neural rank collapse, on made-up images and figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.studies import collapse as study
from benchmarks.studies import collapse_runs as runs
from benchmarks.studies.collapse_runs import Place, Scale, Subject
from benchmarks.studies.collapse_summary import content
from benchmarks.studies.image_sets import Counts
from study_examples import image_set, redirect

COUNTS = Counts(48, 0, 20)
SCALE = Scale(COUNTS, epochs=1, batch=8, measured=24, width=0.0625, decays=(1e-3, 1e-1))


def subject(name: str) -> Subject:
    return Subject(name, SCALE, image_set(COUNTS, size=8, channels=1 if name == "mlp" else 3))


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_a_run_is_trained_and_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    here, made = Place(tmp_path, threads=1), subject(name)
    row = runs.trained(here, made, 0.1, 3)
    assert (row["weight_decay"], row["seed"], row["epoch"]) == (0.1, 3, 1)
    found = runs.measured(here, made, 0.1, 3)
    assert min(found["training_accuracy"], found["test_accuracy"]) >= 0
    layers = {line["layer"]: line for line in found["layers"]}
    assert list(layers)[-1] == "head"
    assert layers["head"]["distance_to_classes"] == 0.0  # two classes: its rank is 2 at most
    if name == "mlp":
        assert list(layers) == [*(f"layers.{number}" for number in range(5)), "head"]
        assert layers["layers.1"]["most"] == 32
    else:
        assert {"stem", "stages.0.0.conv1", "stages.1.0.shortcut"} < set(layers)
    known = [line["before"] for line in layers.values() if line["before"] is not None]
    assert len(known) >= len(layers) - 1  # a layer that is too narrow to be folded may be left out
    assert all(0 < before["within_share"] < 1 for before in known)
    assert all(1 <= line["stable_rank"] <= line["effective_rank"] <= line["most"] for line in layers.values())
    capsys.readouterr()


def row_of(name: str, decay: float, seed: int) -> dict[str, Any]:
    """Return figures in which the first layer's rank falls with weight decay and the second's with the seed alone."""

    def layer(which: str, rank: float, variation: float | None) -> dict[str, Any]:
        before = None if variation is None else {"cluster_variation": variation, "within_share": 0.5, "nc1": 1.0}
        ranks = {"stable_rank": 1.5, "effective_rank": rank, "share_rank": 2, "distance_to_classes": rank / 100}
        return {"layer": which, "out_features": 20, "in_features": 30, "most": 20, **ranks, "before": before}

    step = study.DECAYS.index(decay)
    layers = [layer("one", 10.0 - step, 8.0 - step), layer("two", 5.0 + seed, 0.5 + step), layer("head", 2.0, None)]
    scores = {"training_accuracy": 1.0, "test_accuracy": 0.8 + seed / 100}
    return {"network": name, "weight_decay": decay, "seed": seed, **scores, "layers": layers}


def made_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, float, int]]:
    calls: list[tuple[str, str, float, int]] = []

    def trained(_: Place, made: Subject, decay: float, seed: int) -> dict[str, Any]:
        calls.append(("train", made.name, decay, seed))
        return {"weight_decay": decay, "seed": seed, "validation_accuracy": 0.5, "epoch": 1}

    def measured(_: Place, made: Subject, decay: float, seed: int) -> dict[str, Any]:
        calls.append(("measure", made.name, decay, seed))
        return row_of(made.name, decay, seed)

    monkeypatch.setattr(study, "trained", trained)
    monkeypatch.setattr(study, "measured", measured)
    return calls


def test_the_study_is_kept_and_its_results_are_written_once_all_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    redirect(study, tmp_path, monkeypatch)
    calls = made_up(monkeypatch)
    here = Place(tmp_path / "work", threads=1)
    subjects = [replace(subject(name), scale=replace(SCALE, decays=study.DECAYS)) for name in ("mlp", "resnet")]
    study.study(here, subjects)
    assert len(calls) == len(set(calls)) == 2 * 2 * 15
    assert calls[:2] == [("train", "mlp", 3e-4, 0), ("measure", "mlp", 3e-4, 0)]
    study.study(here, subjects)
    assert len(calls) == 60  # nothing twice
    page = (tmp_path / "studies.md").read_text()
    (tmp_path / "studies.md").write_text(page.replace("ResNet, CIFAR-10", "lost"))
    for picture in (tmp_path / "pictures").iterdir():
        picture.unlink()
    study.main(["--redraw"])
    assert (tmp_path / "studies.md").read_text() == page
    check_page(page)
    check_pictures(tmp_path / "pictures")
    found = json.loads((tmp_path / "results" / "studies" / "collapse.json").read_text())
    assert len(found["runs"]) == 30
    assert found["settings"]["subjects"]["mlp"]["decays"] == list(study.DECAYS)
    capsys.readouterr()


def check_page(page: str) -> None:
    lines = page.splitlines()
    assert lines[2].startswith(
        "| network, weight decay | training accuracy, % | test accuracy, % | mean effective rank"
    )
    assert lines[4] == (
        "| MLP, Fashion-MNIST, 0.0003 | 100.00 ± 0.00 | 81.00 ± 1.00 | 6.0 ± 0.3 | 1.5 ± 0.0 | 0.060 ± 0.003 |"
    )
    assert len([line for line in lines if line.startswith("| ResNet, CIFAR-10, 0")]) == len(study.DECAYS)
    assert "| MLP, Fashion-MNIST, head | - | - | - | - |" in lines
    one = next(line for line in lines if line.startswith("| MLP, Fashion-MNIST, one |"))
    assert one.count("-1.00 (-1.00 to -1.00)") == 2
    assert one.count("+1.00 (+1.00 to +1.00)") == 2
    assert any(line.startswith("| ResNet, CIFAR-10, all layers | -") for line in lines)
    assert "![Rank of each layer by weight decay](pictures/collapse-decay.svg)" in lines


def check_pictures(folder: Path) -> None:
    pages = {path.name: path.read_text() for path in folder.iterdir()}
    assert sorted(pages) == ["collapse-decay.svg", "collapse-variability.svg"]
    shown = ("MLP, Fashion-MNIST", "ResNet, CIFAR-10", "effective rank", "relative distance to rank K", "weight decay")
    for page in pages.values():
        assert all(f"<!-- {label} -->" in page for label in shown)
    assert "<!-- head -->" in pages["collapse-decay.svg"]
    assert "<!-- cluster variation of what the layer reads -->" in pages["collapse-variability.svg"]


def test_correlations_are_of_runs_with_seeds_as_clusters() -> None:
    rows = {}
    for decay in study.DECAYS:
        for seed in study.SEEDS:
            name = f"mlp-{decay:g}-{seed}"
            rows[f"{name}-train"] = {"minutes": 2.0}
            rows[f"{name}-measure"] = {**row_of("mlp", decay, seed), "minutes": 0.5}
    found = content({"subjects": {"mlp": {}}, "seeds": list(study.SEEDS)}, rows)
    assert {run["minutes"] for run in found["runs"]} == {2.5}
    lines = {(line["layer"], line["measure"], line["against"]): line for line in found["correlations"]}
    # The rank of the second layer is the seed's: no resample of whole seeds makes it go with weight decay.
    two = lines["two", "effective_rank", "weight_decay"]
    assert max(abs(two[name]) for name in ("spearman", "low", "high")) < 1e-12
    assert lines["one", "effective_rank", "weight_decay"]["spearman"] == pytest.approx(-1.0, abs=1e-12)
    assert lines["one", "effective_rank", "cluster_variation"]["spearman"] == pytest.approx(1.0, abs=1e-12)
    assert lines["one", "effective_rank", "within_share"]["spearman"] is None  # it is the same in all runs
    assert ("head", "effective_rank", "cluster_variation") not in lines
    pooled = lines["all layers", "effective_rank", "cluster_variation"]
    assert pooled["low"] <= pooled["spearman"] <= pooled["high"]
