"""Units on disk, in any order, and what the original makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_examples import build, gaussian, opened, save

from rankfold.errors import OutputError
from rankfold.passes.residuals import residual_sums
from rankfold.runtime_calib.originals import Wanted, keep_originals
from rankfold.runtime_calib.shelf import Shelf
from rankfold.runtime_calib.trials import Run, open_trial
from rankfold.runtime_calib.units import Unit

JOINS = frozenset({"x"})


def shelf_of(path: Path, widths: list[int]) -> Shelf:
    scale = np.array(2.0, np.float32)
    with Shelf(path) as shelf:
        for number, width in enumerate(widths):
            feed = {"x": np.full((1, width), number, np.float32), "scale": scale}
            shelf.write(Unit(feed, None, JOINS, np.array([number])))
    return shelf


def test_units_come_back_in_any_order(tmp_path: Path) -> None:
    shelf = shelf_of(tmp_path / "shelf.bin", [2] * 5)
    feed, labels = shelf.batch([3, 0, 4])
    assert feed["x"].tolist() == [[3, 3], [0, 0], [4, 4]]
    assert labels is not None
    assert labels.tolist() == [3, 0, 4]
    assert feed["scale"] == 2
    assert (len(shelf), shelf.samples, shelf.labelled) == (5, 5, True)
    assert (tmp_path / "shelf.bin").stat().st_size == 5 * 2 * 4 + 4  # the constant lies there once


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_is_full_at_the_end_is_named() -> None:
    shelf = Shelf(Path("/dev/full"))
    with pytest.raises(OutputError, match=r"/dev/full: data cannot be kept there .No space left"), shelf:
        shelf.write(Unit({"x": np.zeros((1, 2), np.float32)}, None, JOINS))


def test_batches_hold_what_can_be_joined_and_are_as_many_in_any_order(tmp_path: Path) -> None:
    shelf = shelf_of(tmp_path / "shelf.bin", [2, 3, 2, 3, 2])
    assert shelf.batches(2) == [[0, 2], [4], [1, 3]]
    assert shelf.batches(2, order=[4, 3, 2, 1, 0]) == [[4, 2], [0], [3, 1]]


def test_originals_follow_their_units(tmp_path: Path) -> None:
    proto = build("g (float[N,2] x) => (float[N,2] y) { y = Add(x, x) }", {})
    session = open_trial(save(proto, tmp_path / "model.onnx"), run=Run())
    with Shelf(tmp_path / "units.bin") as units:
        for number in range(5):
            units.write(Unit({"x": np.full((1, 2), number, np.float32)}, None, JOINS))
    wanted = Wanted(("y",), frozenset({"y"}))
    kept = keep_originals(session, wanted, units, tmp_path / "kept.bin", batches=[[4, 1], [0, 3], [2]])
    assert kept.joins
    assert kept.of([0, 4, 2])["y"].tolist() == [[0, 0], [8, 8], [4, 4]]
    assert kept.of([0])["y"].dtype == np.float16


def test_residual_sums_are_found_in_both_graphs(tmp_path: Path) -> None:
    body = """g (float[N,8] x) => (float[N,8] y) {
      a = MatMul(x, w) b = Relu(a) s = Add(a, b) c = Relu(s) t = Add(s, c) once = Relu(t) y = Add(once, bias) }"""
    weights = {"w": gaussian(8, 8), "bias": gaussian(8)}
    model = opened(build(body, weights), tmp_path)
    renamed = body.replace("s = Add", "z = Add").replace("(s", "(z")
    other = opened(build(renamed, weights), tmp_path, "other.onnx")
    assert residual_sums(model, model) == ("s",)
    assert residual_sums(model, other) == ()
