"""What the executor refuses, by name: operators, opsets, types, names that are not there, feeds that do not fit."""

from __future__ import annotations

import onnx
import onnx.inliner
import pytest
import torch
from executor_examples import HEADS, mlp
from onnx import helper, parser
from onnx_examples import build as model_of

from rankfold.errors import CalibrationDataError, ModelError
from rankfold.training.executor import build

REFUSALS = [
    ("y = Sin(x) z = Nonsense(x) w = Nonsense(z)", r"operator Nonsense \(2 nodes, the first 'z'\)"),
    ("y = Unique(x) z = Compress(x, x)", r"operator Unique \(node 'y'\), operator Compress"),
    ("y = com.other.Relu(x)", r"operator com.other.Relu"),
    ('y = Resize<mode="sharp">(x)', r"Resize with attribute mode='sharp'"),
    ("y = Relu<slope=0.5>(x)", r"Relu with attribute slope"),
    ("y = Concat(x, x)", r"Concat with attribute axis is missing"),
    ("y = Cast<to=17>(x)", r"Cast with element type FLOAT8E4M3FN"),
    ("y, z = Relu(x)", r"Relu with output 2"),
    ("y = Add(x, late) late = Neg(x)", r"what makes 'late' before it is read"),
    ("z = Neg(x)", r"what makes output 'y'"),
    ('y = Constant<value_string="a">()', r"Constant with attribute value_string"),
]


@pytest.mark.parametrize(("nodes", "message"), REFUSALS)
def test_what_is_missing_is_named(nodes: str, message: str) -> None:
    header = '<ir_version: 9, opset_import: ["" : 18, "com.other" : 1]>'
    with pytest.raises(ModelError, match=message):
        build(model_of(f"g (float[N,4] x) => (float[N,4] y) {{ {nodes} }}", {}, header=header))


def test_all_that_is_missing_is_named_at_once() -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { a = Unique(x) b = Relu<slope=0.5>(x) y = Det(x) }"
    with pytest.raises(ModelError, match=r"Unique.*Relu with attribute slope.*Det"):
        build(model_of(text, {}))


@pytest.mark.parametrize("opset", [12, 26])
def test_opsets_out_of_range_are_refused(opset: int) -> None:
    header = f'<ir_version: 9, opset_import: ["" : {opset}]>'
    with pytest.raises(ModelError, match=f"opset {opset} .known are 13 to 25"):
        build(model_of("g (float[N] x) => (float[N] y) { y = Relu(x) }", {}, header=header))


def test_bodies_and_functions_are_refused_by_name() -> None:
    body = parser.parse_graph("b () => (float[N] z) { z = Neg(x) }")
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    values = [helper.make_tensor_value_info("x", 1, ["N"]), helper.make_tensor_value_info("c", 9, [])]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", 1, ["N"])])
    with pytest.raises(ModelError, match="operator If"):
        build(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    called = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17, "own" : 1]> g (float[N] x) => (float[N] y) { y = own.f(x) }'
        '<domain: "own", opset_import: ["" : 17]> f (x) => (y) { y = Neg(x) }'
    )
    with pytest.raises(ModelError, match=r"operator own\.f .*onnx\.inliner"):
        build(called)
    assert build(onnx.inliner.inline_local_functions(called))({"x": torch.ones(2)})["y"].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("type_name", "message"), [("string[N]", "STRING"), ("seq(float[N])", "sequence_type"), ("uint32[N]", "UINT32")]
)
def test_inputs_that_torch_does_not_compute_with_are_refused(type_name: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"input 'x' as .*{message}"):
        build(model_of(f"g ({type_name} x) => ({type_name} y) {{ y = Identity(x) }}", {}))


def test_names_that_are_not_there_are_named() -> None:
    with pytest.raises(ModelError, match=r"\['w9'\] are to be trained"):
        build(mlp(), trainable=["w1", "w9"])
    with pytest.raises(ModelError, match=r"\['nothing'\] are asked for"):
        build(mlp(), also=["h", "nothing"])
    with pytest.raises(ModelError, match=r"\['split'\] are to be trained and hold no floating-point"):
        build(model_of(HEADS, {}), trainable=["split"])
    with pytest.raises(CalibrationDataError, match=r"the feed has \['z'\] and the graph's inputs are \['x'\]"):
        build(mlp())({"z": torch.ones(1, 8)})


def test_an_error_while_computing_says_at_which_node() -> None:
    with pytest.raises(RuntimeError) as caught:
        build(mlp())({"x": torch.ones(1, 9)})
    assert caught.value.__notes__ == ["while computing MatMul 'h'"]
