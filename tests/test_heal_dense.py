"""Healing weights that a plan left dense: they are trained too, in the reach of the compression alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks.conformance.fidelity import compare_files
from heal_examples import QUICK, initializers, network, rows
from onnx import TensorProto, helper, numpy_helper
from onnx_examples import folded, opened, save

from rankfold.heal_model import heal
from rankfold.options import Options
from rankfold.passes.healable import find_healable
from rankfold.passes.model_file import load_model
from rankfold.passes.replaced import healed_names
from rankfold.tools.cli import main


def network_with_dense(folder: Path, edit: str = "") -> tuple[Path, Path]:
    """Return a network and what becomes of it where its first layer stays dense."""
    path = network(folder / "base.onnx")
    model = onnx.load(path)
    if edit:
        _EDITS[edit](model.graph)
        save(model, path)
    return path, folded(opened(model, folder, "base.onnx"), rows(300, seed=50), 8, exclude=("fc1",))


def _turned(graph: onnx.GraphProto) -> None:
    """Let the first layer read its weight through a Transpose."""
    weight = next(tensor for tensor in graph.initializer if tensor.name == "w1")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), "w1"))
    graph.node.insert(0, helper.make_node("Transpose", ["w1"], ["w1_turned"], "turn", perm=[1, 0]))
    next(node for node in graph.node if node.name == "fc1").input[1] = "w1_turned"


def _read_twice(graph: onnx.GraphProto) -> None:
    """Give out the first layer's weight times two as well."""
    graph.node.append(helper.make_node("Add", ["w1", "w1"], ["twice"], "twice"))
    graph.output.append(helper.make_tensor_value_info("twice", TensorProto.FLOAT, [32, 48]))


def _turned_and_read(graph: onnx.GraphProto) -> None:
    """Give out what stands behind the Transpose."""
    _turned(graph)
    graph.output.append(helper.make_tensor_value_info("w1_turned", TensorProto.FLOAT, [32, 48]))


_EDITS = {"turned": _turned, "read twice": _read_twice, "turned and read": _turned_and_read}


@pytest.mark.parametrize("edit", ["", "turned"])
def test_a_dense_weight_is_trained_and_listed(tmp_path: Path, edit: str) -> None:
    base, candidate = network_with_dense(tmp_path, edit)
    healed = heal(base, candidate, [rows()], how="distill", passes=2, output=tmp_path / "healed.onnx", options=QUICK)
    assert healed.steps[1].kept
    assert "w1" in healed.others
    assert "w1" in healed_names(onnx.load(healed.path))
    assert initializers(healed.path)["w1"] != initializers(candidate)["w1"]
    assert compare_files(base, healed.path).unexplained == ()


@pytest.mark.parametrize("edit", ["read twice", "turned and read"])
def test_a_weight_that_is_more_than_a_weight_is_left(tmp_path: Path, edit: str) -> None:
    _, candidate = network_with_dense(tmp_path, edit)
    assert find_healable(load_model(candidate)).dense == ()


@pytest.mark.parametrize("reach", [{"exclude": ("fc1",)}, {"exclude": ("*",)}, {"include": ("fc2",)}])
def test_what_a_compression_may_not_touch_is_left(tmp_path: Path, reach: dict[str, tuple[str, ...]]) -> None:
    base, candidate = network_with_dense(tmp_path)
    options = Options(batch_size=32, **reach)
    healed = heal(base, candidate, [rows()], how="distill", passes=1, output=tmp_path / "healed.onnx", options=options)
    assert healed.steps[1].kept
    assert "w1" not in healed.changed


def test_refit_leaves_dense_weights(tmp_path: Path) -> None:
    base, candidate = network_with_dense(tmp_path)
    healed = heal(base, candidate, [rows()], output=tmp_path / "healed.onnx", options=QUICK)
    assert "w1" not in healed.changed


def test_the_command_leaves_what_it_is_told_to(tmp_path: Path) -> None:
    base, candidate = network_with_dense(tmp_path)
    np.savez(tmp_path / "data.npz", **rows())
    command = ["heal", str(base), str(candidate), "--data", str(tmp_path / "data.npz"), "--how", "distill", "--quiet"]
    for name, more in (("all", []), ("left", ["--exclude", "fc1"])):
        assert main([*command, "-o", str(tmp_path / f"{name}.onnx"), *more]) == 0
    before = initializers(candidate)["w1"]
    assert initializers(tmp_path / "left.onnx")["w1"] == before
    assert initializers(tmp_path / "all.onnx")["w1"] != before


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, candidate = network_with_dense(tmp_path)
    np.savez(tmp_path / "data.npz", **rows())
    out = tmp_path / "healed.onnx"
    command = ["heal", str(base), str(candidate), "--data", str(tmp_path / "data.npz"), "-o", str(out)]
    assert main([*command, "--exclude", "fc11"]) == 3
    assert "fc11" in capsys.readouterr().err
    assert not out.exists()
