"""What the tests of the executor share: two models, running one in torch, and how close is close enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from onnx_examples import build as model_of
from onnx_examples import gaussian

from rankfold.training.executor import build
from rankfold.training.tensors import from_array
from rankfold.values import Feed

MLP = """
g (float[N,8] x) => (float[N,4] y) {
  h = MatMul(x, w1)
  a = Relu(h)
  y = Gemm(a, w2, b)
}
"""
# Splits the heads of (batch, tokens, 12) by shape arithmetic, as exporters write it: all lengths are dynamic.
HEADS = """
g (float[B,T,12] x) => (float[B,3,T,4] y) <int64 zero = {0}, int64 one = {1}, int64[1] first = {0},
    int64[2] split = {3, 4}, float half = {0.5}> {
  s = Shape(x)
  batch = Gather(s, zero)
  tokens = Gather(s, one)
  b1 = Unsqueeze(batch, first)
  t1 = Unsqueeze(tokens, first)
  wanted = Concat<axis=0>(b1, t1, split)
  parts = Reshape(x, wanted)
  turned = Transpose<perm=[0, 2, 1, 3]>(parts)
  places = Range(zero, tokens, one)
  share = Cast<to=1>(places)
  halved = Mul(share, half)
  column = Unsqueeze(halved, one)
  y = Add(turned, column)
}
"""

# Of each number, and of the largest beside it, which takes part in the same sums. Sums of a few hundred terms in
# another order, and functions such as erf by another approximation, differ by some dozen roundings of 6e-8 in float32
# (float64 is held to the same: some graphs narrow it). A rounding of float16 is 5e-4 and of bfloat16 4e-3; libraries
# round at different places between operators, which is one or two of them.
RELATIVE = {"float32": 1e-4, "float64": 1e-4, "float16": 2e-3, "bfloat16": 1.6e-2}
OF_LARGEST = {"float32": 1e-6, "float64": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}


def mlp() -> ModelProto:
    return model_of(MLP, {"w1": gaussian(8, 16), "w2": gaussian(16, 4, seed=1), "b": gaussian(4, seed=2)})


def run_in_torch(model: ModelProto, feed: Feed) -> list[NDArray[np.generic]]:
    """Return a model's outputs as the executor computes them; bfloat16 widened, since numpy lacks it."""
    made = build(model)({name: from_array(value) for name, value in feed.items()})
    return [as_array(value) for value in made.values()]


def as_array(value: torch.Tensor) -> NDArray[np.generic]:
    plain = value.detach()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def disagreement(found: Sequence[NDArray[np.generic]], expected: Sequence[NDArray[np.generic]]) -> str | None:
    """Return in what outputs differ, None where types, shapes and numbers agree; integers have to be equal."""
    if len(found) != len(expected):
        return f"{len(found)} outputs for {len(expected)}"
    return next((reason for pair in zip(found, expected, strict=True) if (reason := _difference(*pair))), None)


def _difference(found: NDArray[np.generic], expected: NDArray[np.generic]) -> str | None:
    kind = expected.dtype.name
    if kind == "bfloat16":
        expected = expected.astype(np.float32)
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{found.dtype}{list(found.shape)} for {kind}{list(expected.shape)}"
    if kind not in RELATIVE:
        return None if np.array_equal(found, expected) else "other integers"
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    slack = OF_LARGEST[kind] * finite.max(initial=0.0)
    if np.allclose(found, expected, rtol=RELATIVE[kind], atol=slack, equal_nan=True):
        return None
    return f"{np.nanmax(np.abs(found.astype(np.float64) - expected)):.2g} away from numbers up to {finite.max():.2g}"
