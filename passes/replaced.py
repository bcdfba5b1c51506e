"""A model with other numbers in some of its initializers, and everything else as it was."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from rankfold.errors import ModelError
from rankfold.passes.carry import Rewritten
from rankfold.passes.graph_index import copy_without
from rankfold.passes.metadata import PREFIX
from rankfold.passes.model_file import Model

HEALED = PREFIX + "healed"
"""Metadata key: a JSON list of the initializers that healing changed beside the factors."""

Array = NDArray[np.generic]


def with_values(model: Model, values: Mapping[str, Array], *, recorded: Collection[str] = ()) -> Rewritten:
    """Return the model with other values in some initializers; names, shapes and types stay.

    Args:
        model: The model; it is not changed.
        values: Initializer name to what it shall hold, in any floating type; it is narrowed to the one it is stored in.
        recorded: Names to list under `rankfold.healed`, beside those that are listed there; none adds no key.

    Raises:
        ModelError: There is no such initializer, the shape is another one, or a number does not fit in its type.
    """
    new = _changed(model, values)
    skeleton = copy_without(model.proto, "initializer")
    if names := sorted({*healed_names(model.proto), *recorded}):
        _record(skeleton, names)
    return Rewritten(skeleton, _Initializers(model.proto, new))


def can_hold(model: Model, values: Mapping[str, Array]) -> bool:
    """Return whether all numbers stay finite in the types in which the model stores them; float16 ends at 65,504."""
    kinds = {tensor.name: helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in model.proto.graph.initializer}
    return all(_is_finite(_narrow(array, kinds[name])) for name, array in values.items())


def changed_by(model: Model, values: Mapping[str, Array]) -> tuple[str, ...]:
    """Return the initializers in whose stored numbers values make a difference, in file order.

    Raises:
        ModelError: As `with_values`.
    """
    new = _changed(model, values)
    return tuple(tensor.name for tensor in model.proto.graph.initializer if tensor.name in new)


def healed_names(proto: ModelProto) -> tuple[str, ...]:
    """Return the initializers that a model says were changed by healing, beside its factors.

    Raises:
        ModelError: The record is damaged.
    """
    text = next((entry.value for entry in proto.metadata_props if entry.key == HEALED), "[]")
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ModelError(f"the metadata key {HEALED!r} is damaged ({error}); remove the key") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(f"the metadata key {HEALED!r} holds {text[:80]!r}; expected a list of names; remove the key")
    return tuple(names)


@dataclass(frozen=True)
class _Initializers:
    proto: ModelProto
    new: Mapping[str, TensorProto]

    def __iter__(self) -> Iterator[TensorProto]:
        for tensor in self.proto.graph.initializer:
            yield self.new.get(tensor.name, tensor)


def _changed(model: Model, values: Mapping[str, Array]) -> dict[str, TensorProto]:
    """Return the initializers that become others, by name."""
    known = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    if unknown := [name for name in values if name not in known]:
        raise ModelError(f"{model.path}: there is no initializer {unknown[0]!r} to be replaced")
    found = ((name, _narrowed(model, known[name], array)) for name, array in values.items())
    return {name: tensor for name, tensor in found if tensor is not None}


def _narrowed(model: Model, old: TensorProto, array: Array) -> TensorProto | None:
    """Return a tensor as it was, with other numbers; None where in its type these are the same."""
    if tuple(old.dims) != array.shape:
        raise ModelError(f"{model.path}: {old.name!r} has the shape {list(old.dims)}; {list(array.shape)} was given")
    dtype = helper.tensor_dtype_to_np_dtype(old.data_type)
    narrow = _narrow(array, dtype)
    if not _is_finite(narrow):
        raise ModelError(f"{model.path}: new numbers of {old.name!r} do not fit in {dtype}; leave it as it is")
    if narrow.tobytes() == model.tensor(old).tobytes():
        return None
    new = TensorProto(name=old.name, data_type=old.data_type, dims=old.dims, raw_data=narrow.tobytes())
    if old.HasField("doc_string"):
        new.doc_string = old.doc_string
    new.metadata_props.extend(old.metadata_props)
    return new


def _narrow(array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):  # what does not fit becomes infinite
        return np.ascontiguousarray(array.astype(dtype))


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array.astype(np.float64)).all())


def _record(proto: ModelProto, names: Sequence[str]) -> None:
    text = json.dumps(list(names), separators=(",", ":"))
    for entry in proto.metadata_props:
        if entry.key == HEALED:
            entry.value = text
            return
    proto.metadata_props.add(key=HEALED, value=text)
