"""Lookups over a graph: names, makers, readers, and what must go on existing."""

from __future__ import annotations

from itertools import pairwise

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper
from onnx_examples import build, gaussian

from rankfold.passes.graph_index import copy_without, index_graph, nested_graphs, nested_reads

BRANCHES = """
g (float[n,4] x, bool c) => (float[n,4] y) {
  h = MatMul(x, w)
  y = If (c) <
    then_branch = inner () => (float[n,4] t) { s = Relu(h) t = Add(s, b) },
    else_branch = other () => (float[n,4] e) { e = Identity(x) }
  >
}
"""


def chain_of(names: list[str]) -> ModelProto:
    """Return a row of Relu nodes with these names."""
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=name) for i, name in enumerate(names)]
    ends = [helper.make_tensor_value_info(f"t{i}", 1, [2]) for i in (0, len(names))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_given_names_stay_and_missing_ones_derive_from_the_place() -> None:
    assert index_graph(chain_of(["a", "", "b"])).names == ("a", "Relu_1", "b")


def test_a_repeated_name_is_told_apart_by_its_place() -> None:
    assert index_graph(chain_of(["a", "a", "b"])).names == ("a", "Relu_1", "b")


def test_a_derived_name_that_is_taken_already_is_avoided() -> None:
    names = index_graph(chain_of(["Relu_1", "", "b"])).names
    assert len(names) == 3
    assert names[0] == "Relu_1"
    assert names[2] == "b"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "Relu_0", "Relu_1", "Relu_2", "Relu_3"]), min_size=1, max_size=5))
def test_every_node_has_a_name_of_its_own(names: list[str]) -> None:
    found = index_graph(chain_of(names)).names
    assert len(found) == len(names)
    assert len(set(found)) == len(names)


def test_makers_and_readers() -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { a = MatMul(x, w) b = Add(a, a) y = Add(b, x) }"
    index = index_graph(build(text, {"w": gaussian(4, 4)}))
    assert index.producer == {"a": 0, "b": 1, "y": 2}
    assert index.readers == {"x": (0, 2), "w": (0,), "a": (1, 1), "b": (2,)}
    assert [index.only_reader(name) for name in "xwaby"] == [None, 0, None, 2, None]
    assert set(index.initializers) == {"w"}
    assert index.ranks["a"] == 2


def test_an_output_has_a_reader_that_is_no_node() -> None:
    text = "g (float[n] x) => (float[n] a, float[n] y) { a = Relu(x) y = Relu(a) }"
    assert index_graph(build(text, {})).only_reader("a") is None


def test_what_bodies_read_is_pinned() -> None:
    index = index_graph(build(BRANCHES, {"w": gaussian(4, 4), "b": gaussian(4)}))
    assert {"h", "b", "x", "y"} <= index.pinned
    assert "w" not in index.pinned
    assert index.only_reader("h") is None


def test_bodies_within_bodies_are_searched() -> None:
    text = BRANCHES.replace(
        "s = Relu(h)",
        "s = If (c) <then_branch = a () => (float[n,4] p) { p = Relu(h) },"
        " else_branch = d () => (float[n,4] q) { q = Add(x, deep) }>",
    )
    model = build(text, {"w": gaussian(4, 4), "b": gaussian(4), "deep": gaussian(4)})
    assert "deep" in set(nested_reads(model.graph.node))
    assert [body.name for body in nested_graphs(model.graph.node[1])] == ["inner", "other"]


def test_an_initializer_that_is_an_input_is_overridable() -> None:
    model = build("g (float[n,4] x, float[4,4] w) => (float[n,4] y) { y = MatMul(x, w) }", {"w": gaussian(4, 4)})
    index = index_graph(model)
    assert index.overridable == {"w"}
    assert index.initializers == {}


def test_ranks_are_told_even_where_inference_fails() -> None:
    text = "g (float[n,4] x) => (float[n,4] y) { a = MatMul(x, w) y = Relu(a) }"
    model = build(text, {"w": gaussian(3, 4)})  # 4 columns against 3 rows
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert index_graph(model).ranks["x"] == 2


def test_copy_without_leaves_out_just_that() -> None:
    model = build(BRANCHES, {"w": gaussian(4, 4), "b": gaussian(4)})
    model.producer_name, model.doc_string, model.graph.doc_string = "maker", "words", "more"
    model.metadata_props.add(key="k", value="v")
    before = model.SerializeToString(deterministic=True)
    copy = copy_without(model, "node", "initializer")
    assert model.SerializeToString(deterministic=True) == before
    assert not copy.graph.node
    assert not copy.graph.initializer
    copy.graph.node.extend(model.graph.node)
    copy.graph.initializer.extend(model.graph.initializer)
    assert copy.SerializeToString(deterministic=True) == before


def test_names_follow_file_order() -> None:
    index = index_graph(chain_of(["c", "a", "b"]))
    assert [index.producer[f"t{i + 1}"] for i in range(3)] == [0, 1, 2]
    assert all(index.readers[f"t{late}"] == (late,) for _, late in pairwise(range(3)))
