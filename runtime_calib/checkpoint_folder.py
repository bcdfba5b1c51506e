"""The folder of a checkpoint: one run's at a time, and gone when the run is done, whenever that is killed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rankfold.errors import OutputError
from rankfold.whole_files import PARTIAL, whole

if sys.platform != "win32":
    import fcntl

RUN, SUMS = "run.json", "sums.npz"
_LOCK = ".lock"
_OWN = (
    SUMS,
    "held_out.npz",
    "sampled.npz",
    "choosing.npz",
    "calibration.npz",
    "*.gram.npy",
    "*.total.npy",
    "refitted.npz",
    "training.pt",
)


@contextmanager
def checkpoint_folder(folder: Path) -> Iterator[Path]:
    """Yield the folder of a checkpoint, new or of an earlier run; it is removed when the block ends well.

    Raises:
        OutputError: It cannot be made, or holds other things.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = [path for path in folder.iterdir() if path.name != _LOCK and not path.name.endswith(PARTIAL)]
    except OSError as error:
        raise OutputError(
            f"{folder}: no folder for a checkpoint ({error.strerror or error}); give one that can be written"
        ) from error
    if found and not (folder / RUN).is_file():
        raise OutputError(
            f"{folder}: holds {found[0].name!r} and no checkpoint; give a folder of its own, for it is removed at the"
            " end"
        )
    with _locked(folder):
        yield folder
        _end(folder)
    if not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it with the process, however that ends.

    Raises:
        OutputError: Another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
    place = folder / _LOCK
    with place.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{folder}: another run uses this checkpoint; wait for it, or give another") from error
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


def _end(folder: Path) -> None:
    with whole(folder / RUN) as file:  # from here on nothing in it is gone on from, whenever this is killed
        file.write(json.dumps({"finished": True}).encode())
    cleared(folder)
    (folder / RUN).unlink()


def check_outside(folder: Path | None, outputs: Iterable[Path | None]) -> None:
    """Check that nothing is to be written into a checkpoint's folder.

    Raises:
        OutputError: Something is.
    """
    for output in filter(None, outputs):
        if folder is not None and output.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"{output}: lies in the checkpoint's folder, which is removed at the end; give another")


def cleared(folder: Path) -> None:
    """Remove what a checkpoint holds but the file that says what it is; what others put there stays."""
    for pattern in _OWN:
        for path in folder.glob(pattern):
            path.unlink()
