"""Pivots: features of a site's output (or input) on which all its others depend, so that a fold stores less.

`down @ up` stays what it is with any invertible (rank, rank) matrix between the two. Chosen so that `rank` of the
output's features come out of `down` as they are, that block of `up` is the identity and is not stored:
`rank · (in + out - rank)` numbers hold what took `rank · (in + out)` (pivoting factorisation: Zhao, Zhang and
Cannistraci 2025, arXiv 2501.19090). The input's features serve as well: then the block lies in `down`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from scipy import linalg

from rankfold.passes.constants import attribute
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.site import Side, Site
from rankfold.values import FloatArray

OLDEST_OPSET = 11  # before it Concat, Split and Gather take no axis counted from the end
_OPERATORS = frozenset({"MatMul", "Gemm", "Conv"})
_TYPES = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})  # the other features' factors may be too large for less
LARGEST_GROWTH = 1e-4 * 2**24
"""What the first or the last features may amplify rounding by before others are sought: float32's, half a step of
2^-23, may grow to 1e-4 of the output. On the activations of two ViTs the error was at most 2.2 · 2^-24 · growth, and
mostly a third of that, for growth falls on few directions; folds lose 1e-2 and more."""


@dataclass(frozen=True)
class Pivots:
    """The features of one side that carry its others.

    Attributes:
        side: Whose features they are.
        chosen: Their places, rising, (rank,).
        others: The places of the others, rising.
        growth: ‖[I; D]‖₂ of the factor that gives all features from the pivots, at least 1: what a rounding of a
            pivot is amplified by on its way to the output.
    """

    side: Side
    chosen: NDArray[np.int64]
    others: NDArray[np.int64]
    growth: float

    @property
    def place(self) -> Literal["first", "last", "among"]:
        """Return where they lie; only pivots among the others take an index in the graph."""
        rank, features = len(self.chosen), len(self.chosen) + len(self.others)
        if self.chosen[-1] == rank - 1:
            return "first"
        return "last" if self.chosen[0] == features - rank else "among"

    @property
    def order(self) -> NDArray[np.int64]:
        """Return where each feature stands in pivots followed by others, (features,)."""
        return np.argsort(np.concatenate([self.chosen, self.others]))


def pivot_sides(index: GraphIndex, site: Site, *, opset: int) -> tuple[Side, ...]:
    """Return the sides whose features may be a site's pivots, the narrower first: less is copied there.

    Where both are as wide it is the input, whose Split and Add take less time than a Concat.

    Left out are stacks, weights on the left, the runtime's fused products, and types narrower than float32. A Gemm
    that transposes its activation has its input's features on the rows, where no Split serves the product; one whose
    C is no constant per feature cannot part it among the output's.
    """
    nodes = [index.nodes[use.node] for use in site.uses]
    plain = all(node.op_type in _OPERATORS for node in nodes) and not any(use.weight_operand == 0 for use in site.uses)
    stored = site.weight.stored_type == site.weight.onnx_type and site.weight.onnx_type in _TYPES
    if opset < OLDEST_OPSET or site.stack or not plain or not stored:
        return ()
    output = not any(use.centred == "never" for use in site.uses)
    turned = any(attribute(node, "transA", 0) for node in nodes)
    sides: tuple[Side, ...] = ("output",) if output else ()
    if site.kernel is not None or turned:
        return sides
    return (*sides, "input") if site.out_features < site.in_features else ("input", *sides)


def choose_pivots(down: FloatArray, up: FloatArray, sides: Sequence[Side]) -> Pivots:
    """Return the first or the last features of a side as pivots, or those of a pivoted QR where all amplify too much.

    The first and the last need no index in the graph; a Gather along the features takes longer than a whole product.
    Of a self-supervised ViT-S, where query and key have heads of low rank, both ends of the narrower side amplified
    too much at 19 of 288 ranks, and an end of the other side served at all of these.

    Args:
        down: What a pair's first factor is, (in, rank) float64.
        up: Its second factor's transpose, (out, rank).
        sides: Whose features to choose from, the preferred first; at least one.
    """
    for side in sides:
        carriers = orthonormal(up if side == "output" else down)
        features, rank = carriers.shape
        ends = (np.arange(rank), np.arange(features - rank, features))
        growth, end = min((_growth(carriers[chosen]), end) for end, chosen in enumerate(ends))
        if growth <= LARGEST_GROWTH:
            return _pivots(side, ends[end], features, growth)
    carriers = orthonormal(up if sides[0] == "output" else down)
    features, rank = carriers.shape
    _, order = linalg.qr(carriers.T, mode="r", pivoting=True)
    chosen = np.sort(order[:rank])
    return _pivots(sides[0], chosen, features, _growth(carriers[chosen]))


def orthonormal(matrix: FloatArray) -> FloatArray:
    """Return orthonormal columns that span those of a matrix; where these are dependent, more than that."""
    return np.asarray(linalg.qr(matrix, mode="economic")[0])


def _pivots(side: Side, chosen: NDArray[np.int64], features: int, growth: float) -> Pivots:
    chosen = chosen.astype(np.int64)
    return Pivots(side, chosen, np.setdiff1d(np.arange(features, dtype=np.int64), chosen), growth)


def _growth(block: FloatArray) -> float:
    """Return ‖block⁻¹‖₂; of orthonormal columns, the block of the pivots tells ‖[I; D]‖₂."""
    smallest = float(linalg.svdvals(block)[-1])
    return 1 / smallest if smallest > 0 else np.inf
