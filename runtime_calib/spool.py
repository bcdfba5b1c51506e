"""Held-out batches on disk: an `.npz` file, written batch after batch, with members such as `0000/input_ids`."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Self

from numpy.lib import format as npy

from rankfold.errors import OutputError
from rankfold.runtime_calib.npz_stream import Member, members, open_npz, row_stream
from rankfold.runtime_calib.units import Unit, can_join, join
from rankfold.values import Feed

_MEMBER = re.compile(r"(\d{4,})/(.+)", re.DOTALL)


class SpoolWriter:
    """Writes units as batches; memory holds one batch.

    The file appears under its name when the context ends well, and not at all when it ends with an error.

    Raises:
        OutputError: The file cannot be written.
    """

    def __init__(self, path: Path, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        self.path = path
        self._batch_size = batch_size
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._pending: list[Unit] = []
        self._batches = 0

    def __enter__(self) -> Self:
        try:
            self._archive = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_STORED)
        except OSError as error:
            raise self._refusal(error) from error
        return self

    def write(self, unit: Unit) -> None:
        """Add one unit, joined with its neighbours where they fit.

        Raises:
            OutputError: The disk is full or gone.
        """
        if self._pending and not can_join(self._pending[0], unit):
            self._write_pending()
        # Units are views into larger chunks; a copy lets go of the chunk while the unit waits for its batch.
        own = {name: array.copy() if name in unit.joins else array for name, array in unit.feed.items()}
        self._pending.append(replace(unit, feed=own))
        if len(self._pending) == self._batch_size or not unit.joins:
            self._write_pending()

    def _write_pending(self) -> None:
        try:
            for name, array in join(self._pending).items():
                member = zipfile.ZipInfo(f"{self._batches:04d}/{name}.npy")  # dated 1980: same data, same bytes
                with self._archive.open(member, "w", force_zip64=True) as stream:
                    npy.write_array(stream, array, allow_pickle=False)
        except OSError as error:
            raise self._refusal(error) from error
        self._pending = []
        self._batches += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._pending:
                self._write_pending()
            self._archive.close()
            if error is None:
                os.replace(self._partial, self.path)
        except OSError as failure:
            raise self._refusal(failure) from failure
        finally:
            self._partial.unlink(missing_ok=True)

    def _refusal(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: held-out data cannot be written ({error.strerror or error}); give a folder that exists, is "
            f"writable and has room"
        )


def is_spool(path: Path) -> bool:
    """Tell whether an `.npz` file is one of held-out batches, by the names of its members.

    Raises:
        CalibrationDataError: It cannot be read.
    """
    with open_npz(path) as archive:
        names = archive.namelist()
    return bool(names) and all(_MEMBER.fullmatch(name) for name in names)


def read_spool(path: Path) -> Iterator[Feed]:
    """Yield the batches in the order they were written.

    Raises:
        CalibrationDataError: The file is missing, damaged or no such file.
    """
    with open_npz(path) as archive:
        for batch in _batches(members(archive, path)):
            yield {name: row_stream(archive, path, member)(None) for name, member in batch.items()}


def spool_samples(path: Path) -> int:
    """Return the samples in all batches, from the headers alone.

    Raises:
        CalibrationDataError: As `read_spool`.
    """
    with open_npz(path) as archive:
        shapes = [[member.header.shape for member in batch.values()] for batch in _batches(members(archive, path))]
    return sum(next((shape[0] for shape in batch if shape), 1) for batch in shapes)


def _batches(found: dict[str, Member]) -> Iterator[dict[str, Member]]:
    for _, keys in groupby(found, key=lambda key: key.partition("/")[0]):
        yield {key.partition("/")[2]: found[key] for key in keys}
