"""Files that are whole whenever they are there: a run that is killed while it writes leaves what was before."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rankfold.errors import CalibrationDataError, OutputError

PARTIAL = ".partial"  # behind the name of a file that is being written, with a dot before it
# What json, numpy and torch raise of a file that was cut short or changed.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, RuntimeError, pickle.UnpicklingError)


@contextmanager
def whole(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when it is whole; where durable, also after a loss of power.

    Raises:
        OutputError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); give a folder with room") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Read a file that `whole` wrote, of a checkpoint, in this block.

    Raises:
        CalibrationDataError: The block says that the file is damaged.
    """
    try:
        yield
    except _DAMAGE as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise CalibrationDataError(
            f"{path}: the checkpoint cannot be read ({said}); remove its folder and begin anew"
        ) from error
