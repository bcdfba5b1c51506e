"""Fashion-MNIST (Xiao et al. 2017, MIT licence) from a folder with its four published idx.gz files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankfold.models.labelled_images import LabelledImages, labelled
from rankfold.models.labelled_images import as_input as as_input

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_PREFIX = {"train": "train", "test": "t10k"}
_UINT8 = 8  # the idx format's code for unsigned bytes


def read(folder: Path, split: str) -> LabelledImages:
    """Return the `train` (60,000) or `test` (10,000) split, images (count, 1, 28, 28).

    Raises:
        ValueError: A file is not an idx file of unsigned bytes, or the two files do not fit each other.
        OSError: A file is missing or cannot be read.
    """
    images = _read_idx(folder / f"{_PREFIX[split]}-images-idx3-ubyte.gz", axes=3)
    labels = _read_idx(folder / f"{_PREFIX[split]}-labels-idx1-ubyte.gz", axes=1)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} {split} images but {len(labels)} labels; expected as many")
    return labelled(folder, images[:, None], labels, CLASSES)


def _read_idx(path: Path, *, axes: int) -> NDArray[np.uint8]:
    try:
        raw = gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged or cut short ({error}); fetch it again") from error
    header = 4 + 4 * axes
    if len(raw) < header or struct.unpack(">HBB", raw[:4]) != (0, _UINT8, axes):
        raise ValueError(f"{path}: not an idx file of unsigned bytes with {axes} axes")
    shape = struct.unpack(f">{axes}I", raw[4:header])
    if len(raw) - header != math.prod(shape):
        raise ValueError(f"{path}: {len(raw) - header} bytes for shape {shape}; fetch it again")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
