"""Operators that pick and place elements by index, and those that make tensors from nothing but a shape."""

from __future__ import annotations

import torch
from torch import Tensor

from rankfold.errors import ModelError
from rankfold.training.node import Compute, Node, Operator, plain
from rankfold.training.tensors import from_proto, integers, torch_type

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}  # ONNX's names and torch's


def _counted_from_start(indices: Tensor, length: int) -> Tensor:
    """Return indices of which negative ones counted from the end, as torch's scattering wants them."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + length, indices)


def _gather(node: Node) -> Compute:
    axis = node.integer("axis", 0)

    def compute(x: Tensor, indices: Tensor) -> Tensor:
        before: tuple[slice | Tensor, ...] = (slice(None),) * (axis % x.ndim)
        if indices.ndim:
            return x[(*before, indices.to(x.device, torch.int64))]
        if indices.device.type == "cpu":
            return x.select(axis, int(indices))
        return x[(*before, indices.reshape(1).to(torch.int64))].squeeze(axis)  # torch would wait for a lone index

    return compute


def _gather_elements(node: Node) -> Compute:
    axis = node.integer("axis", 0)
    return lambda x, indices: torch.gather(x, axis, _counted_from_start(indices, x.shape[axis]))


def _gather_nd(node: Node) -> Compute:
    shared = node.integer("batch_dims", 0)

    def compute(x: Tensor, indices: Tensor) -> Tensor:
        ranges = [
            torch.arange(length, device=x.device).reshape([-1] + [1] * (indices.ndim - 2 - axis))
            for axis, length in enumerate(x.shape[:shared])
        ]
        return x[(*ranges, *indices.to(torch.int64).unbind(-1))]

    return compute


def _scatter_elements(node: Node) -> Compute:
    axis = node.integer("axis", 0)
    reduction = node.choice("reduction", "none", ("none", *_REDUCTIONS))

    def compute(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        return _scattered(x, axis, _counted_from_start(indices, x.shape[axis]), updates, reduction)

    return compute


def _scatter_nd(node: Node) -> Compute:
    reduction = node.choice("reduction", "none", ("none", *_REDUCTIONS))

    def compute(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        depth = indices.shape[-1]
        rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
        for axis, length in enumerate(x.shape[:depth]):
            rows = rows * length + _counted_from_start(indices[..., axis], length)
        lines, width = x.shape[:depth].numel(), x.shape[depth:].numel()
        flat = rows.reshape(-1, 1).expand(-1, width)
        placed = updates.reshape(rows.numel(), width)
        return _scattered(x.reshape(lines, width), 0, flat, placed, reduction).reshape(x.shape)

    return compute


def _scattered(x: Tensor, axis: int, indices: Tensor, updates: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return torch.scatter(x, axis, indices, updates)
    return torch.scatter_reduce(x, axis, indices, updates, _REDUCTIONS[reduction], include_self=True)


def _one_hot(node: Node) -> Compute:
    axis = node.integer("axis", -1)

    def compute(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        (length,) = integers(depth)
        hot = _counted_from_start(indices, length).unsqueeze(axis)
        shape = [1] * hot.ndim
        shape[axis] = length
        classes = torch.arange(length, device=indices.device).reshape(shape)
        return torch.where(hot == classes, values[1], values[0])  # an index out of range is nowhere hot

    return compute


def _non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(torch.atleast_1d(x)).T


def _range(start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    first, end, stride = start.item(), limit.item(), step.item()
    if (end - first) * stride <= 0:  # where torch sees an error, ONNX counts nothing
        end = first
    return torch.arange(first, end, stride, dtype=start.dtype)


def _constant_of_shape(node: Node) -> Compute:
    given = node.value("value")
    value = torch.zeros(1) if given is None else from_proto(given)
    return lambda shape: torch.full(integers(shape), value.item(), dtype=value.dtype)


def _eye_like(node: Node) -> Compute:
    diagonal, given = node.integer("k", 0), node.value("dtype")
    kind = None if given is None else torch_type(given)

    def compute(x: Tensor) -> Tensor:
        rows, columns = (torch.arange(length, device=x.device) for length in x.shape)
        return (rows[:, None] + diagonal == columns).to(kind or x.dtype)

    return compute


def constant(node: Node) -> Tensor:
    """Return the value of a Constant node, in whichever of its forms.

    Raises:
        ModelError: It holds text, or is sparse.
    """
    (attribute,) = node.proto.attribute
    value = node.value(attribute.name)
    if attribute.name == "value":
        return from_proto(value)
    kinds = {"value_int": torch.int64, "value_ints": torch.int64, "value_float": torch.float32,
             "value_floats": torch.float32}  # fmt: skip
    if attribute.name not in kinds:
        raise ModelError(f"attribute {attribute.name}")
    return torch.tensor(value, dtype=kinds[attribute.name])


OPERATORS = {
    ("", "Gather"): Operator(_gather, shapes=(1,), picks=True),
    ("", "GatherElements"): Operator(_gather_elements),
    ("", "GatherND"): Operator(_gather_nd),
    ("", "ScatterElements"): Operator(_scatter_elements),
    ("", "ScatterND"): Operator(_scatter_nd),
    ("", "OneHot"): Operator(_one_hot, shapes=(1,)),
    ("", "NonZero"): Operator(lambda node: _non_zero, counts=True),  # noqa: ARG005
    ("", "Range"): plain(_range, shapes=(0, 1, 2), on_cpu=True),
    ("", "ConstantOfShape"): Operator(_constant_of_shape, shapes=(0,), on_cpu=True),
    ("", "EyeLike"): Operator(_eye_like),
}
