"""The shapes in which factors, biases and parts of weights stand in the graph."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rankfold.passes.factors import Factors
from rankfold.passes.site import Site, Use
from rankfold.values import FloatArray

Array = NDArray[np.generic]


def laid_out(site: Site, factors: Factors) -> tuple[Array, Array]:
    """Return `down` and `up` as the site's nodes read them.

    A convolution reads (rank, in channels, *kernel) and (out channels, rank, 1, ...); a product with the weight on the
    left reads both transposed; a stack keeps its leading axes. Where those are all 1 they stand on `up` alone: beside a
    single vector, one on each factor would give the output an axis more.
    """
    down, up = factors.down, factors.up
    if site.kernel is not None:
        return as_kernel(site, down.T), as_kernel(site, up.T, pointwise=True)
    if site.uses[0].weight_operand == 0:
        down, up = down.swapaxes(-1, -2), up.swapaxes(-1, -2)
    leading = site.stack if site.blocks > 1 else ()
    return down.reshape(*leading, *down.shape[-2:]), up.reshape(*site.stack, *up.shape[-2:])


def as_kernel(site: Site, matrix: Array, *, pointwise: bool = False) -> Array:
    """Return a matrix (out, in · kernel) as a convolution's weight (out, in, *kernel)."""
    assert site.kernel is not None
    kernel = (1,) * len(site.kernel) if pointwise else site.kernel
    return matrix.reshape(len(matrix), matrix.shape[1] // math.prod(kernel), *kernel)


def as_read(site: Site, weight: Array) -> Array:
    """Return `W` in the shape the site's nodes read it in once nothing transposes it for them."""
    matrix = weight.swapaxes(-1, -2) if site.flipped else weight
    if site.kernel is not None:
        return as_kernel(site, matrix)
    return matrix.reshape(*site.stack, *matrix.shape[-2:])


def bias_like(use: Use, site: Site, bias: FloatArray) -> FloatArray:
    """Return a bias (out,) with as many axes as the constant it replaces, its values along the feature axis."""
    if site.kernel is not None:
        return bias
    shape = [1] * max(len(use.bias.trace.shape) if use.bias else 0, -use.feature_axis)
    shape[use.feature_axis] = len(bias)
    return bias.reshape(shape)
