"""Hand-written graphs: the ways of writing a linear layer, and what may stand around it, that no exporter gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from benchmarks.conformance.compressing import Subject, check_compress, lowered, random_feeds
from benchmarks.conformance.decorated import STORED, decorated, save_stored
from benchmarks.conformance.outcome import Outcome
from benchmarks.conformance.parts import Job

_HEADER = '<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1, "local" : 1]>'
_X = {"x": (8, 64)}
_MOST_EXPERTS = 4


@dataclass(frozen=True)
class Text:
    """One graph.

    Attributes:
        body: ONNX text: the graph, and local functions behind it.
        weights: Initializer name to shape; lowered to a small rank where it is a matrix or a stack of them.
        shapes: Input name to shape.
        dtypes: Initializers of another type than float32.
        precision: As in Subject.
    """

    body: str
    weights: dict[str, tuple[int, ...]]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: _X)
    dtypes: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    header: str = _HEADER


def _graph(nodes: str, x: str = "N,64", y: str = "N,96", kind: str = "float") -> str:
    return f"g ({kind}[{x}] x) => ({kind}[{y}] y) {{ {nodes} }}"


_W = {"w": (64, 96)}
_V = {"w": (96, 64)}
_3D = {"x": (2, 64, 10)}
_CONV = {"x": (2, 64, 9, 9)}
TEXTS = {
    "MatMul": Text(_graph("y = MatMul(x, w)"), _W),
    "MatMul, Add": Text(_graph("p = MatMul(x, w) y = Add(p, b)"), _W | {"b": (96,)}),
    "MatMul, Add with the bias first": Text(_graph("p = MatMul(x, w) y = Add(b, p)"), _W | {"b": (1, 96)}),
    "weight on the left": Text(_graph("y = MatMul(w, x)", "2,64,10", "2,96,10"), _V, _3D),
    "weight on the left, Add": Text(
        _graph("p = MatMul(w, x) y = Add(p, b)", "2,64,10", "2,96,10"), _V | {"b": (96, 1)}, _3D
    ),
    "Gemm on the left": Text(_graph("y = Gemm<transB=1>(w, x)", "N,64", "96,N"), _V),
    "Gemm, alpha and beta": Text(
        _graph("y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b)"), {"w": (96, 64), "b": (96,)}
    ),
    "Gemm without C": Text(_graph("y = Gemm(x, w)"), _W),
    "behind Transpose": Text(_graph("t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)"), _V),
    "behind Identity": Text(_graph("t = Identity(w) y = MatMul(x, t)"), _W),
    "behind Cast": Text(
        _graph("t = Cast<to=1>(w) y = MatMul(x, t)"), _W, dtypes={"w": np.float16}, precision="float16"
    ),
    "bfloat16 behind Cast": Text(
        _graph("t = Cast<to=1>(w) y = MatMul(x, t)"), _W, dtypes={"w": ml_dtypes.bfloat16}, precision="bfloat16"
    ),
    "behind Reshape": Text(
        _graph("s = Constant<value_ints=[64, 96]>() t = Reshape(w, s) y = MatMul(x, t)"), {"w": (64, 4, 24)}
    ),
    "Split chain": Text(
        "g (float[N,64] x) => (float[N,64] q, float[N,64] k, float[N,64] v) {"
        " s = Constant<value_ints=[64, 64, 64]>() a, b, c = Split<axis=0>(w, s)"
        " at = Transpose<perm=[1,0]>(a) bt = Transpose<perm=[1,0]>(b) ct = Transpose<perm=[1,0]>(c)"
        " q = MatMul(x, at) k = MatMul(x, bt) v = MatMul(x, ct) }",
        {"w": (192, 64)},
    ),
    "Split of which one part is used elsewhere": Text(
        "g (float[N,64] x) => (float[N,64] q, float[N,64] k) { s = Constant<value_ints=[64, 64]>()"
        " a, b = Split<axis=1>(w, s) q = MatMul(x, a) r = ReduceSum<keepdims=0>(b) k = Mul(x, r) }",
        {"w": (64, 128)},
    ),
    "Squeeze": Text(_graph("a = Constant<value_ints=[0]>() t = Squeeze(w, a) y = MatMul(x, t)"), {"w": (1, 64, 96)}),
    "shared by two": Text(_graph("h = MatMul(x, w) r = Relu(h) y = MatMul(r, w)", "N,64", "N,64"), {"w": (64, 64)}),
    "shared, once through Identity": Text(
        _graph("t = Identity(w) h = MatMul(x, w) r = Relu(h) y = MatMul(r, t)", "N,64", "N,64"), {"w": (64, 64)}
    ),
    "tied embedding": Text(
        "g (int64[N,6] x) => (float[N,6,96] y) { e = Gather(w, x) t = Transpose<perm=[1,0]>(w) y = MatMul(e, t) }",
        _V,
        {"x": (4, 6)},
    ),
    "weight that is an output too": Text(
        "g (float[N,64] x) => (float[N,96] y, float[64,96] t) { t = Identity(w) y = MatMul(x, w) }", _W
    ),
    "weight that a caller may override": Text(
        "g (float[N,64] x, float[64,96] w) => (float[N,96] y) { y = MatMul(x, w) }", _W
    ),
    "two constants": Text(_graph("c = MatMul(w, v) y = MatMul(x, c)"), {"w": (64, 64), "v": (64, 96)}),
    "FusedMatMul": Text(_graph("y = com.microsoft.FusedMatMul<alpha=0.5, transB=1>(x, w)"), _V),
    "FusedMatMul, transA": Text(
        _graph("y = com.microsoft.FusedMatMul<alpha=1.5, transA=1>(x, w)", "2,64,10", "2,10,96"), _W, _3D
    ),
    "FusedGemm": Text(_graph('y = com.microsoft.FusedGemm<activation="Relu", transB=1>(x, w, b)'), _V | {"b": (96,)}),
    "fused attention": Text(
        _graph("y = com.microsoft.Attention<num_heads=4>(x, w, b)", "N,6,64", "N,6,64"),
        {"w": (64, 192), "b": (192,)},
        {"x": (4, 6, 64)},
    ),
    "FusedConv": Text(
        _graph('y = com.microsoft.FusedConv<activation="Relu", pads=[1,1,1,1]>(x, w)', "N,64,9,9", "N,96,9,9"),
        {"w": (96, 64, 3, 3)},
        _CONV,
    ),
    "Conv 1x1": Text(_graph("y = Conv(x, w)", "N,64,9,9", "N,96,9,9"), {"w": (96, 64, 1, 1)}, _CONV),
    "Conv 3x3, strides, pads, dilations, bias": Text(
        _graph("y = Conv<strides=[2,1], pads=[1,0,1,2], dilations=[1,2]>(x, w, b)", "N,64,9,9", "N,96,H,V"),
        {"w": (96, 64, 3, 3), "b": (96,)},
        _CONV,
    ),
    "Conv, auto_pad": Text(
        _graph('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', "N,64,9,9", "N,96,5,5"),
        {"w": (96, 64, 3, 3)},
        _CONV,
    ),
    "Conv, BatchNormalization": Text(
        _graph("p = Conv(x, w) y = BatchNormalization(p, s, b, m, u)", "N,64,9,9", "N,96,7,7"),
        {"w": (96, 64, 3, 3), "s": (96,), "b": (96,), "m": (96,), "u": (96,)},
        _CONV,
    ),
    "Conv 3-D": Text(
        _graph("y = Conv(x, w)", "N,32,4,4,4", "N,48,3,3,3"), {"w": (48, 32, 2, 2, 2)}, {"x": (2, 32, 4, 4, 4)}
    ),
    "Conv behind a Reshape": Text(
        _graph("s = Constant<value_ints=[96,64,1,1]>() t = Reshape(w, s) y = Conv(x, t)", "N,64,9,9", "N,96,9,9"),
        {"w": (96, 64)},
        _CONV,
    ),
    "Conv, group 2": Text(_graph("y = Conv<group=2>(x, w)", "N,64,9,9", "N,96,7,7"), {"w": (96, 32, 3, 3)}, _CONV),
    "ConvTranspose": Text(_graph("y = ConvTranspose(x, w)", "N,64,9,9", "N,96,11,11"), {"w": (64, 96, 3, 3)}, _CONV),
    "experts": Text(_graph("y = MatMul(x, w)", "4,N,64", "4,N,96"), {"w": (4, 64, 96)}, {"x": (4, 12, 64)}),
    "experts, one input for all": Text(_graph("y = MatMul(x, w)", "N,64", "4,N,96"), {"w": (4, 64, 96)}),
    "experts, Add": Text(
        _graph("p = MatMul(x, w) y = Add(p, b)", "4,N,64", "4,N,96"),
        {"w": (4, 64, 96), "b": (4, 1, 96)},
        {"x": (4, 12, 64)},
    ),
    "one matrix with a leading axis of one": Text(
        _graph("y = MatMul(x, w)", "N,6,64", "N,6,96"), {"w": (1, 64, 96)}, {"x": (4, 6, 64)}
    ),
    "Einsum": Text(_graph('y = Einsum<equation="bi,io->bo">(x, w)'), _W),
    "float16": Text(
        _graph("p = MatMul(x, w) y = Add(p, b)", kind="float16"),
        _W | {"b": (96,)},
        dtypes={"x": np.float16, "w": np.float16, "b": np.float16},
        precision="float16",
    ),
    "float64": Text(
        _graph("y = MatMul(x, w)", kind="double"), _W, dtypes={"x": np.float64, "w": np.float64}, precision="float32"
    ),
    "local function": Text(
        _graph("h = local.dense(x, w) y = Relu(h)")
        + '<domain: "local", opset_import: ["" : 17]> dense (a, c) => (d) { d = MatMul(a, c) }',
        _W,
    ),
    "local function that holds its weight": Text(
        _graph("y = local.dense(x)", "N,64", "N,1")
        + '<domain: "local", opset_import: ["" : 17]> dense (a) => (d)'
        + " { n = Constant<value_ints=[64, 1]>() s = ConstantOfShape(n) d = MatMul(a, s) }",
        {},
    ),
    "If, Loop": Text(
        _graph(
            "c = Constant<value_int=1>() t = Cast<to=9>(c) q = MatMul(x, v)"
            " y = If (t) <then_branch = a () => (float[N,96] p) { p = MatMul(q, w) },"
            " else_branch = d () => (float[N,96] p) { r = MatMul(q, w) p = Relu(r) }>"
        ),
        _W | {"v": (64, 64)},
    ),
    "opset 6": Text(_graph("y = MatMul(x, w)"), _W, header='<ir_version: 4, opset_import: ["" : 6]>'),
    "opset 9": Text(_graph("y = Gemm(x, w, b)"), _W | {"b": (96,)}, header='<ir_version: 4, opset_import: ["" : 9]>'),
}


def jobs(part: str) -> Iterator[Job]:  # noqa: ARG001
    """Yield one job per text, and one per way of decorating and storing a model."""
    for name, text in TEXTS.items():
        yield Job(f"texts/{name}", lambda folder, name=name, text=text: [check_text(name, text, folder)])  # type: ignore[misc]
    for stored in STORED:
        yield Job(f"texts/{stored}", lambda folder, stored=stored: [check_stored(stored, folder)])  # type: ignore[misc]


def build(text: Text) -> ModelProto:
    """Return the model of a text, its weights drawn from a seeded generator."""
    model = parser.parse_model(f"{text.header}\n{text.body}")
    random = np.random.default_rng(1)
    for name, shape in text.weights.items():
        values = random.standard_normal(shape).astype(np.float32) / shape[-1] ** 0.5
        if len(shape) > 1:
            stacked = len(shape) == 3 and shape[0] <= _MOST_EXPERTS
            values = np.asarray(lowered(values if stacked else values.reshape(shape[0], -1))).reshape(shape)
        values = np.abs(values) + 0.1 if name == "u" else values  # a variance
        model.graph.initializer.append(numpy_helper.from_array(values.astype(text.dtypes.get(name, np.float32)), name))
    return model


def check_text(name: str, text: Text, folder: Path) -> Outcome:
    """Compress the model of a text."""
    model = build(text)
    path = folder / "model.onnx"
    onnx.save(model, path)
    feeds = random_feeds(text.shapes)
    kind = next(value for value in model.graph.input if value.name == "x").type.tensor_type.elem_type
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    whole = kind == TensorProto.INT64
    feeds = [{"x": (np.abs(feed["x"] * 20) % 90 if whole else feed["x"]).astype(dtype)} for feed in feeds]
    # A sum of rounded weights is not of low rank.
    return check_compress(Subject(f"texts/{name}", path, feeds, not text.dtypes, text.precision))


def check_stored(stored: str, folder: Path) -> Outcome:
    """Compress a model that carries something at every level, its weights stored in one of several ways."""
    path = folder / "model.onnx"
    model = decorated()
    save_stored(model, path, stored)
    return check_compress(Subject(f"texts/{stored}", path, random_feeds(_X)))
