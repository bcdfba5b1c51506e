"""Opening a model file: checked before any work, weights read one at a time."""

from __future__ import annotations

import hashlib
import math
import os
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
from rankfold.passes.external_data import check_places, external_files, external_place
from rankfold.passes.graph_checks import all_tensors, check_graphs, check_opsets, check_text
from rankfold.passes.wire import read_hollow
from rankfold.values import InputSpec

_DIGEST_BLOCK = 1 << 20


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
        return _files(self.path, self.proto)

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
        ModelError: It is missing, empty, not an ONNX model, refused by the ONNX checker, or makes no sense in one of
            the ways that the checker lets through, such as external data that is not there or not the model's own.
    """
    where = Path(path)
    _check_readable(where)
    try:
        proto, inside = read_hollow(where)
    except DecodeError as error:
        raise ModelError(f"{where}: not an ONNX model ({error}); give a file that an exporter wrote") from error
    check_text(where, proto)
    check_opsets(where, proto)
    check_graphs(where, proto)
    check_places(where, all_tensors(proto))
    _check_onnx(where)
    return Model(where, proto, inside, _digest(_files(where, proto)))


def input_specs(model: Model) -> tuple[InputSpec, ...]:
    """Return the inputs a caller has to feed: graph inputs that have no initializer.

    Raises:
        ModelError: An input is not a tensor.
    """
    return tuple(_input_spec(model, value) for value in _fed_inputs(model))


def output_names(model: Model) -> tuple[str, ...]:
    """Return the names of the graph's outputs, in order."""
    return tuple(value.name for value in model.proto.graph.output)


def numeric_outputs(model: Model) -> tuple[str, ...]:
    """Return the outputs that can hold numbers: no sequences, maps or text."""
    return tuple(value.name for value in model.proto.graph.output if _is_numeric(value))


def outside_weights(model: Model) -> dict[str, NDArray[np.generic]]:
    """Return the initializers whose numbers a model's proto only refers to, by name."""
    return {tensor.name: model.tensor(tensor) for tensor in model.proto.graph.initializer if uses_external_data(tensor)}


def _is_numeric(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    return kind is None or (kind == "tensor_type" and value.type.tensor_type.elem_type != TensorProto.STRING)


def _files(where: Path, proto: onnx.ModelProto) -> tuple[Path, ...]:
    return tuple(dict.fromkeys((where, *external_files(where, all_tensors(proto)))))


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
        if where.exists() and not where.is_file() and not where.is_dir():  # opening a pipe would wait for its writer
            raise ModelError(f"{where}: is no plain file; give the path of an ONNX model")
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


def _digest(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_DIGEST_BLOCK):
                digest.update(block)
    return digest.hexdigest()
