"""Samples kept on disk with their labels, and what is wrong with labels that cannot be used as classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.activation_sums import Batch
from rankfold.runtime_calib.feed_files import data_files
from rankfold.runtime_calib.feeds import DataLike, open_source
from rankfold.runtime_calib.npz_stream import members, open_npz
from rankfold.runtime_calib.shelf import Shelf
from rankfold.runtime_calib.units import sample_count
from rankfold.values import InputSpec

MOST_CLASSES = 4096  # whole numbers that take more values are likely no classes; each class's sums take a row
_EXPECTED = "expected one whole number per sample"
_LABELS = "labels"


def keep_units(data: DataLike, inputs: tuple[InputSpec, ...], path: Path) -> Shelf:
    """Read data once and keep it in a file, to be run in as many passes as memory asks for.

    Raises:
        CalibrationDataError: The data does not fit the model, or holds no samples.
        OutputError: The disk is full.
    """
    with Shelf(path) as shelf:
        for unit in open_source(data, inputs).units:
            shelf.write(unit)
    if not len(shelf):
        raise CalibrationDataError("the data holds no samples; give at least two")
    return shelf


def class_numbers(shelf: Shelf, data: DataLike) -> NDArray[np.generic]:
    """Return the labels that occur, each once, rising: the places of the classes.

    Raises:
        CalibrationDataError: There are none, they are no whole numbers or not one per sample, or they make fewer than
            two classes or more than `MOST_CLASSES`.
    """
    found = [(number, shelf.unit(number)) for number in range(len(shelf))]
    for number, unit in found:
        if unit.labels is None:
            raise CalibrationDataError(unlabelled(data, instead="measure without labels"))
        if len(unit.labels) != sample_count(unit.feed):
            raise CalibrationDataError(
                f"feed {number} of the data has {len(unit.labels)} labels for {sample_count(unit.feed)} samples;"
                f" {_EXPECTED}"
            )
    classes = np.unique(np.concatenate([unit.labels for _, unit in found if unit.labels is not None]))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise CalibrationDataError(
            f"the labels of the data take {len(classes)} values; expected 2 to {MOST_CLASSES} classes, or measure"
            " without labels"
        )
    return classes


def has_labels(shelf: Shelf, data: DataLike) -> bool:
    """Return whether the data says anything of labels, usable or not."""
    return shelf.labelled or bool(_stored_labels(data))


def class_batches(shelf: Shelf, classes: NDArray[np.generic] | None, batch_size: int) -> Iterator[Batch]:
    """Yield all samples in batches, with the place of each sample's class where there are classes."""
    for numbers in shelf.batches(batch_size):
        feed, labels = shelf.batch(numbers)
        yield feed, None if classes is None or labels is None else np.searchsorted(classes, labels)


def unlabelled(data: DataLike, *, instead: str) -> str:
    """Return what is wrong with the labels of data that gives none, and what else can be done."""
    for path, found in _stored_labels(data).items():
        return f"{path}: '{_LABELS}' is {found}; {_EXPECTED}, as in np.savez(path, **inputs, {_LABELS}=numbers)"
    return (
        f"there are no '{_LABELS}' that could be used beside the inputs of the data; {_EXPECTED}: give an .npz, or feed"
        f" dicts, with an array '{_LABELS}', or {instead}"
    )


def _stored_labels(data: DataLike) -> dict[Path, str]:
    """Return the type and shape of the labels in each .npz of the data that has some."""
    if not isinstance(data, str | os.PathLike):
        return {}
    found: dict[Path, str] = {}
    for path in data_files(Path(data)):
        if path.suffix != ".npz":
            continue
        with open_npz(path) as archive:
            member = members(archive, path).get(_LABELS)
        if member is not None:
            found[path] = f"{member.header.dtype.name} of shape {member.header.shape}"
    return found
