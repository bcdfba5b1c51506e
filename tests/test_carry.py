"""What a fold does not touch stays as it was, byte for byte, and nothing that served only the old weight stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_examples import build, folded, gaussian, opened, run

FULL = """<ir_version: 10, opset_import: ["" : 17, "made.up" : 1],
 producer_name: "maker", domain: "a.b", model_version: 7>"""
BODY = """
rich (float[n,12] x, bool c) => (float[n,20] y, float[n,20] extra) {
  [fc] h = MatMul(x, w)
  hb = Add(h, b)
  [act] a = made.up.twice(hb)
  [clip] l = Clip(a, , high)
  [choice] y = If (c) <
    then_branch = one () => (float[n,20] t) { [in] t = Add(l, inner) },
    else_branch = two () => (float[n,20] e) { e = Identity(l) }
  >
  [spare] extra = Neg(a)
  dead_t = Transpose(never)
  dead = Relu(dead_t)
}
<domain: "made.up", opset_import: ["" : 17]>
twice (a) => (b) { b = Add(a, a) }
"""
WEIGHTS = {
    "w": gaussian(12, 20), "b": gaussian(20, scale=1.0), "high": np.array(9.0, np.float32), "inner": gaussian(20),
    "never": gaussian(3, 3), "unused": gaussian(2, 2),
}  # fmt: skip


def rich() -> ModelProto:
    """Return a model with every kind of thing that a fold has to leave alone."""
    model = build(BODY, WEIGHTS, header=FULL)
    model.doc_string, model.graph.doc_string = "of the model", "of the graph"
    model.metadata_props.add(key="author", value="someone")
    model.graph.metadata_props.add(key="in", value="graph")
    for node in model.graph.node:
        node.doc_string = f"of {node.output[0]}"
        node.metadata_props.add(key="of", value=node.output[0])
    model.graph.input[0].doc_string = "of x"
    model.graph.input[0].type.denotation = "IMAGE"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    model.graph.value_info.extend(helper.make_tensor_value_info(name, 1, ["n", 20]) for name in ("h", "hb", "a"))
    note = model.graph.quantization_annotation.add(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="high")
    return model


def result_of(model: ModelProto, folder: Path, rank: int | None = 3) -> ModelProto:
    feed = {"x": gaussian(60, 12, seed=5, scale=1.0), "c": np.array(True)}
    names = [value.name for value in model.graph.input]
    return onnx.load(folded(opened(model, folder), {k: v for k, v in feed.items() if k in names}, rank))


def texts(messages: object) -> list[bytes]:
    return [message.SerializeToString(deterministic=True) for message in messages]  # type: ignore[attr-defined]


def test_everything_that_is_not_folded_is_byte_equal(tmp_path: Path) -> None:
    original = rich()
    result = result_of(original, tmp_path)
    assert [node.name for node in result.graph.node if node.name == "fc"] == []
    for field in ("producer_name", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(result, field) == getattr(original, field)
    for field in ("opset_import", "functions"):
        assert texts(getattr(result, field)) == texts(getattr(original, field))
    for field in ("input", "output", "metadata_props", "quantization_annotation"):
        assert texts(getattr(result.graph, field)) == texts(getattr(original.graph, field))
    assert (result.graph.name, result.graph.doc_string) == ("rich", "of the graph")
    assert texts(result.metadata_props)[:1] == texts(original.metadata_props)
    kept = texts(node for node in original.graph.node if node.output[0] not in ("h", "hb"))
    assert [text for text in texts(result.graph.node) if text in kept] == kept
    (add,) = (node for node in result.graph.node if node.output[0] == "hb")
    assert (add.doc_string, add.input[0]) == ("of hb", "h")  # the Add keeps its place; its constant is another


def test_initializers_stay_but_the_weight_and_its_bias(tmp_path: Path) -> None:
    original = rich()
    result = result_of(original, tmp_path)
    before = {tensor.name: tensor.SerializeToString() for tensor in original.graph.initializer}
    after = {tensor.name: tensor.SerializeToString() for tensor in result.graph.initializer}
    assert {name: text for name, text in after.items() if name in before} == {
        name: text for name, text in before.items() if name not in ("w", "b")
    }
    assert sorted(set(after) - set(before)) == ["fc/bias", "fc/down", "fc/up"]


def test_values_info_goes_only_with_its_tensor(tmp_path: Path) -> None:
    model = build(
        "g (float[n,12] x) => (float[n,20] y) { t = Transpose(w) [fc] h = MatMul(x, t) y = Relu(h) }",
        {"w": gaussian(20, 12)},
    )
    model.graph.value_info.extend([
        helper.make_tensor_value_info("t", 1, [12, 20]), helper.make_tensor_value_info("h", 1, ["n", 20]),
        helper.make_tensor_value_info("w", 1, [20, 12]),
    ])  # fmt: skip
    result = result_of(model, tmp_path)
    assert [value.name for value in result.graph.value_info] == ["h"]


def test_dead_code_that_was_there_before_stays(tmp_path: Path) -> None:
    result = result_of(rich(), tmp_path)
    assert {"dead_t", "dead"} <= {name for node in result.graph.node for name in node.output}
    assert {"never", "unused"} <= {tensor.name for tensor in result.graph.initializer}


def test_a_chain_that_something_else_reads_stays(tmp_path: Path) -> None:
    text = """g (float[n,12] x) => (float[n,20] y, float[n,20] u) {
      i = Identity(b)
      [fc] h = MatMul(x, w)
      y = Add(h, i)
      u = Add(y, i)
    }"""
    model = build(text, {"w": gaussian(12, 20), "b": gaussian(20, scale=1.0)})
    result = result_of(model, tmp_path)
    assert "b" in {tensor.name for tensor in result.graph.initializer}
    assert "i" in {name for node in result.graph.node for name in node.output}


def test_the_function_is_kept_through_all_of_it(tmp_path: Path) -> None:
    original, feed = rich(), {"x": gaussian(9, 12, seed=6, scale=1.0), "c": np.array(False)}
    result = result_of(original, tmp_path, None)
    for found, expected in zip(run(result, feed), run(original, feed), strict=True):
        # Two products for one: some 30 roundings of 6e-8 on values below 30.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.STRING])
def test_initializers_of_unusual_types_stay(kind: int, tmp_path: Path) -> None:
    model = build("g (float[n,12] x) => (float[n,20] y) { [fc] y = MatMul(x, w) }", {"w": gaussian(12, 20)})
    odd = TensorProto(name="odd", data_type=kind, dims=[4])
    if kind == TensorProto.STRING:
        odd.string_data.extend([b"a", b"b", b"c", b"d"])
    else:
        odd.raw_data = bytes(range({TensorProto.BFLOAT16: 8, TensorProto.INT4: 2}.get(kind, 4)))
    model.graph.initializer.append(odd)
    model.opset_import[0].version, model.ir_version = 21, 10
    result = result_of(model, tmp_path)
    (kept,) = (tensor for tensor in result.graph.initializer if tensor.name == "odd")
    assert kept == odd


def test_sparse_initializers_stay_sparse_and_single(tmp_path: Path) -> None:
    text = "g (float[n,12] x) => (float[n,20] y) { [fc] h = MatMul(x, w) y = Add(h, s) }"
    model = build(text, {"w": gaussian(12, 20)})
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    places = numpy_helper.from_array(np.array([0, 7]), "s_places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [20]))
    result = result_of(model, tmp_path)
    assert texts(result.graph.sparse_initializer) == texts(model.graph.sparse_initializer)
    assert "s" not in {tensor.name for tensor in result.graph.initializer}


def test_empty_operands_at_the_end_stay(tmp_path: Path) -> None:
    text = "g (float[n,12] x) => (float[n,20] y) { [fc] h = MatMul(x, w) k = Clip(h, , high) y = Clip(k, low) }"
    weights = {"w": gaussian(12, 20), "high": np.array(9.0, np.float32), "low": np.array(-9.0, np.float32)}
    model = build(text, weights)
    clips = [node for node in model.graph.node if node.op_type == "Clip"]
    clips[1].input.append("")
    assert [list(node.input) for node in clips] == [["h", "", "high"], ["k", "low", ""]]
    result = result_of(model, tmp_path)
    assert texts(node for node in result.graph.node if node.op_type == "Clip") == texts(clips)


def test_outputs_left_out_in_the_middle_stay(tmp_path: Path) -> None:
    text = """g (float[n,12] x) => (float[n,20] y, float[n,1] v) {
      [fc] h = MatMul(x, w)
      y, mean, v = LayerNormalization(h, scale)
    }"""
    model = build(text, {"w": gaussian(12, 20), "scale": np.ones(20, np.float32)})
    model.graph.node[1].output[1] = ""
    result = result_of(model, tmp_path)
    assert model.graph.node[1] in list(result.graph.node)
