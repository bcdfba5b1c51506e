"""Random ways to spoil sound data: headers of the arrays, names, packing, bytes.

Everything is drawn from one `random.Random`, so that a seed names a case.
"""

from __future__ import annotations

import base64
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.mutations import FEATURES, SAMPLES, spoil_bytes, spoilt

_LARGEST_BOMB = 2**25  # values


def spoil_data(path: Path, draw: random.Random) -> tuple[Path, str]:
    """Replace sound data by spoilt data of some kind; return where it lies and what was done."""
    way = draw.choice(sorted(_DATA))
    return _DATA[way](path, draw), way


def _npz_bytes(path: Path, draw: random.Random) -> Path:
    spoil_bytes(path, draw)
    return path


def _npz_header(path: Path, draw: random.Random) -> Path:
    """Write members whose headers, names or packing are not what they should be."""
    with np.load(path) as archive:
        arrays = dict(archive)
    packing = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, array in arrays.items():
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
            header[draw.choice(tuple(header))] = draw.choice(_HEADERS)  # type: ignore[assignment]
            start = io.BytesIO()
            try:
                np.lib.format.write_array_header_1_0(start, header)  # type: ignore[arg-type]
            except (ValueError, TypeError, OverflowError):
                start.write(b"\x93NUMPY\x01\x00\x76\x00" + repr(header).encode().ljust(117)[:117] + b"\n")
            named = draw.choice((name, name, name, f"../{name}", f"/{name}", f"{name}/..", f"{name}/"))
            archive.writestr(f"{named}.npy", start.getvalue() + array.tobytes())
    return path


_HEADERS = (
    "|O", "<f8", "<U0", "|V4", "<M8[s]", [("a", "<f4")], "nope", None, True, (), (10**12, FEATURES), (10**30,),
    (SAMPLES, FEATURES, 1), (-1, FEATURES), (0, FEATURES), (10**12, 0), (SAMPLES * FEATURES,), "(1, 2)", (1.5, 2),
)  # fmt: skip


def _npz_bomb(path: Path, draw: random.Random) -> Path:
    """Write zeros, which expand a thousandfold."""
    shapes = ((2, _LARGEST_BOMB), (2, _LARGEST_BOMB // 64), (2**11, FEATURES))
    np.savez_compressed(path, x=np.zeros(draw.choice(shapes), np.float32))
    return path


def _pickled(path: Path, draw: random.Random) -> Path:
    np.savez(path, x=np.array([{"a": 1}, draw.random()], object))
    return path


def _json(path: Path, draw: random.Random) -> Path:
    """Write Polygraphy's inputs file with something wrong in it."""
    with np.load(path) as archive:
        feeds = [
            {name: _as_json(array[:4] if array.ndim else array, draw) for name, array in archive.items()}
            for _ in range(3)
        ]
    text = json.dumps(feeds)
    if draw.random() < 0.5:
        text = spoilt(text.encode(), draw).decode("latin-1")
    if draw.random() < 0.1:
        text = "[" * 100_000
    path.with_suffix(".json").write_text(text)
    return path.with_suffix(".json")


def _as_json(array: NDArray[Any], draw: random.Random) -> Any:
    buffer = io.BytesIO()
    np.save(buffer, array)
    content = buffer.getvalue() if draw.random() < 0.5 else spoilt(buffer.getvalue(), draw)
    wrong = draw.choice(("Tensor", "ndarray", "LazyArray", "TensorMetadata", 3, None))
    kind = "ndarray" if draw.random() < 0.8 else wrong
    return {"array": base64.b64encode(content).decode(), "polygraphy_class": kind}


def _folder(path: Path, draw: random.Random) -> Path:
    """Write a folder of several files, one of them spoilt or of another kind."""
    folder = path.with_name("many")
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.npz").write_bytes(path.read_bytes())
    spoil_bytes(folder / f"{draw.randrange(3)}.npz", draw)
    if draw.random() < 0.3:
        (folder / "4.json").write_text("{}")
    return folder


_DATA: dict[str, Callable[[Path, random.Random], Path]] = {
    "npz bytes": _npz_bytes, "npz header": _npz_header, "npz bomb": _npz_bomb, "npz pickle": _pickled, "json": _json,
    "folder": _folder,
}  # fmt: skip
