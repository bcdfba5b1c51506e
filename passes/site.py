"""A linear site in its one normal form: `y = x @ W + b`, `W` of shape (in_features, out_features)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from rankfold.passes.constants import ConstantTrace, evaluate
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.model_file import Model
from rankfold.values import FeatureAxis, FloatArray, Request
from rankfold.windows import Window

Side = Literal["input", "output"]
Centring = Literal["bias", "gemm", "add", "never"]


@dataclass(frozen=True)
class Bias:
    """A constant, one value per output feature, that is added to the product.

    Attributes:
        node, operand: The node that adds it (the Gemm itself, or an Add) and the place among its inputs.
        trace: Where its value comes from.
        scale: The Gemm's beta; 1 for an Add.
    """

    node: int
    operand: int
    trace: ConstantTrace
    scale: float


@dataclass(frozen=True)
class Use:
    """One node that multiplies by the weight.

    Attributes:
        node: Its place in the graph.
        weight_operand: Which of its inputs the weight is.
        activation, output: The tensors it reads and, with the bias added where there is one, gives.
        feature_axis: Where the features lie in the output: -1; -2 where the weight stands on the left; 1, the
            channels, for a convolution.
        activation_axis: Where they lie in the activation.
        scale: The Gemm's alpha; 1 for a MatMul.
        bias: The constant that is added, if it has one value per output feature.
        centred: How a correction of the bias can be written: by changing the bias, by giving the node the third
            input it lacks, by a new Add, or not at all.
        sides: Where the rows of `x` or of `x W` can be seen: a convolution's kernel gathers its `x` inside the node,
            and what a node does to the product besides a known bias hides that.
        window: What a convolution's kernel covers, where that is more than one place.
    """

    node: int
    weight_operand: int
    activation: str
    output: str
    feature_axis: FeatureAxis
    activation_axis: FeatureAxis
    scale: float
    bias: Bias | None
    centred: Centring
    sides: tuple[Side, ...] = ("input", "output")
    window: Window | None = None

    def request(self, side: Side, block: int | None = None) -> Request:
        """Return the request for the second moment of one side, of one matrix of a stack."""
        if side == "input":
            return Request(self.activation, self.activation_axis, block, self.window)
        return Request(self.output, self.feature_axis, block)


@dataclass(frozen=True)
class Site:
    """A weight matrix with all its uses, which share its factors.

    Attributes:
        name: The first use's node name.
        op_type: `MatMul`, `Gemm`, `Conv` and the like.
        weight: Where the matrix comes from.
        flipped: True where `W` is that matrix transposed.
        in_features, out_features: The shape of `W`.
        uses: In graph order.
        side: The side whose second moment is collected.
        stack: The axes before the last two, where the weight has such; then each matrix along them has its own
            basis, and all have one rank.
        kernel: The extents of a convolution's kernel; its `in_features` are (in channels, *kernel), flattened.
        pivots: The sides whose features may be pivots, the narrower first; none where the pivoted form is not offered.
    """

    name: str
    op_type: str
    weight: ConstantTrace
    flipped: bool
    in_features: int
    out_features: int
    uses: tuple[Use, ...]
    side: Side
    stack: tuple[int, ...] = ()
    kernel: tuple[int, ...] | None = None
    pivots: tuple[Side, ...] = ()

    @property
    def blocks(self) -> int:
        """Return the number of matrices, 1 but for a stack."""
        return math.prod(self.stack)

    @property
    def parameters(self) -> int:
        """Return the number of elements of the weight."""
        return self.blocks * self.in_features * self.out_features

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Return the type its factors are stored in."""
        return helper.tensor_dtype_to_np_dtype(self.weight.stored_type)

    @property
    def sides(self) -> frozenset[Side]:
        """Return the sides on which every use shows its rows."""
        return frozenset[Side](("input", "output")).intersection(*(use.sides for use in self.uses))

    @property
    def requests(self) -> tuple[Request, ...]:
        """Return what has to be collected for this site, one request per use and matrix."""
        return tuple(request for block in range(self.blocks) for request in self.block_requests(block))

    def block_requests(self, block: int) -> tuple[Request, ...]:
        """Return what has to be collected for one matrix, one request per use."""
        return tuple(use.request(self.side, block if self.blocks > 1 else None) for use in self.uses)


def read_weight(model: Model, index: GraphIndex, site: Site) -> NDArray[np.generic]:
    """Return `W`, (in_features, out_features), in its own dtype; (blocks, in_features, out_features) for a stack."""
    value = evaluate(model, index, site.weight)
    leading = (site.blocks,) if site.blocks > 1 else ()
    value = value.reshape(*leading, *value.shape[-2:])
    return value.swapaxes(-1, -2) if site.flipped else value


def read_bias(model: Model, index: GraphIndex, site: Site, use: Use) -> FloatArray:
    """Return what is added to each output feature, (out_features,) float64; zeros where nothing is."""
    if use.bias is None:
        return np.zeros(site.out_features)
    value = np.asarray(evaluate(model, index, use.bias.trace)).astype(np.float64).reshape(-1)
    return np.broadcast_to(value * use.bias.scale, (site.out_features,)).copy()
