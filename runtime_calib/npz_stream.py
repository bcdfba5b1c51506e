"""Reading `.npz` files a few rows at a time, straight from the zip: memory does not grow with the file."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.feed_layout import Header

FORTRAN_LIMIT_BYTES = 2**28
"""Column-major arrays have no rows to stream, so they are read whole, up to this size."""

TakeRows = Callable[[int | None], NDArray[np.generic]]
"""Returns the next so many rows along axis 0; all that are left for None."""

_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Member:
    """One array of an `.npz` file, as its header describes it.

    Attributes:
        name: The key, without `.npy`.
        offset: Bytes of magic and header before the values.
        column_major: True where axis 0 varies fastest.
    """

    name: str
    file_name: str
    header: Header
    offset: int
    column_major: bool

    @property
    def size_bytes(self) -> int:
        """Return the bytes of its values."""
        return self.header.size_bytes


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn everything a damaged or unreadable file raises into one error that names it.

    Raises:
        CalibrationDataError: From the original error.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise CalibrationDataError(f"{path}: no such file; check the path") from error
    except zipfile.BadZipFile as error:
        raise CalibrationDataError(
            f"{path}: not a readable .npz file ({error}); expected a complete zip written by np.savez: write it again"
        ) from error
    # Seen when feeding damaged files: RuntimeError (its child NotImplementedError included) from zipfile for encryption
    # and unknown compression, ValueError SyntaxError and TokenError from numpy's header parser.
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, SyntaxError, tokenize.TokenError) as error:
        reason = str(error) or "it ends early"
        raise CalibrationDataError(f"{path}: cannot be read ({reason}); write it again with np.savez") from error


@contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the file for reading.

    Raises:
        CalibrationDataError: It is missing, unreadable or not a zip.
    """
    with reading(path):
        archive = zipfile.ZipFile(path)
    with archive:
        yield archive


def members(archive: zipfile.ZipFile, path: Path) -> dict[str, Member]:
    """Return all arrays of the file by key, in the file's order, from their headers.

    Raises:
        CalibrationDataError: A member is no plain array, or shorter or longer than its header says, or named twice.
    """
    found: dict[str, Member] = {}
    for info in archive.infolist():
        with reading(path):
            member = _member(archive, info)
        if member.name in found:
            raise CalibrationDataError(f"{path}: holds '{member.name}' twice; write it again with np.savez")
        found[member.name] = member
    return found


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    name = info.filename.removesuffix(".npy")
    if info.flag_bits & _ENCRYPTED:
        raise ValueError(f"'{name}' is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # What numpy never writes can expand a millionfold; these expand a thousandfold at most.
        raise ValueError(f"'{name}' is packed in a way that numpy does not write")
    with archive.open(info) as stream:
        header, column_major = _read_header(stream, name)
        member = Member(name, info.filename, header, stream.tell(), column_major)
    if header.dtype.hasobject:
        raise ValueError(f"'{name}' holds Python objects; plain numeric or text arrays are needed, never pickles")
    if member.offset + member.size_bytes != info.file_size:
        raise ValueError(
            f"'{name}' has {info.file_size - member.offset} bytes of values, its header says {member.size_bytes}"
        )
    return member


def _read_header(stream: IO[bytes], name: str) -> tuple[Header, bool]:
    start = stream.read(npy.MAGIC_LEN)
    if start[:-2] != npy.MAGIC_PREFIX:
        raise ValueError(f"'{name}' is not an array in numpy's format")
    version = (start[-2], start[-1])
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"'{name}' has numpy format version {version}, expected (1, 0) or (2, 0)")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, column_major, dtype = read(stream)
    # numpy's parser lets these through for a `descr` that is no dtype, such as ().
    except (LookupError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(f"'{name}' has a header that makes no sense: {error}") from error
    if any(length < 0 for length in shape):
        raise ValueError(f"'{name}' has shape {shape}, a negative length")
    return Header(shape, dtype), column_major and len(shape) > 1


def row_stream(archive: zipfile.ZipFile, path: Path, member: Member) -> TakeRows:
    """Return a function that gives the member's next rows, in the machine's byte order, read-only.

    The stream stays open as long as the archive does; several may be read side by side.

    Raises:
        CalibrationDataError: A column-major array above `FORTRAN_LIMIT_BYTES`; on reading, a truncated file.
    """
    with reading(path):
        if member.column_major and member.size_bytes > FORTRAN_LIMIT_BYTES:
            raise ValueError(
                f"'{member.name}' is in Fortran order and too large ({member.size_bytes} bytes) to be turned in "
                f"memory; save np.ascontiguousarray(array)"
            )
        stream = archive.open(member.file_name)
        stream.read(member.offset)
    if member.column_major:
        return _rows_of_column_major(stream, path, member)
    shape = member.header.shape
    row_values = math.prod(shape[1:])
    left = shape[0] if shape else 1

    def take(rows: int | None) -> NDArray[np.generic]:
        nonlocal left
        count = left if rows is None else min(rows, left)
        left -= count
        with reading(path):
            values = _values(stream, member, count * row_values)
        return values.reshape((count, *shape[1:]) if shape else ())

    return take


def _rows_of_column_major(stream: IO[bytes], path: Path, member: Member) -> TakeRows:
    whole: NDArray[np.generic] | None = None
    position = 0

    def take(rows: int | None) -> NDArray[np.generic]:
        nonlocal whole, position
        if whole is None:
            with reading(path):
                whole = _values(stream, member, math.prod(member.header.shape))
            whole = np.ascontiguousarray(whole.reshape(member.header.shape, order="F"))
        start, position = position, len(whole) if rows is None else position + rows
        return whole[start:position]

    return take


def _values(stream: IO[bytes], member: Member, count: int) -> NDArray[np.generic]:
    dtype = member.header.dtype
    size = count * dtype.itemsize
    content = stream.read(size) if size else b""
    if len(content) != size:
        raise EOFError(f"'{member.name}' ends early")
    values = np.frombuffer(content, dtype) if size else np.empty(count, dtype)
    return values if dtype.isnative else values.astype(dtype.newbyteorder("="))
