"""A model of half precision in float32: gradients and small steps get lost in sixteen bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_NAMED_TYPES = frozenset({"to", "dtype", "output_datatype", "stash_type"})  # attributes that hold an element type
_HALF_NAMES = frozenset({"float16", "bfloat16"})

Array = NDArray[np.generic]


def widened(proto: ModelProto) -> ModelProto:
    """Return a model that computes in float32 what this one computes in half precision; others come back as they are.

    Inputs, outputs, weights, Casts and what is noted of shapes change their type; names stay. Weights that are not in
    the model have to be widened where they are handed over, as `widened_array` does.
    """
    if not any(_types(proto.graph)):
        return proto
    wide = ModelProto()
    wide.CopyFrom(proto)
    _widen_graph(wide.graph)
    return wide


def widened_array(array: Array) -> Array:
    """Return an array of half precision as float32, any other as it is."""
    return array.astype(np.float32) if array.dtype.name in _HALF_NAMES else array


def widened_arrays(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return named arrays, those of half precision as float32."""
    return {name: widened_array(array) for name, array in arrays.items()}


def _types(graph: GraphProto) -> Iterator[bool]:
    yield from (tensor.data_type in HALVES for tensor in graph.initializer)
    for value in (*graph.input, *graph.output):
        yield value.type.tensor_type.elem_type in HALVES
    yield from (part.t.data_type in HALVES for node in graph.node for part in node.attribute)
    yield from (part.i in HALVES for node in graph.node for part in node.attribute if part.name == "to")


def _widen_graph(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        _widen_node(node)


def _widen_node(node: NodeProto) -> None:
    for part in node.attribute:
        if part.type == AttributeProto.TENSOR:
            _widen_tensor(part.t)
        elif part.type == AttributeProto.INT and part.name in _NAMED_TYPES and part.i in HALVES:
            part.i = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type not in HALVES:
        return
    if tensor.data_location == TensorProto.EXTERNAL:  # handed over beside the model
        tensor.data_type = TensorProto.FLOAT
        return
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
