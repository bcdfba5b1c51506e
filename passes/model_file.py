"""Opening a model file: checked before any work, weights read one at a time."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from rankfold.errors import ModelError
from rankfold.passes.wire import read_hollow
from rankfold.values import InputSpec

_DIGEST_BLOCK = 1 << 20
# Types of which one element fills whole bytes; of the others several share one.
_WHOLE_BYTE_TYPES = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ]
)


@dataclass(frozen=True)
class Model:
    """A checked model file.

    Attributes:
        path: Where it lies; external data is looked for beside it.
        proto: Its content, never changed; large weights are references, to external files or to the file itself.
        inside: Names of the weights that lie in the file itself.
        digest: sha256 over the file and its external data files, as hexadecimal text.
        original: The model this one was made of by putting local functions in line; None for a file as it was given.
        inlined: Those functions, as `domain:name`.
    """

    path: Path
    proto: onnx.ModelProto
    inside: frozenset[str]
    digest: str
    original: Model | None = None
    inlined: tuple[str, ...] = ()

    @property
    def given(self) -> Model:
        """Return the model as it was given."""
        return self.original or self

    @property
    def size_bytes(self) -> int:
        """Return the size of the model file and its external data files together."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the model file and its external data files, each once."""
        return tuple(dict.fromkeys((self.path, *_external_files(self.path, self.proto))))

    @property
    def has_external_data(self) -> bool:
        """Return whether any weight lies in another file."""
        return len(self.files) > 1

    def tensor(self, proto: TensorProto) -> NDArray[np.generic]:
        """Return one tensor's values; large ones are mapped from the file they lie in, not read."""
        if not uses_external_data(proto):
            return numpy_helper.to_array(proto)
        kind = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
        return np.frombuffer(self.tensor_bytes(proto), kind, count=math.prod(proto.dims)).reshape(tuple(proto.dims))

    def tensor_bytes(self, proto: TensorProto) -> memoryview:
        """Return one tensor's raw bytes as they are stored; large ones are mapped from the file they lie in."""
        if not uses_external_data(proto):
            return memoryview(proto.raw_data)
        location, start, length = external_place(self.path, proto)
        path = self.path.parent / location
        if length == 0:
            return memoryview(b"")
        mapped = np.memmap(path, np.uint8, "r", start, (length or path.stat().st_size - start,))
        return mapped.data


def load_model(path: str | os.PathLike[str]) -> Model:
    """Open and check a model file.

    Raises:
        ModelError: It is missing, empty, not an ONNX model, refused by the ONNX checker, names two
            initializers alike, or refers to external data that is not there.
    """
    where = Path(path)
    _check_readable(where)
    _check_onnx(where)
    try:
        proto, inside = read_hollow(where)
    except DecodeError as error:
        raise ModelError(f"{where}: not an ONNX model ({error}); give a file that an exporter wrote") from error
    counts = Counter(tensor.name for tensor in proto.graph.initializer)
    double = sorted(name for name, count in counts.items() if count > 1)
    if double:
        raise ModelError(
            f"{where}: initializer {double[0]!r} stands {counts[double[0]]} times; names must be unique, since tools"
            " disagree on which one counts; export the model again"
        )
    for tensor in proto.graph.initializer:
        _check_tensor(where, tensor)
    files = tuple(dict.fromkeys((where, *_external_files(where, proto))))
    return Model(where, proto, inside, _digest(files))


def input_specs(model: Model) -> tuple[InputSpec, ...]:
    """Return the inputs a caller has to feed: graph inputs that have no initializer.

    Raises:
        ModelError: An input is not a tensor.
    """
    return tuple(_input_spec(model, value) for value in _fed_inputs(model))


def output_names(model: Model) -> tuple[str, ...]:
    """Return the names of the graph's outputs, in order."""
    return tuple(value.name for value in model.proto.graph.output)


def _fed_inputs(model: Model) -> Iterator[onnx.ValueInfoProto]:
    known = {tensor.name for tensor in model.proto.graph.initializer}
    return (value for value in model.proto.graph.input if value.name not in known)


def _input_spec(model: Model, value: onnx.ValueInfoProto) -> InputSpec:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        raise ModelError(
            f"{model.path}: input {value.name!r} is not a tensor of known rank; rankfold feeds tensors only"
        )
    kind = value.type.tensor_type
    axes = tuple(
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None if dim.HasField("dim_param") else None)
        for dim in kind.shape.dim
    )
    return InputSpec(value.name, _numpy_type(model.path, f"input {value.name!r}", kind.elem_type).name, axes)


def _numpy_type(where: Path, what: str, onnx_type: int) -> np.dtype[Any]:
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(onnx_type)
    except KeyError as error:
        raise ModelError(f"{where}: {what} has the unknown data type {onnx_type}; export the model again") from error


def _check_readable(where: Path) -> None:
    try:
        with where.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise ModelError(f"{where}: cannot be read ({error.strerror}); give the path of an ONNX model") from error
    if empty:
        raise ModelError(f"{where}: the file is empty; an ONNX model was expected; export it again")


def _check_onnx(where: Path) -> None:
    try:
        onnx.checker.check_model(str(where))
    except (onnx.checker.ValidationError, DecodeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{where}: refused by the ONNX checker: {reason[:400]}; export the model again") from error


def _check_tensor(where: Path, tensor: TensorProto) -> None:
    """Check a tensor's type and, where it lies outside of the model, that it can lie where it says."""
    kind = _numpy_type(where, f"initializer {tensor.name!r}", tensor.data_type)
    if not uses_external_data(tensor):
        return
    location, start, length = external_place(where, tensor)
    needed = math.prod(tensor.dims) * kind.itemsize if kind.name in _WHOLE_BYTE_TYPES else 0
    if length is not None and length < needed:
        raise ModelError(
            f"{where}: tensor {tensor.name!r} needs {needed} bytes for its shape {list(tensor.dims)}, and its external"
            f" data has {length}; export the model again"
        )
    end = start + (needed if length is None else length)
    path = where.parent / location
    found = path.stat().st_size if path.is_file() else -1
    if found < end:
        state = f"has {found} bytes" if found >= 0 else "is missing"
        raise ModelError(
            f"{where}: tensor {tensor.name!r} lies at bytes {start} to {end} of {path}, which {state}; copy the"
            " data file beside the model whole"
        )


def external_place(where: Path, tensor: TensorProto) -> tuple[str, int, int | None]:
    """Return where a tensor's external data lies: location, offset and length in bytes, None where not said.

    Raises:
        ModelError: The reference makes no sense.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, offset, length = (entries.get(key, "") for key in ("location", "offset", "length"))
    if not location or not (offset.isdecimal() or not offset) or not (length.isdecimal() or not length):
        raise ModelError(
            f"{where}: tensor {tensor.name!r} has the external data reference {entries}; expected a location, and"
            " offset and length as numbers of bytes; export the model again"
        )
    return location, int(offset or 0), int(length) if length else None


def _external_files(where: Path, proto: onnx.ModelProto) -> tuple[Path, ...]:
    places = (external_place(where, tensor)[0] for tensor in proto.graph.initializer if uses_external_data(tensor))
    return tuple(where.parent / place for place in dict.fromkeys(places))


def _digest(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_DIGEST_BLOCK):
                digest.update(block)
    return digest.hexdigest()
