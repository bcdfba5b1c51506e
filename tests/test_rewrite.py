"""Names, attributes and places of the nodes that a fold puts in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnx_examples import Array, build, folded, gaussian, low_rank_rows, opened, run

from rankfold.passes.rewrite import open_view

FEED = {"x": low_rank_rows(60, 12, 3, offset=2.0)}


def result_of(
    text: str, folder: Path, *, more: dict[str, Array] | None = None, model: ModelProto | None = None
) -> ModelProto:
    weights: dict[str, Array] = {"w": gaussian(12, 20), "b": gaussian(20, scale=1.0)}
    made = model or build(text, {k: v for k, v in weights.items() if f"{k})" in text or f"{k}," in text} | (more or {}))
    given = opened(made, folder)
    path = folded(given, FEED, 3)
    onnx.checker.check_model(str(path), full_check=True)
    result = onnx.load(path)
    names = [node.name for node in result.graph.node if node.name]
    tensors = [t.name for t in result.graph.initializer] + [o for n in result.graph.node for o in n.output]
    assert len(set(names)) == len(names)
    assert len(set(tensors)) == len(tensors)
    for found, expected in zip(run(result, FEED), run(given.path, FEED), strict=True):
        # The data has rank 3: what is left are some 30 roundings of 6e-8 on values below 30.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    return result


def shape_of(result: ModelProto) -> list[tuple[str, list[str], list[str]]]:
    return [(node.op_type, list(node.input), list(node.output)) for node in result.graph.node]


def test_a_matmul_becomes_two_and_the_add_stays(tmp_path: Path) -> None:
    result = result_of("g (float[n,12] x) => (float[n,20] y) { [fc] h = MatMul(x, w) [add] y = Add(b, h) }", tmp_path)
    assert shape_of(result) == [
        ("MatMul", ["x", "fc/down"], ["fc/down_output"]),
        ("MatMul", ["fc/down_output", "fc/up"], ["h"]),
        ("Add", ["fc/bias", "h"], ["y"]),
    ]
    assert result.graph.node[2].name == "add"
    assert all(node.name.startswith("fc/") for node in result.graph.node[:2])


def test_a_matmul_without_bias_gains_an_add_that_keeps_the_output(tmp_path: Path) -> None:
    result = result_of("g (float[n,12] x) => (float[n,20] y) { [fc] h = MatMul(x, w) y = Relu(h) }", tmp_path)
    assert shape_of(result) == [
        ("MatMul", ["x", "fc/down"], ["fc/down_output"]),
        ("MatMul", ["fc/down_output", "fc/up"], ["fc/up_output"]),
        ("Add", ["fc/up_output", "fc/bias"], ["h"]),
        ("Relu", ["h"], ["y"]),
    ]


def test_a_gemm_becomes_two_and_its_scales_go_to_the_second(tmp_path: Path) -> None:
    text = "g (float[12,n] x) => (float[n,20] y) { [fc] y = Gemm<transA=1, transB=1, alpha=0.5, beta=2.0>(x, v, b) }"
    model = build(text, {"v": gaussian(20, 12), "b": gaussian(20, scale=1.0)})
    given = opened(model, tmp_path)
    result = onnx.load(folded(given, {"x": np.ascontiguousarray(FEED["x"].T)}, 3))
    assert shape_of(result) == [
        ("Gemm", ["x", "fc/down"], ["fc/down_output"]),
        ("Gemm", ["fc/down_output", "fc/up", "fc/bias"], ["y"]),
    ]
    attributes = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in result.graph.node]
    assert attributes == [{"transA": 1}, {"alpha": 0.5, "beta": 2.0}]
    assert {t.name: list(t.dims) for t in result.graph.initializer} == {
        "fc/down": [12, 3], "fc/up": [3, 20], "fc/bias": [20]
    }  # fmt: skip


def test_a_gemm_without_c_is_given_one(tmp_path: Path) -> None:
    result = result_of("g (float[n,12] x) => (float[n,20] y) { [fc] y = Gemm<beta=0.5>(x, w) }", tmp_path)
    assert shape_of(result)[1] == ("Gemm", ["fc/down_output", "fc/up", "fc/bias"], ["y"])


def test_an_empty_c_is_given_a_value_too(tmp_path: Path) -> None:
    model = build("g (float[n,12] x) => (float[n,20] y) { [fc] y = Gemm(x, w) }", {"w": gaussian(12, 20)})
    model.graph.node[0].input.append("")
    result = result_of("", tmp_path, model=model)
    assert shape_of(result)[1] == ("Gemm", ["fc/down_output", "fc/up", "fc/bias"], ["y"])


def test_a_left_weight_stays_on_the_left(tmp_path: Path) -> None:
    text = "g (float[n,12] x) => (float[20,n] y) { t = Transpose(x) [fc] y = MatMul(v, t) }"
    result = result_of(text, tmp_path, more={"v": gaussian(20, 12)})
    assert shape_of(result)[1:3] == [
        ("MatMul", ["fc/down", "t"], ["fc/down_output"]),
        ("MatMul", ["fc/up", "fc/down_output"], ["fc/up_output"]),
    ]
    sizes = {t.name: list(t.dims) for t in result.graph.initializer}
    assert sizes == {"fc/down": [3, 12], "fc/up": [20, 3], "fc/bias": [20, 1]}


def test_a_nameless_node_lends_its_operator_and_place(tmp_path: Path) -> None:
    result = result_of("g (float[n,12] x) => (float[n,20] y) { t = Identity(x) y = MatMul(t, w) }", tmp_path)
    assert "MatMul_1/down" in {tensor.name for tensor in result.graph.initializer}


CLASHES = {  # name to the nodes around it
    "fc/down": "[fc] y = MatMul(x, w)",
    "fc/bias": "[fc] h = MatMul(x, w) y = Add(h, b)",
    "fc/down_output": "[fc] y = MatMul(x, w)",
}


@pytest.mark.parametrize("name", CLASHES)
def test_names_that_are_taken_are_avoided(name: str, tmp_path: Path) -> None:
    text = f"g (float[n,12] x) => (float[n,20] y, float[n,12] u) {{ taken = Relu(x) {CLASHES[name]} u = Neg(taken) }}"
    weights = {"w": gaussian(12, 20), "b": gaussian(20, scale=1.0)}
    model = build(text, {key: value for key, value in weights.items() if f"{key})" in text})
    model.graph.node[0].output[0] = model.graph.node[-1].input[0] = name  # ONNX text cannot hold it
    result = result_of("", tmp_path, model=model)
    made = [tensor.name for tensor in result.graph.initializer] + [o for n in result.graph.node for o in n.output]
    assert f"{name}_1" in made


@pytest.mark.parametrize("name", ["fc/down", "fc/up", "fc/bias"])
def test_an_initializer_that_nobody_reads_keeps_its_name(name: str, tmp_path: Path) -> None:
    text = "g (float[n,12] x) => (float[n,20] y) { [fc] h = MatMul(x, w) y = Add(h, b) }"
    idle = gaussian(2, 2)
    result = result_of(text, tmp_path, more={name: idle})
    (kept,) = (tensor for tensor in result.graph.initializer if tensor.name == name)
    np.testing.assert_array_equal(numpy_helper.to_array(kept), idle)


@pytest.mark.parametrize("name", ["fc/down", "fc/down_output", "fc/up"])
def test_a_name_that_a_body_uses_is_avoided(name: str, tmp_path: Path) -> None:
    text = """g (float[n,12] x) => (float[n,20] y) {
      [fc] h = MatMul(x, w)
      hb = Add(h, b)
      c = Constant<value = bool {1}>()
      y = If (c) <
        then_branch = one () => (float[n,20] t) { inner = Relu(hb) t = Sub(hb, inner) },
        else_branch = two () => (float[n,20] e) { e = Identity(hb) }
      >
    }"""
    model = build(text, {"w": gaussian(12, 20), "b": gaussian(20, scale=1.0)})
    (body,) = (a.g for n in model.graph.node if n.op_type == "If" for a in n.attribute if a.name == "then_branch")
    body.node[0].output[0] = body.node[1].input[1] = name
    result_of("", tmp_path, model=model)


@pytest.mark.parametrize("name", ["fc/down", "fc/bias"])
def test_a_name_of_an_unread_input_is_avoided(name: str, tmp_path: Path) -> None:
    text = "g (float[n,12] x, float[n,12] idle) => (float[n,20] y) { [fc] h = MatMul(x, w) y = Add(h, b) }"
    model = build(text, {"w": gaussian(12, 20), "b": gaussian(20, scale=1.0)})
    model.graph.input[1].name = name
    result = onnx.load(folded(opened(model, tmp_path), FEED | {name: FEED["x"]}, 3))
    assert name not in {tensor.name for tensor in result.graph.initializer}


def test_the_model_itself_stays_as_it_is(tmp_path: Path) -> None:
    text = "g (float[n,2] x) => (float[n,2] y) { c = Constant<value = float[1] {1.0}>() y = Add(x, c) }"
    model = opened(build(text, {}), tmp_path)
    before = model.proto.SerializeToString(deterministic=True)
    open_view(model.proto)
    assert model.proto.SerializeToString(deterministic=True) == before


def test_the_last_node_of_a_pair_takes_over_what_is_noted_of_the_old_one(tmp_path: Path) -> None:
    model = build("g (float[n,12] x) => (float[n,20] y) { [fc] y = MatMul(x, w) }", {"w": gaussian(12, 20)})
    model.graph.node[0].doc_string = "the head"
    model.graph.node[0].metadata_props.add(key="namespace", value="model/head")
    result = result_of("", tmp_path, model=model)
    noted = [(node.name, node.doc_string, len(node.metadata_props)) for node in result.graph.node if node.doc_string]
    assert noted == [("fc/up_1", "the head", 1)]  # "fc/up" is the factor
