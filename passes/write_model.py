"""Writing a model whole or not at all, with its weights where the source had them: inside, or in a data file."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, TensorProto
from onnx.external_data_helper import uses_external_data

from rankfold.errors import OutputError
from rankfold.passes.carry import Rewritten
from rankfold.passes.graph_checks import inner_tensors
from rankfold.passes.graph_index import copy_without
from rankfold.passes.model_file import Model
from rankfold.passes.partial_files import SUFFIX, partial_folder, place
from rankfold.passes.wire import write_streamed

_ALIGNMENT = 4096  # of each tensor in a data file, so that it can be memory-mapped
_SMALLEST_EXTERNAL = 1024  # bytes; smaller new tensors stay inside the model


def write_model(rewritten: Rewritten | None, source: Model, path: Path) -> None:
    """Write a model that was made from `source`, one weight at a time; None writes the source as it is.

    Where the source keeps weights in external files, so does the result: in one data file beside it, named by the
    sha256 of its content and written first, so that the model file, renamed last, never meets another's data. An
    unchanged model with its weights inside is copied byte by byte.

    Raises:
        OutputError: The place cannot be written.
    """
    with reported(path):
        if source.has_external_data:
            _write_external(rewritten or _parts(source), source, path)
        elif rewritten is None:
            with whole_file(path) as file, source.path.open("rb") as original:
                shutil.copyfileobj(original, file)
        else:
            with whole_file(path) as file:
                tensors = (_inside(tensor, source) for tensor in rewritten.initializers)
                write_streamed(file, rewritten.skeleton, tensors)


def write_referring(rewritten: Rewritten, source: Model, path: Path) -> None:
    """Write a model for a passing look: what lies in the source's external files is referred to, not copied.

    A session of it has to be told the source's folder.

    Raises:
        OutputError: The place cannot be written.
    """
    with whole_file_reported(path) as file:
        write_streamed(file, rewritten.skeleton, (_inside(tensor, source) for tensor in rewritten.initializers))


def check_writable(path: Path) -> None:
    """Check before any work that a file can be written.

    Raises:
        OutputError: It cannot.
    """
    with reported(path):
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder", str(path))
        if path.exists() and not path.is_file():
            raise OSError(None, "it is no plain file", str(path))
        with partial_folder(path) as folder:
            (folder / path.name).touch()


def check_no_input(output: Path, inputs: Iterable[object]) -> None:
    """Check that a file to be written is none of those that are read.

    Raises:
        OutputError: It is.
    """
    paths = [Path(given) for given in inputs if isinstance(given, str | os.PathLike)]
    if output.exists() and any(path.exists() and output.samefile(path) for path in paths):
        raise OutputError(f"{output}: the result would replace a file that it is made of; give another path")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a place to write a model to; the model and its data file move to `path` only when the block ends well."""
    with _partial(path) as folder:
        yield folder / path.name
        with reported(path):
            place(folder, path)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when the block ends well."""
    with partial_folder(path) as folder:
        with (folder / path.name).open("wb") as file:
            yield file
        os.replace(folder / path.name, path)


@contextmanager
def whole_file_reported(path: Path) -> Iterator[BinaryIO]:
    """As `whole_file`, with an OutputError for what goes wrong in writing."""
    with reported(path), whole_file(path) as file:
        yield file


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """As `partial_folder`, with an OutputError where it cannot be made; what the block raises is left as it is."""
    with ExitStack() as stack:
        with reported(path):
            folder = stack.enter_context(partial_folder(path))
        yield folder


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn what goes wrong in writing into an OutputError about `path`."""
    try:
        yield
    except OSError as error:
        meant = path.parent.with_name(path.name) if path.parent.suffix == SUFFIX else path
        raise OutputError(
            f"{meant}: cannot be written ({error.strerror or error}); give a file in a folder that exists, is writable"
            " and has room"
        ) from error


def _parts(source: Model) -> Rewritten:
    return Rewritten(copy_without(source.proto, "initializer"), tuple(source.proto.graph.initializer))


def _inside(tensor: TensorProto, source: Model) -> tuple[TensorProto, memoryview | None]:
    """Return a tensor with the raw data that belongs into it, where that lies in the source's file."""
    if tensor.name not in source.inside or not uses_external_data(tensor):
        return tensor, None
    head = TensorProto()
    head.CopyFrom(tensor)
    head.ClearField("external_data")
    head.ClearField("data_location")
    return head, source.tensor_bytes(tensor)


def _write_external(rewritten: Rewritten, source: Model, path: Path) -> None:
    loose = path.with_name(f".{path.name}.{os.getpid()}.data.partial")
    digest = hashlib.sha256()
    try:
        with loose.open("wb") as file:
            references = [_moved_out(tensor, source, file, digest) for tensor in rewritten.initializers]
            skeleton = ModelProto()
            skeleton.CopyFrom(rewritten.skeleton)
            inner = [tensor for tensor in inner_tensors(skeleton) if uses_external_data(tensor)]
            for tensor in inner:
                tensor.CopyFrom(_moved_out(tensor, source, file, digest))
        data = path.with_name(f"{path.stem}.{digest.hexdigest()[:12]}.data")
        for tensor in (*references, *inner):
            for entry in tensor.external_data:
                entry.value = data.name if entry.key == "location" else entry.value
        known = data.exists()
        os.replace(loose, data)
    finally:
        loose.unlink(missing_ok=True)
    try:
        with whole_file(path) as file:
            write_streamed(file, skeleton, ((tensor, None) for tensor in references))
    except OSError:
        if not known:
            data.unlink(missing_ok=True)
        raise


def _moved_out(tensor: TensorProto, source: Model, file: BinaryIO, digest: hashlib._Hash) -> TensorProto:
    """Append a tensor's bytes to the data file and return the reference to them; small inner ones stay inside."""
    if not uses_external_data(tensor) and len(tensor.raw_data) < _SMALLEST_EXTERNAL:
        return tensor
    content = source.tensor_bytes(tensor)
    for part in (bytes(-file.tell() % _ALIGNMENT), content):
        file.write(part)
        digest.update(part)
    reference = TensorProto()
    reference.CopyFrom(tensor)
    for name in ("raw_data", "external_data"):
        reference.ClearField(name)
    reference.data_location = TensorProto.EXTERNAL
    start = file.tell() - content.nbytes
    for key, value in (("location", ""), ("offset", str(start)), ("length", str(content.nbytes))):
        reference.external_data.add(key=key, value=value)
    return reference
