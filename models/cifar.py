"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) as published: the Python version, pickles, or the binary version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankfold.models import array_pickle
from rankfold.models.labelled_images import LabelledImages, labelled

Kind = Literal["cifar10", "cifar100"]
_SHAPE = (3, 32, 32)  # red, green, blue; rows from the top
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """How a set is published.

    Attributes:
        title: Its name in messages.
        folders: What the Python and the binary archive unpack to.
        files: The pickles of each split; the binary files are called the same, with `.bin` behind.
        names: The pickle with the classes' names, and their key in it.
        names_text: The same beside the binary files: one name a line.
        labels: The key of the class numbers in a pickle.
        label_bytes: Bytes before the pixels of a binary record; the last of them is the class.
        classes: How many there are.
    """

    title: str
    folders: tuple[str, str]
    files: dict[str, tuple[str, ...]]
    names: tuple[str, str]
    names_text: str
    labels: str
    label_bytes: int
    classes: int


_LAYOUTS: dict[Kind, _Layout] = {
    "cifar10": _Layout(
        title="CIFAR-10",
        folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
        files={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        names=("batches.meta", "label_names"),
        names_text="batches.meta.txt",
        labels="labels",
        label_bytes=1,
        classes=10,
    ),
    "cifar100": _Layout(
        title="CIFAR-100",
        folders=("cifar-100-python", "cifar-100-binary"),
        files={"train": ("train",), "test": ("test",)},
        names=("meta", "fine_label_names"),
        names_text="fine_label_names.txt",
        labels="fine_labels",
        label_bytes=2,
        classes=100,
    ),
}
_Part = tuple[NDArray[np.uint8], NDArray[np.integer]]


def read(folder: Path, split: str, *, kind: Kind = "cifar10") -> LabelledImages:
    """Return the `train` (50,000) or `test` (10,000) split, images (count, 3, 32, 32).

    `folder` holds the files of the Python or of the binary version, or the folder that either archive unpacks to.
    CIFAR-100's labels are the hundred fine ones.

    Raises:
        OSError: A file is missing or cannot be read.
        ValueError: A file is damaged, cut short or not of this set.
    """
    layout = _LAYOUTS[kind]
    place, binary = _found(folder, layout, split)
    classes = _binary_names(place, layout) if binary else _pickled_names(place, layout)
    paths = [place / (name + ".bin" if binary else name) for name in layout.files[split]]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; {layout.title}'s {split} split has {len(paths)} such files")
    parts = [_binary_part(path, layout) if binary else _pickled_part(path, layout) for path in paths]
    _check_even(paths, parts)
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return labelled(place, images.reshape(-1, *_SHAPE), labels, classes)


def _found(folder: Path, layout: _Layout, split: str) -> tuple[Path, bool]:
    """Return where the files of a split lie, and whether they are the binary version."""
    first = layout.files[split][0]
    for place in (folder, *(folder / name for name in layout.folders)):
        if (place / first).is_file():
            return place, False
        if (place / f"{first}.bin").is_file():
            return place, True
    raise FileNotFoundError(
        f"{folder}: no {layout.title} there: neither {first} (Python version) nor {first}.bin (binary version), nor a "
        f"folder {' or '.join(layout.folders)} with it; unpack the published archive there"
    )


def _pickled_names(place: Path, layout: _Layout) -> tuple[str, ...]:
    name, key = layout.names
    found = array_pickle.load(place / name).get(key)
    names = (
        [line.decode("utf-8", "replace") for line in found if isinstance(line, bytes)]
        if isinstance(found, list)
        else []
    )
    return _checked_names(place / name, names, layout)


def _binary_names(place: Path, layout: _Layout) -> tuple[str, ...]:
    path = place / layout.names_text
    return _checked_names(path, path.read_text(encoding="utf-8", errors="replace").split(), layout)


def _checked_names(path: Path, names: list[str], layout: _Layout) -> tuple[str, ...]:
    if len(names) != layout.classes:
        raise ValueError(
            f"{path}: {len(names)} names of classes, expected {layout.classes} of {layout.title}; fetch it again"
        )
    return tuple(names)


def _pickled_part(path: Path, layout: _Layout) -> _Part:
    content = array_pickle.load(path)
    pixels, numbers = content.get("data"), content.get(layout.labels)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        found = pixels.shape if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"{path}: 'data' is {found}, expected rows of {_PIXELS:,} bytes; fetch it again")
    if not isinstance(numbers, list) or not all(type(number) is int and abs(number) < 1 << 31 for number in numbers):
        raise ValueError(f"{path}: {layout.labels!r} is no list of class numbers; is it {layout.title}?")
    if len(numbers) != len(pixels):
        raise ValueError(f"{path}: {len(pixels)} images but {len(numbers)} labels; fetch it again")
    return pixels, np.array(numbers, np.int64)


def _binary_part(path: Path, layout: _Layout) -> _Part:
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    record = layout.label_bytes + _PIXELS
    if len(raw) == 0 or len(raw) % record:
        raise ValueError(
            f"{path}: {len(raw):,} bytes, expected a multiple of {record:,} ({layout.label_bytes} of labels and "
            f"{_PIXELS:,} pixels an image); cut short, or not {layout.title}: fetch it again"
        )
    rows = raw.reshape(-1, record)
    return rows[:, layout.label_bytes :], rows[:, layout.label_bytes - 1]


def _check_even(paths: list[Path], parts: list[_Part]) -> None:
    """Refuse files of one split that hold different numbers of images: one was cut between two of them."""
    counts = [len(labels) for _, labels in parts]
    for path, count in zip(paths, counts, strict=True):
        if count != max(counts):
            raise ValueError(f"{path}: {count:,} images, the others have {max(counts):,}; fetch it again")
