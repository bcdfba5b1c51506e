"""The walk over every difference knows the pivoted form, and finds what is planted in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks.conformance.decorated import decorated
from benchmarks.conformance.fidelity import Fidelity, compare_files
from onnx import ModelProto, helper, numpy_helper
from onnx_examples import Array, build, folded, gaussian, opened

Plant = Callable[[ModelProto], None]

# One site of each kind: pivots of the input and of the output, with and without a bias inside, and among the others.
BODY = """g (float[n,5,24] x, float[16,m] z, float[k,5,9] c) => (float[n,5,32] y, float[m,16] u, float[k,12,7] v) {
  [wide] p = MatMul(x, wa)  y = Add(p, ba)
  [turned] u = Gemm<transA=1, alpha=0.5>(z, wb, bb)
  [conv] v = Conv(c, wc, bc) }"""


def _weights() -> dict[str, Array]:
    dead = gaussian(12, 5, 3, seed=3)
    dead[[0, -1]] = 0  # both ends of the output's features, so that its pivots take an index
    weights = {"wa": gaussian(24, 32, seed=1), "wb": gaussian(16, 16, seed=2), "wc": dead}
    return weights | {"ba": gaussian(32, seed=4), "bb": gaussian(16, seed=5), "bc": gaussian(12, seed=6)}


def _compared(tmp_path: Path, plant: Plant) -> Fidelity:
    model = opened(build(BODY, _weights()), tmp_path)
    feed = {"x": gaussian(40, 5, 24), "z": gaussian(16, 90), "c": gaussian(30, 5, 9)}
    path = folded(model, feed, 6, pivoted=True)
    broken = onnx.load(path)
    plant(broken)
    onnx.save(broken, path)
    return compare_files(model.path, path)


def _node(model: ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def test_pivoted_folds_are_explained_whole(tmp_path: Path) -> None:
    seen: list[str] = []
    found = _compared(tmp_path, lambda model: seen.extend(node.op_type for node in model.graph.node))
    assert " ".join(seen) == "Split MatMul Add MatMul Add Gemm Gemm Concat Conv Conv Concat Gather"
    assert found.unexplained == ()
    assert found.pairs == 3
    assert found.explained["new node of a pair"] == 11  # all but the Add that was there


def test_a_decorated_model_keeps_everything_else(tmp_path: Path) -> None:
    model = decorated()
    next(node for node in model.graph.node if node.name == "scale").attribute[0].t.name = "scale"
    source = opened(model, tmp_path)
    found = compare_files(source.path, folded(source, {"x": gaussian(200, 64, scale=1.0)}, 16, pivoted=True))
    assert found.unexplained == ()
    assert found.pairs == 2


def _axis(op_type: str) -> Plant:
    def plant(model: ModelProto) -> None:
        next(entry for entry in _node(model, op_type).attribute if entry.name == "axis").i = 0

    return plant


def _relu_between(model: ModelProto) -> None:
    split = _node(model, "Split")
    model.graph.node.insert(1, helper.make_node("Relu", [split.output[1]], ["wide/more"], "wide/relu"))
    _node(model, "MatMul").input[0] = "wide/more"


def _read_twice(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", [_node(model, "Split").output[0]], ["more"]))


def _other_size(model: ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "turned/up")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros((6, 16), np.float32), "turned/up"))


def _other_form(model: ModelProto) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == "rankfold.pairs")
    entry.value = entry.value.replace('"pivoted"', '"pair"', 1)


PLANTED: dict[str, tuple[Plant, str]] = {
    "axis of a Split": (_axis("Split"), "Split along axis 0, expected that of the features, -1"),
    "axis of a Concat": (_axis("Concat"), "Concat along axis 0, expected that of the features, -1"),
    "axis of a Gather": (_axis("Gather"), "Gather along axis 0, expected that of the features, 1"),
    "a node between": (_relu_between, "graph.node"),
    "another reader of the pivots": (_read_twice, "an additional Relu node"),
    "a factor as large as a pair's": (_other_size, "factors of shapes [16, 6], [6, 16]"),
    "another form": (_other_form, "beside the products of a fold of the form 'pair'"),
    "another activation": (lambda m: _node(m, "Split").input.__setitem__(0, "y"), "which the old node did not"),
    "a strange name": (lambda m: setattr(_node(m, "Concat"), "name", "other"), "does not derive from 'turned'"),
    "alpha on the wrong product": (
        lambda m: m.graph.node[6].attribute.append(helper.make_attribute("alpha", 0.25)),
        "attribute alpha is 0.25, the old node had another",
    ),
    "the bias of a product left out": (lambda m: m.graph.node[6].input.pop() and None, "graph.initializer"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_difference_is_found(kind: str, tmp_path: Path) -> None:
    plant, line = PLANTED[kind]
    found = _compared(tmp_path, plant)
    assert any(line in reason for reason in found.unexplained), found.unexplained
