"""What the tests of healing share: a small network, rows it runs on, and the network folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx_examples import build, folded, gaussian, opened, save

from rankfold.options import Options
from rankfold.values import Feed

QUICK = Options(batch_size=32)

BODY = """
g (float[N,32] x) => (float[N,8] y) {
  [fc1] h = MatMul(x, w1)
  [b1] hb = Add(h, b1)
  [norm] n = LayerNormalization(hb, scale, shift)
  [act] a = Relu(n)
  [fc2] m = MatMul(a, w2)
  [b2] mb = Add(m, b2)
  [act2] c = Relu(mb)
  [fc3] y = Gemm(c, w3, b3)
}
"""


def network(path: Path, *, half: bool = False) -> Path:
    """Write three layers with a norm between them."""
    weights = {
        "w1": gaussian(32, 48, seed=1),
        "b1": gaussian(48, seed=2, scale=0.3),
        "scale": 1 + gaussian(48, seed=3, scale=0.1),
        "shift": gaussian(48, seed=4, scale=0.1),
        "w2": gaussian(48, 48, seed=5),
        "b2": gaussian(48, seed=6, scale=0.3),
        "w3": gaussian(48, 8, seed=7),
        "b3": gaussian(8, seed=8, scale=0.3),
    }
    body = BODY.replace("float[", "float16[") if half else BODY
    kept = {name: array.astype(np.float16) if half else array for name, array in weights.items()}
    return save(build(body, kept), path)


def with_answers(path: Path) -> Path:
    """Give a network a second output, in its place: the number of the best class."""
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("best", onnx.TensorProto.INT64, ["N"]))
    return save(model, path)


def rows(count: int = 600, *, half: bool = False, seed: int = 0) -> Feed:
    """Return rows of ten directions, always the same ones, and a little noise."""
    found = gaussian(count, 10, seed=seed + 20, scale=1.0) @ gaussian(10, 32, seed=1000)
    found = found + gaussian(count, 32, seed=seed + 21, scale=0.1)
    return {"x": found.astype(np.float16) if half else found}


def folded_network(folder: Path, rank: int = 8, *, pivoted: bool = False, half: bool = False) -> tuple[Path, Path]:
    """Return a network and what a fold at one rank makes of it."""
    path = network(folder / "base.onnx", half=half)
    model = opened(onnx.load(path), folder, "base.onnx")
    return path, folded(model, rows(300, half=half, seed=50), rank, pivoted=pivoted)


def initializers(path: Path) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}


def spoilt(path: Path, name: str, change: np.ndarray, target: Path) -> Path:
    """Write a model with something added to one of its initializers."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((array + change).astype(array.dtype), name))
    return save(model, target)
