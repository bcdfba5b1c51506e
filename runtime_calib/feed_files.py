"""Which kind of calibration data a path leads to."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from rankfold.errors import CalibrationDataError

_KINDS = ".npz, a folder of .npz files, .json or a folder of .json files (polygraphy run --save-inputs), .py"


def data_files(path: Path) -> list[Path]:
    """Return the file itself, or the `.npz` or `.json` files of a folder in the order of their names.

    Raises:
        CalibrationDataError: Nothing there, no such files, both kinds, or a suffix nobody knows.
    """
    if not path.exists():
        raise CalibrationDataError(f"{path}: no such file or folder; expected {_KINDS}")
    if not path.is_dir():
        if path.suffix not in (".npz", ".json", ".py"):
            hint = "; save it with np.savez(path, input_name=array)" if path.suffix == ".npy" else ""
            raise CalibrationDataError(f"{path}: unknown kind of data '{path.suffix}'; expected {_KINDS}{hint}")
        return [_plain(path)]
    archives, json_files = sorted(path.glob("*.npz")), sorted(path.glob("*.json"))
    if archives and json_files:
        raise CalibrationDataError(f"{path}: holds both .npz and .json files; give a folder with one kind")
    if not archives and not json_files:
        raise CalibrationDataError(f"{path}: the folder holds no .npz and no .json file; expected {_KINDS}")
    return [_plain(file) for file in archives or json_files]


def _plain(path: Path) -> Path:
    if not path.is_file():  # opening a pipe would wait for its writer
        raise CalibrationDataError(f"{path}: is no plain file; expected {_KINDS}")
    return path


def json_feeds(paths: list[Path]) -> Iterator[object]:
    """Yield the feeds of Polygraphy's inputs files: each holds one feed or a list of them.

    Raises:
        CalibrationDataError: A file is not JSON that Polygraphy wrote.
    """
    for path in paths:
        content = _load_json(path)
        yield from content if isinstance(content, list) else [content]


def _load_json(path: Path) -> object:
    from polygraphy.exception import PolygraphyException
    from polygraphy.json import load_json
    from polygraphy.logger import G_LOGGER

    # Polygraphy's decoder lets whatever a malformed entry raises through.
    malformed = (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, RecursionError, MemoryError)
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):  # it prints its errors besides raising them
            content: object = load_json(str(path))
    except (*malformed, PolygraphyException, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CalibrationDataError(
            f"{path}: not an inputs file of Polygraphy ({reason}); write it with polygraphy run --save-inputs"
        ) from error
    return content
