"""Writing a model whole or not at all, with its weights where the source had them: inside, or in a data file."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, TensorProto
from onnx.external_data_helper import set_external_data, uses_external_data

from rankfold.errors import OutputError
from rankfold.passes.graph_index import copy_without
from rankfold.passes.model_file import Model

_ALIGNMENT = 4096  # of each tensor in a data file, so that it can be memory-mapped
_SMALLEST_EXTERNAL = 1024  # bytes; smaller new tensors stay inside the model


def write_model(proto: ModelProto, source: Model, path: Path) -> None:
    """Write a model that was made from `source`.

    Where the source keeps weights in external files, so does the result: in one data file beside it, named by the
    sha256 of its content and written first, so that the model file, renamed last, never meets another's data. A model
    that was not changed and has its weights inside is copied byte by byte.

    Raises:
        OutputError: The place cannot be written.
    """
    external = any(uses_external_data(tensor) for tensor in source.proto.graph.initializer)
    with _reported(path):
        if external:
            _write_external(proto, source, path)
        elif proto is source.proto:
            with whole_file(path) as file, source.path.open("rb") as original:
                shutil.copyfileobj(original, file)
        else:
            with whole_file(path) as file:
                file.write(proto.SerializeToString(deterministic=True))


def check_writable(path: Path) -> None:
    """Check before any work that a file can be written.

    Raises:
        OutputError: It cannot.
    """
    with _reported(path):
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder", str(path))
        probe = _partial(path)
        probe.touch()
        probe.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when the block ends well."""
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_file_reported(path: Path) -> Iterator[BinaryIO]:
    """As `whole_file`, with an OutputError for what goes wrong in writing."""
    with _reported(path), whole_file(path) as file:
        yield file


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); give a file in a folder that exists, is writable"
            " and has room"
        ) from error


def _write_external(proto: ModelProto, source: Model, path: Path) -> None:
    result = copy_without(proto, "initializer")
    loose = path.with_name(f".{path.name}.{os.getpid()}.data.partial")
    digest = hashlib.sha256()
    try:
        with loose.open("wb") as file:
            result.graph.initializer.extend(
                _moved_out(tensor, source, file, digest) for tensor in proto.graph.initializer
            )
        data = path.with_name(f"{path.stem}.{digest.hexdigest()[:12]}.data")
        for tensor in result.graph.initializer:
            for entry in tensor.external_data:
                entry.value = data.name if entry.key == "location" else entry.value
        os.replace(loose, data)
    finally:
        loose.unlink(missing_ok=True)
    with whole_file(path) as file:
        file.write(result.SerializeToString(deterministic=True))


def _moved_out(tensor: TensorProto, source: Model, file: BinaryIO, digest: hashlib._Hash) -> TensorProto:
    """Append a tensor's bytes to the data file and return the reference to them; small inner ones stay inside."""
    if not uses_external_data(tensor) and len(tensor.raw_data) < _SMALLEST_EXTERNAL:
        return tensor
    padding = bytes(-file.tell() % _ALIGNMENT)
    content = source.tensor_bytes(tensor)
    reference = TensorProto()
    reference.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
    reference.doc_string = tensor.doc_string
    reference.metadata_props.extend(tensor.metadata_props)
    for part in (padding, content):
        file.write(part)
        digest.update(part)
    reference.raw_data = b""
    set_external_data(reference, "data", file.tell() - len(content), len(content))
    reference.ClearField("raw_data")
    return reference
