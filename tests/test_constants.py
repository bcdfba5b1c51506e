"""Constants behind chains of nodes: traced without a value, evaluated as the runtime would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from onnx_examples import build, gaussian, opened, run

from rankfold.passes.constants import ConstantTrace, attribute, evaluate, trace_constant
from rankfold.passes.graph_index import index_graph
from rankfold.passes.model_file import Model

WEIGHT = gaussian(6, 4, scale=1.0)
INTS = {"to_4_6": np.array([4, 6]), "keep_infer": np.array([0, -1]), "to_24": np.array([24]), "bad": np.array([5, 5])}
INTS |= {"ends": np.array([0, -1]), "last": np.array([-1]), "sizes": np.array([4, 2])}

CHAINS = {  # body that ends in `c`, and the steps from the root
    "c = Identity(w)": (),
    "c = Transpose(w)": (("Transpose", (1, 0)),),
    "c = Transpose<perm=[1,0]>(w)": (("Transpose", (1, 0)),),
    "a = Transpose(w) c = Transpose(a)": (),
    "a = Transpose(w) i = Identity(a) c = Transpose<perm=[0,1]>(i)": (("Transpose", (1, 0)),),
    "c = Cast<to=11>(w)": (("Cast", (TensorProto.DOUBLE,)),),
    "c = Cast<to=1>(w)": (),
    "a = Cast<to=10>(w) c = Cast<to=1>(a)": (("Cast", (TensorProto.FLOAT16,)), ("Cast", (TensorProto.FLOAT,))),
    "c = Reshape(w, to_4_6)": (("Reshape", (4, 6)),),
    "c = Reshape(w, keep_infer)": (),
    "s = Constant<value_ints=[2,12]>() c = Reshape(w, s)": (("Reshape", (2, 12)),),
    "s = Constant<value_ints=[-1,8]>() c = Reshape(w, s)": (("Reshape", (3, 8)),),
    "a = Transpose(w) c = Reshape(a, keep_infer)": (("Transpose", (1, 0)),),
    "c = Flatten<axis=0>(w)": (("Reshape", (1, 24)),),
    "c = Flatten<axis=-1>(w)": (),
    "c = Unsqueeze(w, ends)": (("Reshape", (1, 6, 4, 1)),),
    "a = Unsqueeze(w, ends) c = Squeeze(a)": (("Reshape", (1, 6, 4, 1)), ("Reshape", (6, 4))),
    "a = Unsqueeze(w, ends) c = Squeeze(a, last)": (("Reshape", (1, 6, 4, 1)), ("Reshape", (1, 6, 4))),
    "c, d = Split<axis=1>(w)": (("Split", (1, 0, 2)),),
    "d, c = Split<axis=-2>(w, sizes)": (("Split", (0, 4, 6)),),
    "d, e, c = Split<axis=0>(w)": (("Split", (0, 4, 6)),),
    "a = Transpose(w) d, c = Split(a)": (("Transpose", (1, 0)), ("Split", (0, 2, 4))),
    "a = Reshape(w, to_24) b = Reshape(a, to_4_6) c = Transpose(b)": (
        ("Reshape", (24,)),
        ("Reshape", (4, 6)),
        ("Transpose", (1, 0)),
    ),
}


def made(body: str, folder: Path) -> Model:
    text = f"g (float[1] x) => (float[1] y) {{ {body} y = Identity(x) }}"
    return opened(build(text, {"w": WEIGHT, **INTS}), folder)


def traced(model: Model, name: str = "c") -> ConstantTrace | None:
    return trace_constant(index_graph(model.proto), name)


@pytest.mark.parametrize("body", CHAINS)
def test_a_chain_is_traced_and_evaluates_as_the_runtime_does(body: str, tmp_path: Path) -> None:
    model = made(body, tmp_path)
    found = traced(model)
    assert found is not None
    assert (found.root, found.steps) == ("w", CHAINS[body])
    value = evaluate(model, index_graph(model.proto), found)
    (expected,) = run(model.path, {"x": np.zeros(1, np.float32)}, "c")
    np.testing.assert_array_equal(value, expected)
    assert value.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.onnx_type == {"float32": 1, "float64": 11}[expected.dtype.name]


CONSTANTS = [
    "c = Constant<value = float[2,3] {1,2,3,4,5,6}>()",
    "c = Constant<value_float = 2.5>()",
    "c = Constant<value_floats = [1.0, 2.0]>()",
    "c = Constant<value_int = 7>()",
    "c = Constant<value_ints = [1, 2, 3]>()",
]


@pytest.mark.parametrize("body", CONSTANTS)
def test_a_constant_node_is_its_own_root(body: str, tmp_path: Path) -> None:
    model = made(body, tmp_path)
    found = traced(model)
    assert found is not None
    assert (found.root, found.steps) == ("c", ())
    (expected,) = run(model.path, {"x": np.zeros(1, np.float32)}, "c")
    value = evaluate(model, index_graph(model.proto), found)
    np.testing.assert_array_equal(value, expected)
    assert (value.dtype, found.shape) == (expected.dtype, expected.shape)


UNKNOWN = [
    "c = Identity(x)",
    "c = Neg(w)",  # an operator that is not looked through
    "s = Shape(x) c = Reshape(w, s)",  # a shape that is computed
    'c = Constant<value_string = "text">()',
]


@pytest.mark.parametrize("body", UNKNOWN)
def test_what_is_not_known_before_the_run_is_no_constant(body: str) -> None:
    model = build(f"g (float[1] x) => (float[1] y) {{ {body} y = Identity(x) }}", {"w": WEIGHT, **INTS})
    assert trace_constant(index_graph(model), "c") is None


def test_a_reshape_to_another_size_is_no_constant() -> None:
    model = build("g (float[1] x) => (float[1] y) { c = Reshape(w, bad) y = Identity(x) }", {"w": WEIGHT, **INTS})
    assert trace_constant(index_graph(model), "c") is None


def test_an_input_and_an_unknown_name_are_no_constants(tmp_path: Path) -> None:
    model = made("", tmp_path)
    assert traced(model, "x") is None
    assert traced(model, "nowhere") is None


def test_allowzero_takes_a_zero_as_an_extent() -> None:
    text = "g (float[1] x) => (float[1] y) { c = Reshape<allowzero=1>(w, keep) y = Identity(x) }"
    model = build(text, {"w": WEIGHT, "keep": np.array([0, 4])})
    assert trace_constant(index_graph(model), "c") is None  # 0 × 4 elements are not 24
    empty = build(text, {"w": np.zeros((0, 4), np.float32), "keep": np.array([0, 4])})
    found = trace_constant(index_graph(empty), "c")
    assert found is not None
    assert found.shape == (0, 4)


def test_an_overridable_initializer_is_no_constant() -> None:
    model = build("g (float[1] x, float[6,4] w) => (float[1] y) { c = Transpose(w) y = Identity(x) }", {"w": WEIGHT})
    assert trace_constant(index_graph(model), "c") is None


def test_attribute_has_a_default() -> None:
    node = build("g (float[1] x) => (float[1] y) { y = LeakyRelu<alpha=0.5>(x) }", {}).graph.node[0]
    assert attribute(node, "alpha", 1.0) == 0.5
    assert attribute(node, "beta", 1.0) == 1.0
