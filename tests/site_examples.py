"""Every way a model writes `y = x @ W + b` that rankfold folds, as small models with the facts a test needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx_examples import Array, build, gaussian, low_rank_rows, opened

from rankfold.passes.model_file import Model
from rankfold.values import FeatureAxis

ROWS = 48  # at least twice the larger side, so that nothing is damped
SIZES = {"wider": (12, 20), "narrower": (20, 12)}  # collected on the input side and on the output side
DTYPES = {"float": np.float32, "double": np.float64, "float16": np.float16}


@dataclass(frozen=True)
class Pattern:
    """One linear node, written in one way.

    Attributes:
        nodes: ONNX text of the nodes; they read `x`, `w` and `b`, and give `y`.
        x_shape: Of the activation, `I` for in_features.
        y_rank: Axes of the output.
        axis, x_axis: Where the features lie in the output and in the activation.
        weight: `IO` or `OI`.
        bias: Shape of `b` with `O` for out_features; None without.
        centred: How the bias can take up the mean.
    """

    nodes: str
    x_shape: tuple[int | str, ...]
    y_rank: int
    axis: FeatureAxis = -1
    x_axis: FeatureAxis = -1
    weight: str = "IO"
    bias: tuple[int | str, ...] | None = None
    centred: str = "add"

    def shaped(self, shape: tuple[int | str, ...], sizes: tuple[int, int]) -> tuple[int, ...]:
        extents = {"I": sizes[0], "O": sizes[1]}
        return tuple(extents[size] if isinstance(size, str) else size for size in shape)

    def weights(self, sizes: tuple[int, int], dtype: str) -> dict[str, Array]:
        kind = DTYPES[dtype]
        found: dict[str, Array] = {"w": gaussian(*self.shaped(tuple(self.weight), sizes), seed=1).astype(kind)}
        if self.bias is not None:
            shape = self.shaped(self.bias, sizes)
            found["b"] = gaussian(math.prod(shape), seed=2, scale=1.0).astype(kind).reshape(shape)
        return found

    def activation(self, sizes: tuple[int, int], dtype: str, *, rank: int | None, seed: int = 5) -> Array:
        """Return an activation whose rows have a mean and span `rank` directions about it."""
        shape = self.shaped(self.x_shape, sizes)
        rows = low_rank_rows(math.prod(shape) // sizes[0], sizes[0], rank or sizes[0], seed=seed, offset=1.0)
        turned = shape if self.x_axis == -1 else (*shape[:-2], shape[-1], shape[-2])
        array = rows.reshape(turned)
        return (array if self.x_axis == -1 else array.swapaxes(-1, -2)).astype(DTYPES[dtype])

    def model(self, folder: Path, *, sizes: tuple[int, int] = (12, 20), dtype: str = "float") -> Model:
        x_axes = ",".join(f"a{place}" if size != "I" else str(sizes[0]) for place, size in enumerate(self.x_shape))
        y_axes = ",".join(f"c{place}" for place in range(self.y_rank))
        text = f"g ({dtype}[{x_axes}] x) => ({dtype}[{y_axes}] y) {{ {self.nodes} }}"
        return opened(build(text, self.weights(sizes, dtype)), folder)


_RIGHT = {1: ("I",), 2: (ROWS, "I"), 3: (6, 8, "I"), 4: (2, 3, 8, "I")}
_LEFT = {2: ("I", ROWS), 3: (4, "I", 12), 4: (2, 2, "I", 12)}


def _matmuls() -> Iterator[tuple[str, Pattern]]:
    for rank, shape in _RIGHT.items():
        yield f"matmul, {rank}-D", Pattern("y = MatMul(x, w)", shape, rank)
        yield (
            f"matmul+add, {rank}-D",
            Pattern("[dense] p = MatMul(x, w) y = Add(p, b)", shape, rank, bias=("O",), centred="bias"),
        )
    biases: tuple[tuple[int | str, ...], ...] = ((), (1,), (1, "O"), (1, 1, "O"))
    for bias in biases:
        name = f"add+matmul, bias {list(bias)}"
        yield name, Pattern("p = MatMul(x, w) y = Add(b, p)", _RIGHT[3], 3, bias=bias, centred="bias")
    for rank, left in _LEFT.items():
        yield f"left matmul, {rank}-D", Pattern("y = MatMul(w, x)", left, rank, -2, -2, "OI")
        yield (
            f"left matmul+add, {rank}-D",
            Pattern("p = MatMul(w, x) y = Add(p, b)", left, rank, -2, -2, "OI", ("O", 1), "bias"),
        )
    yield "left matmul+scalar", Pattern("p = MatMul(w, x) y = Add(p, b)", _LEFT[3], 3, -2, -2, "OI", (), "bias")
    yield "left matmul, 1-D", Pattern("y = MatMul(w, x)", ("I",), 1, weight="OI")
    yield "left matmul+add, 1-D", Pattern("p = MatMul(w, x) y = Add(p, b)", ("I",), 1, -1, -1, "OI", ("O",), "bias")


def _right_gemm(terms: str, attributes: str, *, bias: tuple[int | str, ...] | None, centred: str) -> Pattern:
    flipped, weight_flipped = "transA=1" in attributes, "transB=1" in attributes
    shape: tuple[int | str, ...] = ("I", ROWS) if flipped else (ROWS, "I")
    nodes = f"y = Gemm<{attributes}>({terms})"
    return Pattern(nodes, shape, 2, -1, -2 if flipped else -1, "OI" if weight_flipped else "IO", bias, centred)


def _left_gemm(terms: str, attributes: str, *, bias: tuple[int | str, ...] | None, centred: str) -> Pattern:
    turned, weight_flipped = "transB=1" in attributes, "transA=1" in attributes
    shape: tuple[int | str, ...] = (ROWS, "I") if turned else ("I", ROWS)
    nodes = f"y = Gemm<{attributes}>({terms})"
    return Pattern(nodes, shape, 2, -2, -1 if turned else -2, "IO" if weight_flipped else "OI", bias, centred)


_SCALES = ("alpha=1.0", "alpha=0.5, beta=2.0", "alpha=-3.0, beta=0.25")
_TURNS = ("transA=0", "transA=1", "transB=1", "transA=1, transB=1")


def _gemms() -> Iterator[tuple[str, Pattern]]:
    for turn in _TURNS:
        for scale in _SCALES:
            attributes = f"{turn}, {scale}"
            yield f"gemm {attributes}", _right_gemm("x, w", attributes, bias=None, centred="gemm")
            yield f"gemm {attributes}, C", _right_gemm("x, w, b", attributes, bias=("O",), centred="bias")
            yield f"left gemm {attributes}", _left_gemm("w, x", attributes, bias=None, centred="gemm")
            yield f"left gemm {attributes}, C", _left_gemm("w, x, b", attributes, bias=("O", 1), centred="bias")
    scaled = "alpha=0.5, beta=2.0"
    right: dict[tuple[int | str, ...], str] = {
        (): "bias", (1,): "bias", (1, 1): "bias", (1, "O"): "bias", (ROWS, 1): "never", (ROWS, "O"): "never"
    }  # fmt: skip
    for shape, centred in right.items():
        yield f"gemm C {list(shape)}", _right_gemm("x, w, b", scaled, bias=shape, centred=centred)
    left: dict[tuple[int | str, ...], str] = {
        (): "bias", (1,): "bias", (ROWS,): "never", (1, ROWS): "never", ("O", ROWS): "never"
    }  # fmt: skip
    for shape, centred in left.items():
        yield f"left gemm C {list(shape)}", _left_gemm("w, x, b", scaled, bias=shape, centred=centred)
    dynamic = "c = ReduceMean<keepdims=0>(x) y = Gemm<alpha=0.5, beta=2.0>(x, w, c)"
    yield "gemm, dynamic C", Pattern(dynamic, (ROWS, "I"), 2, centred="never")
    yield "gemm, beta 0", _right_gemm("x, w, b", "alpha=2.0, beta=0.0", bias=("O",), centred="never")


PATTERNS: dict[str, Pattern] = dict([*_matmuls(), *_gemms()])
