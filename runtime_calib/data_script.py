"""Calibration data from a user's Python script."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType

from rankfold.errors import CalibrationDataError

_MODULE = "rankfold_data_script"
_END = object()


def script_feeds(path: Path, feeds_of: Callable[[object], Iterator[object]]) -> Iterator[object]:
    """Run the script and yield what its `load_data()` gives, one feed at a time.

    The script runs as the user's own code, with all of the user's rights. While it gives data its folder is
    importable, as if it had been started as `python script.py`.

    Args:
        path: The script.
        feeds_of: Turns what `load_data()` returned into an iterator of feeds.

    Raises:
        CalibrationDataError: There is no `load_data`, or the script raised; with file, line and the original error.
    """
    guard = UserCode(path)
    with importable(path.resolve().parent):
        with guard:
            load_data = runpy.run_path(str(path), run_name=_MODULE).get("load_data")
        if not callable(load_data):
            raise CalibrationDataError(f"{path}: has no function load_data(); define one that yields feed dicts")
        with guard:
            feeds = feeds_of(load_data())
        while True:
            with guard:
                feed = next(feeds, _END)
            if feed is _END:
                return
            yield feed


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let the modules of a folder be imported."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


class UserCode:
    """Context in which whatever the script raises, its exit included, becomes a CalibrationDataError.

    What it prints goes to stderr: stdout is for results. The working folder that it changes to is its own: outside the
    context relative paths mean what they meant before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder: str | None = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the script's working folder for a call that comes back from it."""
        there = _working_folder()
        _change_to(self._before)
        try:
            yield
        finally:
            _change_to(there)

    def __enter__(self) -> None:
        self._before = _working_folder()
        _change_to(self._folder)
        self._printing = redirect_stdout(sys.stderr)
        self._printing.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._printing.__exit__(None, None, None)
        self._folder = _working_folder()
        _change_to(self._before)
        if isinstance(error, Exception | SystemExit) and not isinstance(error, CalibrationDataError):
            line = _line(error, str(self.path))
            raise CalibrationDataError(
                f"{self.path}{line}: the script raised {type(error).__name__}: {error}; mend the script"
            ) from error


def _working_folder() -> str | None:
    """Return the working folder, None where it was removed."""
    try:
        return str(Path.cwd())
    except OSError:
        return None


def _change_to(folder: str | None) -> None:
    """Work in a folder; one that was removed is left alone."""
    if folder is not None and folder != _working_folder():
        with suppress(OSError):
            os.chdir(folder)


def _line(error: BaseException, file_name: str) -> str:
    if isinstance(error, SyntaxError) and error.filename == file_name:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file_name]
    return f", line {lines[-1]}" if lines else ""
