"""ONNX's element types and tensors as torch's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor

from rankfold.errors import ModelError

TORCH_TYPES: Mapping[int, torch.dtype] = MappingProxyType(
    {
        TensorProto.FLOAT: torch.float32,
        TensorProto.DOUBLE: torch.float64,
        TensorProto.FLOAT16: torch.float16,
        TensorProto.BFLOAT16: torch.bfloat16,
        TensorProto.INT8: torch.int8,
        TensorProto.INT16: torch.int16,
        TensorProto.INT32: torch.int32,
        TensorProto.INT64: torch.int64,
        TensorProto.UINT8: torch.uint8,
        TensorProto.BOOL: torch.bool,
    }
)
"""The element types that torch computes with; it stores the wider unsigned ones too, but hardly adds them."""


def torch_type(element_type: int) -> torch.dtype:
    """Return torch's name of an ONNX element type.

    Raises:
        ModelError: Torch does not compute with it.
    """
    found = TORCH_TYPES.get(element_type)
    if found is None:
        raise ModelError(f"element type {_type_name(element_type)}")
    return found


def from_proto(proto: TensorProto) -> Tensor:
    """Return a tensor message as a tensor of its own memory.

    Raises:
        ModelError: Torch does not compute with its type, or its numbers lie in another file.
    """
    torch_type(proto.data_type)
    if proto.data_location == TensorProto.EXTERNAL:
        raise ModelError("numbers in a file beside the model; load that first, as onnx.load does, or hand them over")
    return from_array(numpy_helper.to_array(proto))


def from_array(array: NDArray[np.generic]) -> Tensor:
    """Return a copy of an array, so that training writes into nobody's weights."""
    copy = np.array(array, order="C")
    if copy.dtype.name == "bfloat16":  # numpy knows it by ml_dtypes, which torch does not read
        return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copy)


def integers(tensor: Tensor) -> list[int]:
    """Return a tensor of integers, of one axis or none, as a list; one on a GPU is waited for."""
    return [int(number) for number in tensor.reshape(-1).tolist()]


def _type_name(element_type: int) -> str:
    known = TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(element_type)) if element_type in known else str(element_type)
