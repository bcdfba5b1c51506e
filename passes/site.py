"""A linear site in its one normal form: `y = x @ W + b`, `W` of shape (in_features, out_features)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankfold.passes.constants import ConstantTrace, evaluate
from rankfold.passes.graph_index import GraphIndex
from rankfold.passes.model_file import Model
from rankfold.values import FeatureAxis, FloatArray, Request

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
        feature_axis: Where the features lie, in the activation and in the output alike: -2 where the weight
            stands on the left.
        activation_axis: Where they lie in the activation if a Gemm transposes it on the way, else `feature_axis`.
        scale: The Gemm's alpha; 1 for a MatMul.
        bias: The constant that is added, if it has one value per output feature.
        centred: How a correction of the bias can be written: by changing the bias, by giving a Gemm its
            missing C, by a new Add, or not at all.
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

    @property
    def input_request(self) -> Request:
        """Return the request for the second moment of the activation."""
        return Request(self.activation, self.activation_axis)

    @property
    def output_request(self) -> Request:
        """Return the request for the second moment of the output."""
        return Request(self.output, self.feature_axis)


@dataclass(frozen=True)
class Site:
    """A weight matrix with all its uses, which share its factors.

    Attributes:
        name: The first use's node name.
        op_type: `MatMul` or `Gemm`.
        weight: Where the matrix comes from.
        flipped: True where `W` is that matrix transposed.
        in_features, out_features: The shape of `W`.
        uses: In graph order.
        side: The side whose second moment is collected.
    """

    name: str
    op_type: str
    weight: ConstantTrace
    flipped: bool
    in_features: int
    out_features: int
    uses: tuple[Use, ...]
    side: Side

    @property
    def parameters(self) -> int:
        """Return the number of elements of `W`."""
        return self.in_features * self.out_features

    @property
    def requests(self) -> tuple[Request, ...]:
        """Return what has to be collected for this site, one request per use."""
        return tuple(use.input_request if self.side == "input" else use.output_request for use in self.uses)


def read_weight(model: Model, index: GraphIndex, site: Site) -> NDArray[np.generic]:
    """Return `W`, (in_features, out_features), in its own dtype."""
    value = evaluate(model, index, site.weight)
    return value.T if site.flipped else value


def read_bias(model: Model, index: GraphIndex, site: Site, use: Use) -> FloatArray:
    """Return what is added to each output feature, (out_features,) float64; zeros where nothing is."""
    if use.bias is None:
        return np.zeros(site.out_features)
    value = np.asarray(evaluate(model, index, use.bias.trace), np.float64).reshape(-1)
    return np.broadcast_to(value * use.bias.scale, (site.out_features,)).copy()
