"""Small sets of images in Fashion-MNIST's published layout, and a transformer that is small enough for them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from rankfold.models.vit import ViTShape

TINY = ViTShape(patch_size=7, width=16, depth=2, heads=2)


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), compresslevel=1))


def write_images(folder: Path, *, train_count: int, test_count: int) -> Path:
    random = np.random.default_rng(0)
    for prefix, count in (("train", train_count), ("t10k", test_count)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", random.integers(0, 10, count))
    return folder
