"""Graphs that make no sense are refused with our own words, before any library has a say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from onnx_examples import build, gaussian, opened, run, save

from rankfold.errors import ModelError
from rankfold.passes.graph_checks import OLDEST_MEASURED_OPSET, TAP_PREFIX, check_measurable
from rankfold.passes.model_file import load_model
from rankfold.passes.sites import find_sites
from rankfold.passes.taps import TapSetting, tap
from rankfold.pipeline import Options, compress

TEXT = "g (float[n,32] x) => (float[n,16] y) { [fc] h = MatMul(x, w) [act] r = Relu(h) [add] y = Add(r, b) }"
WEIGHTS = {"w": gaussian(32, 16), "b": gaussian(16)}


def sound(header: str = '<ir_version: 8, opset_import: ["" : 17]>') -> ModelProto:
    return build(TEXT, WEIGHTS, header=header)


def refused(model: ModelProto, folder: Path, told: str) -> None:
    with pytest.raises(ModelError, match=re.escape(told)) as found:
        opened(model, folder)
    assert str(found.value).startswith(f"{folder / 'model.onnx'}: ")
    assert "\n" not in str(found.value)


def test_two_initializers_of_one_name(tmp_path: Path) -> None:
    model = sound()
    model.graph.initializer.append(numpy_helper.from_array(gaussian(16), "b"))
    refused(model, tmp_path, "initializer 'b' stands 2 times; names must be unique")


def test_an_undefined_input(tmp_path: Path) -> None:
    model = sound()
    model.graph.node[1].input[0] = "nowhere"
    refused(model, tmp_path, "node 'act' reads 'nowhere', which nothing makes")


def test_an_undefined_output(tmp_path: Path) -> None:
    model = sound()
    model.graph.output[0].name = "nowhere"
    refused(model, tmp_path, "nothing makes output 'nowhere'")


def test_a_cycle(tmp_path: Path) -> None:
    model = sound()
    model.graph.node[0].input[0] = "r"
    refused(model, tmp_path, "nodes wait for each other in a cycle: 'act' → 'fc' → 'act'; export the model again")


def test_a_node_that_reads_itself(tmp_path: Path) -> None:
    model = sound()
    model.graph.node[1].input[0] = "r"
    refused(model, tmp_path, "nodes wait for each other in a cycle: 'act' → 'act'")


def test_nodes_out_of_order_are_told_as_such(tmp_path: Path) -> None:
    model = sound()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    x = gaussian(4, 32)
    (before,) = run(model, {"x": x})  # onnxruntime does not mind
    refused(model, tmp_path, "node 'add' stands before the one that makes 'r', which it reads: onnxruntime runs such")
    transformers = pytest.importorskip("onnxruntime.transformers.onnx_model")
    transformers.OnnxModel(model).topological_sort()  # what the message names mends it
    np.testing.assert_array_equal(run(opened(model, tmp_path).path, {"x": x})[0], before)


@pytest.mark.parametrize("version", [99, 2**40, 0, -1])
def test_an_opset_that_nobody_knows(version: int, tmp_path: Path) -> None:
    model = sound()
    model.opset_import[0].version = version
    refused(model, tmp_path, f"uses opset {version}, and onnx {onnx.__version__} knows 1 to")


def test_a_domain_that_is_imported_twice(tmp_path: Path) -> None:
    model = sound()
    model.opset_import.add(domain="ai.onnx", version=11)
    refused(model, tmp_path, "imports the operators of domain 'ai.onnx' 2 times")


def test_a_domain_that_is_not_imported(tmp_path: Path) -> None:
    model = sound()
    model.graph.node[1].domain = "com.nobody"
    refused(model, tmp_path, "refused by the ONNX checker: No opset import for domain 'com.nobody'")


def test_an_operator_that_onnxruntime_does_not_know(tmp_path: Path) -> None:
    model = sound()
    model.graph.node[1].domain = "com.nobody"
    model.opset_import.add(domain="com.nobody", version=1)
    path = save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"com\.nobody:Relu.* is not a registered function/op"):
        compress(path, {"x": gaussian(50, 32)}, keep=0.9, options=Options(latency_rounds=0))
    assert [left.name for left in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("version", [5, 6, 7, 8, 9, 10, 17])
def test_the_oldest_opset_is_the_true_one(version: int, tmp_path: Path) -> None:
    path = save(sound(f'<ir_version: 4, opset_import: ["" : {version}]>'), tmp_path / "m.onnx")
    options = Options(latency_rounds=0, row_stride=2)
    if version < OLDEST_MEASURED_OPSET:
        with pytest.raises(
            ModelError, match=f"uses opset {version}, and what rankfold adds to measure a model needs 7"
        ):
            compress(path, {"x": gaussian(200, 32)}, keep=0.9, options=options)
        (skipped, *_) = find_sites(load_model(path)).skipped  # it can be looked at all the same
        assert skipped.reason.startswith(f"opset {version} is too old")
    else:
        assert compress(path, {"x": gaussian(200, 32)}, keep=0.9, options=options).report.changed


def test_names_of_a_tap_are_refused_before_measuring(tmp_path: Path) -> None:
    model = sound()
    model.graph.node[1].output[0] = model.graph.node[2].input[0] = f"{TAP_PREFIX}0/gram"
    loaded = opened(model, tmp_path)
    with pytest.raises(ModelError, match=r"has the name 'rankfold_tap/0/gram'; names that begin with 'rankfold_tap/'"):
        check_measurable(loaded.path, loaded.proto)


def test_the_taps_are_named_as_they_are_refused(tmp_path: Path) -> None:
    model = opened(sound(), tmp_path)
    settings = {request: TapSetting(32, 2, stride=3) for request in find_sites(model).requests}
    added = ModelProto.FromString(tap(model, settings).addition).graph
    names = {name for node in added.node for name in node.output} | {tensor.name for tensor in added.initializer}
    assert names
    assert all(name.startswith(TAP_PREFIX) for name in names)


def elsewhere(name: str) -> TensorProto:
    """Return a tensor that says that its values lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[16], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def branching(tensor: TensorProto) -> ModelProto:
    text = """g (float[n,32] x, bool flag) => (float[n,16] y) {
      [fc] h = MatMul(x, w)
      [if] y = If (flag) <then_branch = t () => (float[n,16] p) { [in] p = Add(h, k) },
                          else_branch = e () => (float[n,16] q) { q = Neg(h) }>
    }"""
    model = build(text, {"w": WEIGHTS["w"]})
    body(model).initializer.append(tensor)
    return model


def body(model: ModelProto) -> GraphProto:
    return next(found.g for found in model.graph.node[1].attribute if found.name == "then_branch")


def test_external_data_in_bodies_and_constants_has_to_be_there(tmp_path: Path) -> None:
    refused(branching(elsewhere("k")), tmp_path, "tensor 'k' lies in 'weights.bin', which is missing")
    model = sound()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], name="const", value=elsewhere("v")))
    refused(model, tmp_path, "tensor 'v' lies in 'weights.bin', which is missing")


def test_an_undefined_name_in_a_body(tmp_path: Path) -> None:
    model = branching(numpy_helper.from_array(gaussian(16), "other"))
    refused(model, tmp_path, "node 'in' reads 'k', which nothing makes")


def test_a_function_that_calls_itself(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[4] x) => (float[4] y) { y = own.twice(x) }
    <domain: "own", opset_import: ["" : 17, "own" : 1]> twice (a) => (b) { c = own.again(a) b = Add(c, a) }
    <domain: "own", opset_import: ["" : 17, "own" : 1]> again (a) => (b) { b = own.twice(a) }"""
    refused(onnx.parser.parse_model(text), tmp_path, "function 'twice' calls itself")


def test_text_that_is_none(tmp_path: Path) -> None:
    content = sound().SerializeToString().replace(b"act", b"a\xff\xfe")
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"a name or text in it is not UTF-8: b'a.xff.xfe'; export"):
        load_model(tmp_path / "m.onnx")
