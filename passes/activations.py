"""The activations of a model: which tensors depend on its inputs, and along which axis their features lie."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto

from rankfold.errors import OptionsError
from rankfold.passes.graph_index import GraphIndex, nested_reads
from rankfold.passes.model_file import Model, input_specs

INPUT = "input"
"""What stands for the operator of a model's input."""
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.UNDEFINED)
_SHOWN = 5  # names in a message
_FEWEST_AXES = 3  # samples, channels and positions
_CHANNELS_FIRST = frozenset(
    (
        "Conv",
        "ConvTranspose",
        "FusedConv",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "LRN",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GlobalLpPool",
        "DepthToSpace",
        "SpaceToDepth",
    )
)
_KEEP_LAYOUT = frozenset(
    (
        "Relu",
        "LeakyRelu",
        "PRelu",
        "ThresholdedRelu",
        "Elu",
        "Selu",
        "Celu",
        "Gelu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Swish",
        "Mish",
        "Tanh",
        "Softplus",
        "Softsign",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Abs",
        "Neg",
        "Reciprocal",
        "Clip",
        "Cast",
        "Identity",
        "Dropout",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Max",
        "Min",
        "Pow",
        "Sum",
        "Mean",
        "Pad",
        "Resize",
        "Upsample",
        "Concat",
    )
)


@dataclass(frozen=True)
class Activation:
    """One tensor that depends on the model's inputs.

    Attributes:
        tensor: Its name.
        node, op_type: What makes it; the name itself and `input` for a model input.
        feature_axis: 1, the channels, for what convolutions and poolings read and give, and what elementwise operators
            make of that; else -1.
    """

    tensor: str
    node: str
    op_type: str
    feature_axis: int


def find_activations(model: Model, index: GraphIndex, patterns: Sequence[str] = ()) -> tuple[Activation, ...]:
    """Return the activations of a model's main graph, inputs first, then in graph order.

    Tensors of a known type other than float16, float32 and float64 are none. What does not depend on an input, such as
    a weight behind a Transpose, is none either.

    Args:
        model: The model.
        index: Lookups over its graph.
        patterns: Shell-style patterns of tensor names, node names or operators; empty for all.

    Raises:
        OptionsError: A pattern matches nothing.
    """
    found = tuple(_activations(model, index))
    for pattern in patterns:
        if not any(_matches(activation, pattern) for activation in found):
            names = [activation.tensor for activation in found]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise OptionsError(
                f"{model.path}: pattern {pattern!r} matches no activation by tensor name, node name or operator; there"
                f" are {', '.join(names[:_SHOWN])}{more}; mend the pattern, or give none for all"
            )
    return tuple(a for a in found if not patterns or any(_matches(a, pattern) for pattern in patterns))


def _matches(activation: Activation, pattern: str) -> bool:
    names = (activation.tensor, activation.node, activation.op_type)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _activations(model: Model, index: GraphIndex) -> Iterator[Activation]:
    inputs = [spec.name for spec in input_specs(model)]
    types, live = _types(model), _live(index, inputs)
    channels = _channels_first(index, live)
    made = [(name, name, INPUT) for name in inputs]
    for node, name in zip(index.nodes, index.names, strict=True):
        made += [(tensor, name, node.op_type) for tensor in node.output if tensor in live]
    for tensor, name, op_type in made:
        if types.get(tensor, TensorProto.UNDEFINED) in _FLOATS:
            yield Activation(tensor, name, op_type, 1 if tensor in channels else -1)


def _types(model: Model) -> dict[str, int]:
    """Return the element type of each tensor that shape inference tells; -1 for what is no tensor."""
    try:
        graph = onnx.shape_inference.infer_shapes(model.proto).graph
    except onnx.shape_inference.InferenceError:
        graph = model.proto.graph
    return {
        value.name: value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else -1
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.WhichOneof("value") is not None
    }


def _live(index: GraphIndex, inputs: Sequence[str]) -> set[str]:
    """Return the tensors that depend on the inputs."""
    live = set(inputs)
    for node in index.nodes:
        if live.intersection((*node.input, *nested_reads([node]))):
            live.update(filter(None, node.output))
    return live


def _channels_first(index: GraphIndex, live: set[str]) -> set[str]:
    """Return the tensors that have their channels on axis 1, positions behind it."""
    found: set[str] = set()
    for node in index.nodes:
        if node.op_type in _CHANNELS_FIRST:
            found.update(_of_axes(index, (*node.input[:1], *node.output[:1])))
    for node in reversed(index.nodes):
        if node.op_type in _KEEP_LAYOUT and found.intersection(node.output):
            found.update(name for name in _of_axes(index, node.input) if name in live and _alike(index, node, name))
    for node in index.nodes:
        if node.op_type in _KEEP_LAYOUT and found.intersection(node.input):
            found.update(_of_axes(index, node.output[:1]))
    return found


def _of_axes(index: GraphIndex, tensors: Sequence[str]) -> list[str]:
    """Return those tensors that are not known to have fewer axes than samples, channels and positions."""
    return [name for name in tensors if name and index.ranks.get(name, _FEWEST_AXES) >= _FEWEST_AXES]


def _alike(index: GraphIndex, node: NodeProto, tensor: str) -> bool:
    """Return whether an operand has as many axes as the result, as far as both are known."""
    ranks = index.ranks.get(tensor), index.ranks.get(node.output[0])
    return None in ranks or ranks[0] == ranks[1]
