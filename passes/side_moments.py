"""Moments of a site's rows in one form, whichever side of the weight they were collected on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.model_file import Model
from rankfold.passes.site import Site, Use, read_bias
from rankfold.values import FloatArray, Moments, Request, read_only


@dataclass(frozen=True)
class SideMoments:
    """Moments of `x` (of_input) or of `z = x W`, over the rows of all uses of one weight.

    Attributes:
        of_input: Whether the rows are `x`.
        count: Rows of all uses together.
        shares: Each use's share of the rows.
        means: Each use's mean row, (d,).
        second: E[row rowᵀ] over all, (d, d).
    """

    of_input: bool
    count: float
    shares: tuple[float, ...]
    means: tuple[FloatArray, ...]
    second: FloatArray

    def __post_init__(self) -> None:
        for array in (*self.means, self.second):
            read_only(array)

    @property
    def covariance(self) -> FloatArray:
        """Return the population covariance about each use's own mean, (d, d)."""
        pairs = zip(self.shares, self.means, strict=True)
        return self.second - sum((share * np.outer(mean, mean) for share, mean in pairs), np.zeros_like(self.second))

    def product_means(self, weight: FloatArray) -> tuple[FloatArray, ...]:
        """Return E[x W] of each use, (out,)."""
        return tuple(mean @ weight if self.of_input else mean.copy() for mean in self.means)


def about(moments: SideMoments, points: tuple[FloatArray, ...]) -> FloatArray:
    """Return E[(row - point)(row - point)ᵀ], each use about its own point, (d, d)."""
    away = [mean - point for mean, point in zip(moments.means, points, strict=True)]
    pairs = zip(moments.shares, away, strict=True)
    return moments.covariance + sum((share * np.outer(a, a) for share, a in pairs), np.zeros_like(moments.second))


def side_moments(
    model: Model, index: GraphIndex, site: Site, collected: Mapping[Request, Moments], *, block: int = 0
) -> SideMoments:
    """Return a site's moments, or one block's of a stack; an output's lose bias and the Gemm's alpha on the way.

    With `y = s z + b`: `E[z zᵀ] = (E[y yᵀ] - b E[y]ᵀ - E[y] bᵀ + b bᵀ) / s²`. What cancels there leaves rounding of
    the size of `E[y yᵀ]`.
    """
    found = [collected[request] for request in site.block_requests(block)]
    count = sum(moments.count for moments in found)
    shares = tuple(moments.count / count for moments in found)
    if site.side == "input":
        parts = [(moments.mean, moments.second) for moments in found]
    else:
        parts = [
            _without_bias(moments, use, read_bias(model, index, site, use))
            for moments, use in zip(found, site.uses, strict=True)
        ]
    second = sum((share * part[1] for share, part in zip(shares, parts, strict=True)), np.zeros_like(parts[0][1]))
    return SideMoments(site.side == "input", count, shares, tuple(part[0] for part in parts), second)


def _without_bias(moments: Moments, use: Use, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
    mean, crossed = moments.mean, np.outer(bias, moments.mean)
    second = moments.second - crossed - crossed.T + np.outer(bias, bias)
    return (mean - bias) / use.scale, second / use.scale**2
