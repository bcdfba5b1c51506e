"""Small models for the tests: graphs as ONNX text, weights from a seeded generator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser

Array = NDArray[np.generic]


def build(body: str, weights: Mapping[str, Array], *, header: str = '<ir_version: 9, opset_import: ["" : 17]>') -> ModelProto:
    """Return the model whose graph is `body` in ONNX text, with `weights` added as initializers."""
    model = parser.parse_model(f"{header}\n{body}")
    model.graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in weights.items())
    return model


def save(model: ModelProto, path: Path) -> Path:
    """Write a model the plain way and return where it lies."""
    onnx.save(model, path)
    return path


def gaussian(*shape: int, seed: int = 0, scale: float | None = None) -> NDArray[np.float32]:
    """Return normal float32 numbers; `scale` defaults to 1/√rows, so that layers neither grow nor shrink."""
    factor = shape[0] ** -0.5 if scale is None else scale
    return (np.random.default_rng(seed).standard_normal(shape) * factor).astype(np.float32)


def low_rank_rows(rows: int, features: int, rank: int, *, seed: int = 0, offset: float = 0.0) -> NDArray[np.float32]:
    """Return rows (rows, features) float32 that span `rank` directions, moved by a constant row of size `offset`."""
    random = np.random.default_rng(seed)
    span = random.standard_normal((rows, rank)) @ random.standard_normal((rank, features)) / rank**0.5
    return (span + offset * random.standard_normal(features)).astype(np.float32)


def mlp(path: Path, *, width: int = 64, seed: int = 0) -> Path:
    """Write a two-layer perceptron: `x` (batch, 32) to `y` (batch, 16), MatMul + Add + Relu + Gemm."""
    body = """
    mlp (float[batch,32] x) => (float[batch,16] y) {
      [fc1] h = MatMul(x, w1)
      [bias1] hb = Add(h, b1)
      [act] a = Relu(hb)
      [fc2] y = Gemm(a, w2, b2)
    }
    """
    weights = {
        "w1": gaussian(32, width, seed=seed),
        "b1": gaussian(width, seed=seed + 1, scale=0.3),
        "w2": gaussian(width, 16, seed=seed + 2),
        "b2": gaussian(16, seed=seed + 3, scale=0.3),
    }
    return save(build(body, weights), path)
