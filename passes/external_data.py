"""Where a model says that its weights lie, and whether they can lie there.

Nothing is opened before its place is known to be a plain file inside the model's folder: a model from elsewhere must
not make rankfold read or carry along any other file. onnxruntime reads hard links without a check.
"""

from __future__ import annotations

import itertools
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto
from onnx.external_data_helper import uses_external_data

from rankfold.errors import ModelError

_PART_OF_BYTE = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}
"""Bits of the types of which several elements share a byte."""


def external_place(where: Path, tensor: TensorProto) -> tuple[str, int, int | None]:
    """Return where a tensor's external data lies: location, offset and length in bytes, None where not said.

    Raises:
        ModelError: The reference makes no sense.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, offset, length = (entries.get(key, "") for key in ("location", "offset", "length"))
    numbers = all(text.isascii() and text.isdecimal() and len(text) < 20 for text in (offset, length) if text)
    if not location or not numbers or len(entries) < len(tensor.external_data):
        found = [(entry.key, entry.value) for entry in tensor.external_data]
        raise ModelError(
            f"{where}: tensor {tensor.name!r} has the external data reference {found}; expected one location, and"
            " offset and length as numbers of bytes; export the model again"
        )
    return location, int(offset or 0), int(length) if length else None


def external_files(where: Path, tensors: Iterable[TensorProto]) -> tuple[Path, ...]:
    """Return the files that tensors lie in, each once."""
    places = (external_place(where, tensor)[0] for tensor in tensors if uses_external_data(tensor))
    return tuple(where.parent / place for place in dict.fromkeys(places))


def check_places(where: Path, tensors: Iterable[TensorProto]) -> None:
    """Check that every tensor's values are there, as many as its shape says and in a file that is the model's own.

    Ranges may be equal, as those of shared weights, but must not overlap in part.

    Raises:
        ModelError: One is not.
    """
    ranges: dict[str, list[tuple[int, int, str]]] = {}
    files: dict[str, int] = {}
    for tensor in tensors:
        size = stored_bytes(where, tensor)
        if not uses_external_data(tensor):
            _check_held(where, tensor, size)
            continue
        location, start, length = external_place(where, tensor)
        if location not in files:
            files[location] = _checked_file(where, location, tensor.name)
        if length is not None and length != size:
            raise ModelError(
                f"{where}: tensor {tensor.name!r} needs {size} bytes for its shape {list(tensor.dims)}, and its"
                f" external data has {length}; export the model again"
            )
        if start + size > files[location]:
            raise ModelError(
                f"{where}: tensor {tensor.name!r} lies at bytes {start} to {start + size} of {where.parent / location},"
                f" which has {files[location]} bytes; copy the data file beside the model whole"
            )
        ranges.setdefault(location, []).append((start, start + size, tensor.name))
    for location, found in ranges.items():
        _check_apart(where, location, found)


def stored_bytes(where: Path, tensor: TensorProto) -> int:
    """Return the bytes that a tensor of this shape and type takes; of text, 0.

    Raises:
        ModelError: The shape or the type makes no sense.
    """
    if any(extent < 0 for extent in tensor.dims):
        raise ModelError(
            f"{where}: tensor {tensor.name!r} has the shape {list(tensor.dims)}, with a negative extent; export the"
            " model again"
        )
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise ModelError(
            f"{where}: tensor {tensor.name!r} has the unknown data type {tensor.data_type}; export the model again"
        ) from error
    if tensor.data_type == TensorProto.STRING:
        return 0
    bits: int = _PART_OF_BYTE.get(kind.name, 8 * kind.itemsize)
    count: int = math.prod(tensor.dims)
    return -(-count * bits // 8)


def _check_held(where: Path, tensor: TensorProto, size: int) -> None:
    """Check that a tensor that holds its own values holds as many as its shape says."""
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data") and (tensor.raw_data or size):
        found, needed, unit = len(tensor.raw_data), size, "bytes"
    else:
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
        found, needed, unit = len(getattr(tensor, field)), count, "values"
        if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            needed = 2 * count
        elif size < count and tensor.data_type != TensorProto.STRING:  # several elements in each number
            needed = size
    if found != needed:
        raise ModelError(
            f"{where}: tensor {tensor.name!r} needs {needed} {unit} for its shape {list(tensor.dims)} and has {found};"
            " export the model again"
        )


def _checked_file(where: Path, location: str, name: str) -> int:
    """Return the size of a data file that lies where it may."""
    path = where.parent / location
    beginning = f"{where}: tensor {name!r} lies in {location!r}, "
    outside = any(kind(location).is_absolute() for kind in (PurePosixPath, PureWindowsPath))
    if outside or ".." in PurePosixPath(location).parts or "\\" in location or "\0" in location:
        raise ModelError(
            f"{beginning}which does not name a file of the model's own folder; save the model and its data in one"
            " folder again"
        )
    try:
        real, folder = Path(os.path.realpath(path)), Path(os.path.realpath(where.parent))
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"{beginning}which is missing; copy the data file beside the model whole") from error
    except OSError as error:
        raise ModelError(f"{beginning}which cannot be read ({error.strerror}); mend the file") from error
    if not real.is_relative_to(folder):
        raise ModelError(f"{beginning}a link that leads out of the model's folder, to {real}; copy the data file there")
    if path.is_symlink():
        raise ModelError(f"{beginning}a symbolic link, which the ONNX checker refuses; copy the data file itself there")
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{beginning}which is no plain file; copy the data file beside the model")
    if found.st_nlink > 1:
        raise ModelError(
            f"{beginning}which has {found.st_nlink} names (hard links), so that it may be another folder's file too;"
            " copy the data file itself"
        )
    return found.st_size


def _check_apart(where: Path, location: str, ranges: list[tuple[int, int, str]]) -> None:
    names = {(start, end): name for start, end, name in ranges if start < end}
    spans = sorted(names)
    for before, after in itertools.pairwise(spans):
        if after[0] < before[1]:
            raise ModelError(
                f"{where}: tensors {names[before]!r} at bytes {before[0]} to {before[1]} and {names[after]!r} at"
                f" {after[0]} to {after[1]} of {location!r} overlap in part; export the model again"
            )
