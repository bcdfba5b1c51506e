"""CIFAR-10 out of one `.npz` of JPEG files, and that as the published binary version.

`python -m benchmarks.cifar_npz --out DIR` reads $CIFAR10_NPZ, or the file of `--npz`, and writes `cifar-10-batches-bin`
into DIR, where `python -m rankfold.models.train NETWORK --dataset cifar10 --data DIR` finds it. Keys of the file:
`{train,test}_jpeg` uint8, all files end to end; `{train,test}_offsets` int64 (images + 1,), where each begins;
`{train,test}_labels` uint8; `classes`. It needs Pillow.
"""

from __future__ import annotations

import argparse
import os
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rankfold.models.labelled_images import LabelledImages, labelled

TRAIN_FILES = 5
_SHAPE = (32, 32, 3)


def npz() -> Path:
    """Return the file that $CIFAR10_NPZ names."""
    named = os.environ.get("CIFAR10_NPZ")
    if not named:
        raise SystemExit("name the .npz of CIFAR-10 in $CIFAR10_NPZ")
    return Path(named)


def read(file: Path, split: str) -> LabelledImages:
    """Return the `train` or `test` split, images (count, 3, 32, 32).

    Raises:
        ValueError: A key is missing, or an image is damaged or of another size.
    """
    with np.load(file) as archive:
        wanted = [f"{split}_jpeg", f"{split}_offsets", f"{split}_labels", "classes"]
        missing = [key for key in wanted if key not in archive.files]
        if missing:
            raise ValueError(f"{file}: no {', '.join(missing)} there; it has {', '.join(archive.files)}")
        packed, offsets, labels, classes = (archive[key] for key in wanted)
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(packed) or (np.diff(offsets) <= 0).any():
        raise ValueError(f"{file}: {split}_offsets do not divide {len(packed):,} bytes into images")
    images = np.empty((len(offsets) - 1, 3, 32, 32), np.uint8)
    for number, (begin, end) in enumerate(pairwise(offsets)):
        images[number] = _decoded(f"{file}: {split} image {number}", packed[begin:end])
    return labelled(file, images, labels, tuple(map(str, classes)))


def _decoded(name: str, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    try:
        pixels = np.asarray(Image.open(BytesIO(packed.tobytes())).convert("RGB"))
    except OSError as error:
        raise ValueError(f"{name}: no readable JPEG ({error})") from error
    if pixels.shape != _SHAPE:
        raise ValueError(f"{name}: {pixels.shape}, expected {_SHAPE}")
    return pixels.transpose(2, 0, 1)


def write_binary(file: Path, folder: Path) -> Path:
    """Write both splits as the binary version, five files for training and one for testing, and return their folder."""
    place = folder / "cifar-10-batches-bin"
    place.mkdir(parents=True, exist_ok=True)
    train, test = read(file, "train"), read(file, "test")
    for number, rows in enumerate(np.array_split(_records(train), TRAIN_FILES), start=1):
        _replace(place / f"data_batch_{number}.bin", rows.tobytes())
    _replace(place / "test_batch.bin", _records(test).tobytes())
    _replace(place / "batches.meta.txt", ("\n".join(train.classes) + "\n").encode())
    return place


def _records(split: LabelledImages) -> NDArray[np.uint8]:
    return np.concatenate([split.labels[:, None].astype(np.uint8), split.images.reshape(len(split.labels), -1)], axis=1)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def main() -> None:
    """Write the binary version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npz", type=Path, help="default: $CIFAR10_NPZ")
    parser.add_argument("--out", type=Path, required=True, help="folder for cifar-10-batches-bin")
    chosen = parser.parse_args()
    print(write_binary(chosen.npz or npz(), chosen.out))


if __name__ == "__main__":
    main()
