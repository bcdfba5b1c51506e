"""Results under temporary names until they are whole, and the removal of what a killed process left of them.

Every result is made in a hidden folder beside its place, `.NAME.PID.XXXXXXXX.partial`, on which its maker holds a lock
for as long as it lives. The system lets go of the lock however a process ends, so that the next one can tell what is
left over from what is being written, on any machine that shares the disk. Standard library only.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

SUFFIX = ".partial"
_LONGEST = 120
"""Bytes of the result's name in that of its folder: a name may have 255 bytes."""
_NOTE = ".unneeded"
"""In a staged folder: the data files that nobody may need once the result is placed, or is not, one name a line."""
_OWN_DATA = re.compile(r".+\.([0-9a-f]{12})\.data", re.DOTALL)
_PATIENCE_S = 10.0
"""How long to wait for another process that places its result in the same folder: renaming takes far less."""
_NO_MODELS = (".data", ".npz")
"""Suffixes of files that are not searched for references to a data file."""
_LARGEST_MODEL = 2**31
"""Bytes that a model file may have, as every protobuf message."""


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Make a locked folder beside `path` to prepare it in, removed at the end; first what dead processes left.

    Raises:
        OSError: The folder cannot be made.
    """
    sweep(path.parent, name=path.name)
    folder, lock = _locked_folder(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep(parent: Path, *, name: str | None = None, pid: int | None = None) -> None:
    """Remove the partial folders whose makers are dead, and the data files they were about to remove.

    Args:
        parent: Where to look.
        name: Only those of results of this name.
        pid: Only those made by this process.
    """
    whose = ".*" if name is None else re.escape(_shortened(name))
    made_by = r"\d+" if pid is None else str(pid)
    pattern = re.compile(rf"\.{whose}\.{made_by}\.[^.]+{re.escape(SUFFIX)}", re.DOTALL)
    with suppress(OSError):
        for folder in [entry for entry in parent.iterdir() if pattern.fullmatch(entry.name)]:
            _remove_if_dead(folder)


def place(folder: Path, path: Path) -> None:
    """Move the files of a partial folder beside each other, that named as `path` last; then drop the data it replaced.

    Of two processes that place a result under one name, one does all of this before the other begins.

    Raises:
        OSError: A file cannot be moved; the result that was there stays whole.
    """
    with _only_one(path.parent) as alone:
        parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
        replaced = _own_data_of(path)
        new = [part.name for part in parts if part.name != path.name]
        (folder / _NOTE).write_text("\n".join([*replaced, *new]), encoding="utf-8")
        unneeded = new
        try:
            for part in parts:
                os.replace(part, path.with_name(part.name))
            unneeded = [name for name in replaced if name not in new]
        finally:
            if alone:
                _remove_unneeded(path.parent, unneeded)


def _shortened(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_LONGEST])


def _locked_folder(path: Path) -> tuple[Path, int | None]:
    while True:
        prefix = f".{_shortened(path.name)}.{os.getpid()}."
        made = Path(tempfile.mkdtemp(prefix=prefix, suffix=SUFFIX, dir=path.parent))
        try:
            lock = _lock(made)
        except BlockingIOError:  # another process takes it for left over, and is about to remove it
            continue
        # Between the two steps another process may have taken it for left over.
        if lock is None or made.exists():
            return made, lock
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Return a descriptor that holds the folder's lock, or None where there are no locks.

    Raises:
        BlockingIOError: Another process holds it.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise BlockingIOError from error
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _remove_if_dead(folder: Path) -> None:
    try:
        lock = _lock(folder)
    except BlockingIOError:
        return
    if lock is None:  # without locks nobody can tell
        return
    try:
        noted = _noted(folder)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
    if noted:
        with _only_one(folder.parent) as alone:
            if alone:
                _remove_unneeded(folder.parent, noted)


def _noted(folder: Path) -> list[str]:
    try:
        return (folder / _NOTE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


@contextmanager
def _only_one(folder: Path) -> Iterator[bool]:
    """Wait until no other process places a result in the folder; yield whether that could be made sure."""
    lock = None
    deadline = time.monotonic() + _PATIENCE_S
    while lock is None and time.monotonic() < deadline:
        try:
            lock = _lock(folder)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        if lock is None:
            break
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _own_data_of(path: Path) -> list[str]:
    """Return the names of the data files beside a model that are named as rankfold names them and stand in it."""
    if not path.is_file():
        return []
    names = [entry.name for entry in path.parent.iterdir() if _OWN_DATA.fullmatch(entry.name)]
    return [name for name in names if _mentions(path, name)]


def _remove_unneeded(folder: Path, names: Iterable[str]) -> None:
    """Remove those data files that no other file of the folder names, and that rankfold made.

    The proof of that is the name: it holds the sha256 of the content.
    """
    for name in dict.fromkeys(names):
        named = _OWN_DATA.fullmatch(name)
        path = folder / name
        if not named or "/" in name or path.is_symlink() or not path.is_file():
            continue
        with suppress(OSError):
            others = [entry for entry in folder.iterdir() if _may_be_model(entry)]
            if not any(_mentions(entry, name) for entry in others) and _digest(path).startswith(named[1]):
                path.unlink()


def _may_be_model(path: Path) -> bool:
    return path.suffix not in _NO_MODELS and path.is_file() and path.stat().st_size <= _LARGEST_MODEL


def _mentions(path: Path, name: str) -> bool:
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(name.encode()) >= 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
