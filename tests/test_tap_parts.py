"""A part of the taps gives the same sums as all of them, and no gram matrix of the others."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_examples import gaussian, mlp

from rankfold.passes.model_file import Model, load_model
from rankfold.passes.tap_parts import part_of
from rankfold.passes.taps import TapSetting, tap
from rankfold.runtime_calib.collect import Collector
from rankfold.values import Request, Tapped

REQUESTS = (Request("x"), Request("a"), Request("y"))
FEED = {"x": gaussian(64, 32, seed=3, scale=1.0)}


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load_model(mlp(tmp_path / "mlp.onnx"))


def tapped(model: Model) -> Tapped:
    features = {"x": 32, "a": 64, "y": 16}
    return tap(model, {request: TapSetting(features[request.tensor], 2, stride=3) for request in REQUESTS})


@pytest.mark.parametrize("part", [set(c) for size in (1, 2) for c in combinations(REQUESTS, size)], ids=range(6))
def test_a_part_gives_the_sums_of_the_whole(part: set[Request], model: Model) -> None:
    whole = Collector(tapped(model), seed=0).collect([FEED] * 3)
    found = Collector(part_of(tapped(model), part), seed=0).collect([FEED] * 3)
    assert set(found) == part
    for request in part:
        assert found[request].count == whole[request].count
        np.testing.assert_array_equal(found[request].total, whole[request].total)
        np.testing.assert_array_equal(found[request].gram, whole[request].gram)


def test_only_the_gram_matrices_of_the_others_go(model: Model) -> None:
    made = tapped(model)
    part = part_of(made, {REQUESTS[1]})
    before, after = (onnx.ModelProto.FromString(one.addition).graph for one in (made, part))
    gone = {made.taps[request].gram for request in (REQUESTS[0], REQUESTS[2])}
    assert {v.name for v in before.output} - {v.name for v in after.output} == gone
    assert {n for node in before.node for n in node.output} - {n for node in after.node for n in node.output} == gone


def test_all_of_it_is_the_same(model: Model) -> None:
    made = tapped(model)
    assert part_of(made, set(REQUESTS)) is made
