"""The executor beside onnxruntime, on whole networks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from benchmarks.conformance.exported import export
from benchmarks.conformance.networks import NETWORKS
from executor_examples import disagreement, run_in_torch
from onnx_examples import build as model_of
from onnx_examples import gaussian, run

from rankfold.errors import ModelError
from rankfold.models import demo
from rankfold.training.operators import OPERATORS

IMAGES = 16
WITH_BODIES_OR_CELLS = {"LSTM": "LSTM", "GRU": "GRU", "branches, scripted": "If", "loop, scripted": "Loop"}
# The newer exporter takes seconds for each, and test_training_gradients.py has two of it; this one only it exports.
BY_DYNAMO = ("TransformerEncoderLayer",)
BY_TORCHSCRIPT = tuple(name for name, network in NETWORKS.items() if "torchscript" in network.exporters)


def images() -> np.ndarray:
    with np.load(demo.test_data()) as archive:
        return archive["image"][:IMAGES]


@pytest.mark.parametrize("path", [demo.embedded_model(), demo.embedded_resnet()], ids=["vit", "resnet"])
def test_shipped_networks_agree(path: Path) -> None:
    feed = {"image": images()}
    assert disagreement(run_in_torch(onnx.load(path), feed), run(path, feed)) is None


@pytest.mark.parametrize("path", [demo.embedded_model(), demo.embedded_resnet()], ids=["vit", "resnet"])
def test_what_the_runtime_makes_of_them_agrees(path: Path, tmp_path: Path) -> None:
    """Save the graph as optimised on any CPU, and take the runtime's own operators that it holds."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that the file is for this machine
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "optimised.onnx")
    feed = {"image": images()}
    found = {node.op_type for node in model.graph.node if node.domain}
    if {name for domain, name in OPERATORS if domain} >= found:
        assert disagreement(run_in_torch(model, feed), run(path, feed)) is None
    else:
        with pytest.raises(ModelError, match=r"operator com\.microsoft\."):
            run_in_torch(model, feed)


@pytest.mark.filterwarnings("ignore")  # the exporters warn of themselves
@pytest.mark.parametrize(
    ("name", "exporter"),
    [*((name, "torchscript") for name in BY_TORCHSCRIPT), *((name, "dynamo") for name in BY_DYNAMO)],
)
def test_exported_networks_agree_or_are_refused(name: str, exporter: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    feed = export(NETWORKS[name], exporter, path)[0]
    if name in WITH_BODIES_OR_CELLS:
        with pytest.raises(ModelError, match=f"operator {WITH_BODIES_OR_CELLS[name]} "):
            run_in_torch(onnx.load(path), feed)
    else:
        assert disagreement(run_in_torch(onnx.load(path), feed), run(path, feed)) is None


HEADER = '<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>'
# Of what onnx has no cases for, or none with these attributes.
TEXTS = {
    "global norm": "y = GlobalLpPool<p=3>(x)",
    "uneven pads": "y = Conv<pads=[1, 0, 2, 3]>(x, k)",
    "same, strides": 'y = Conv<auto_pad="SAME_UPPER", strides=[2, 3]>(x, k)',
    "same lower, dilations": 'y = Conv<auto_pad="SAME_LOWER", strides=[2, 1]>(x, k)',
    "transposed, uneven pads": "y = ConvTranspose<pads=[0, 1, 2, 1], strides=[2, 2], output_padding=[1, 0]>(x, k)",
    "transposed, same": 'y = ConvTranspose<auto_pad="SAME_UPPER", strides=[2, 1]>(x, k)',
    "pool, uneven and up": "y = MaxPool<kernel_shape=[3, 2], pads=[1, 0, 0, 1], strides=[2, 2], ceil_mode=1>(x)",
    "average, up": "y = AveragePool<kernel_shape=[3, 2], pads=[1, 0, 0, 1], strides=[2, 2], ceil_mode=1>(x)",
    "pool, valid and up": 'y = MaxPool<kernel_shape=[2, 3], auto_pad="VALID", strides=[2, 2], ceil_mode=1>(x)',
    "pool, same, dilated": 'y = MaxPool<kernel_shape=[3, 2], auto_pad="SAME_UPPER", dilations=[2, 1]>(x)',
    "pool, same, dilated and up": 'y = MaxPool<kernel_shape=[3, 2], auto_pad="SAME_LOWER", strides=[3, 2],'
    " dilations=[2, 1], ceil_mode=1>(x)",
    "one of an axis": "y = Gather<axis=2>(x, last)",
    "some of an axis": "y = Gather<axis=3>(x, some)",
    "attributes of reductions": "z = ReduceMean<axes=[1, -1], keepdims=0>(x) w = ReduceMax<axes=[0]>(z) y = Neg(w)",
    "reductions of integers": "i = Cast<to=6>(r) m = ReduceMean<axes=[1]>(i) l = ReduceL2<axes=[2]>(i) y = Add(m, l)",
    "a range of nothing": "s = Shape(r) o = Constant<value_int=1>() t = Gather(s, o) n = Range(t, o, o) y = Shape(n)",
    "a squeeze of no axis in particular": "s = Slice(x, first, first1, first) y = Squeeze(s, none)",
    "where a lone number is not zero": "m = ReduceMax<keepdims=0>(x) y = NonZero(m)",
    "depth of an empty batch": "s = Slice(x, first, first, first) y = DepthToSpace<blocksize=2>(s)",
    "a scale with all axes": "y = LayerNormalization(r, wide, scale)",
    "a scale for each sample": "y, m = LayerNormalization(r, each, scale)",
    "a mask that is longer than the scores": "s = Slice(r, first, first1, first) u = Unsqueeze(s, first)"
    " v = Transpose<perm=[0, 1, 3, 2]>(u) p = MatMul(u, v) q = Add(p, long) w = Softmax(q) y = MatMul(w, u)",
    "a number that adds an axis": "a = Div(r, root) e = Erf(a) f = Add(e, ones) g = Mul(r, f) y = Mul(g, half)",
    "split in equal parts": "l, h = Split<axis=1>(x) y = Sub(l, h)",
    "fused product": "l, h = Split<axis=1>(x) y = com.microsoft.FusedMatMul<alpha=0.3, transA=1>(l, h)",
    "skip": "y = com.microsoft.SkipLayerNormalization<epsilon=0.001>(r, r2, scale, shift, b)",
    "skip, its sum": "z, , , y = com.microsoft.SkipLayerNormalization(r, r2, scale)",
    "gelus": "a = com.microsoft.Gelu(r) c = com.microsoft.BiasGelu(a, b) d = com.microsoft.FastGelu(c, b)"
    " y = com.microsoft.QuickGelu<alpha=1.5>(d)",
}


@pytest.mark.parametrize("name", list(TEXTS))
def test_operators_agree(name: str) -> None:
    text = f"g (float[2,4,9,8] x, float[2,5,6] r) => (y) {{ {TEXTS[name]} }}"
    vectors = {part: gaussian(6, seed=at, scale=1.0) for at, part in enumerate(("scale", "shift", "b"))}
    places = {"last": np.array(-1), "some": np.array([[0, -2], [3, 3]]), "none": np.arange(0)}
    places |= {"first": np.array([0]), "first1": np.array([1])}
    numbers = {"root": np.float32(np.sqrt(2)), "half": np.float32(0.5), "ones": np.ones((1, 1, 1, 1), np.float32)}
    wide = {"wide": gaussian(1, 1, 6), "each": gaussian(2, 1, 1), "long": gaussian(3, 1, 5, 5, scale=1.0)}
    known = {"k": gaussian(4, 4, 3, 2), "r2": gaussian(2, 5, 6, seed=5, scale=1.0), **vectors, **places}
    known |= {**numbers, **wide}
    weights = {part: value for part, value in known.items() if re.search(rf"\b{part}\b", TEXTS[name])}
    model = model_of(text.replace("(y)", "(float y)"), weights, header=HEADER)
    model.graph.output[0].ClearField("type")
    feed = {"x": gaussian(2, 4, 9, 8, scale=1.0), "r": gaussian(2, 5, 6, seed=4, scale=1.0)}
    assert disagreement(run_in_torch(model, feed), run(model, feed, "y")) is None


# Of the middle between two pixels, and of a length that just comes out, float32 decides on which side they are.
SCALES = [(7, 2 / 3), (9, 1 / 3), (10, 0.7), (12, 1 / 7), (33, 0.3), (7, 2.3)]


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor"])
@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel", "align_corners"])
def test_the_nearest_pixel_is_the_same(coordinates: str, rounding: str) -> None:
    attributes = f'mode="nearest", nearest_mode="{rounding}", coordinate_transformation_mode="{coordinates}"'
    for length, scale in SCALES:
        text = f"g (float[{length}] x) => (float[M] y) {{ y = Resize<{attributes}>(x, , scales) }}"
        model = model_of(text, {"scales": np.array([scale], np.float32)}, header=HEADER)
        feed = {"x": np.arange(length, dtype=np.float32)}
        assert disagreement(run_in_torch(model, feed), run(model, feed)) is None, (length, scale)


def test_integers_are_resized_between_pixels() -> None:
    text = 'g (uint8[2,8] x) => (uint8[M,N] y) { y = Resize<mode="linear">(x, , scales) }'
    model = model_of(text, {"scales": np.array([1, 2], np.float32)}, header=HEADER)
    feed = {"x": np.arange(0, 160, 10, dtype=np.uint8).reshape(2, 8) // 4 * 4}
    assert disagreement(run_in_torch(model, feed), run(model, feed)) is None
