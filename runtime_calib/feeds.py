"""Calibration data as users have it, read once and in order, as units that fit the model.

Everything is checked on the way: names, dtypes, shapes, counts and values. Memory is bounded by a few megabytes or
one unit, whichever is larger, wherever the data itself comes in pieces.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.data_script import script_feeds
from rankfold.runtime_calib.feed_checks import RESERVED, check_dtypes, check_names, sample_labels, unit_groups
from rankfold.runtime_calib.feed_cut import Notes, cut
from rankfold.runtime_calib.feed_files import data_files, json_feeds
from rankfold.runtime_calib.feed_layout import Header, lay_out
from rankfold.runtime_calib.npz_source import npz_source
from rankfold.runtime_calib.npz_stream import TakeRows
from rankfold.runtime_calib.split import Parting, UnitWriter, hold_out
from rankfold.runtime_calib.spool import SpoolWriter, is_spool, read_spool, spool_samples
from rankfold.runtime_calib.units import Source, Unit, batched, sample_count
from rankfold.values import Feed, InputSpec

__all__ = [
    "DataLike",
    "DataReader",
    "Parting",
    "Source",
    "SpoolWriter",
    "Unit",
    "UnitWriter",
    "batched",
    "hold_out",
    "open_source",
    "read_spool",
    "sample_count",
    "spool_samples",
]


@runtime_checkable
class DataReader(Protocol):
    """What onnxruntime calls a CalibrationDataReader: `get_next` gives a feed, and None at the end."""

    def get_next(self) -> Feed | None:
        """Return the next feed."""
        ...


DataLike = str | os.PathLike[str] | Iterable[Feed] | DataReader


def open_source(data: DataLike, inputs: tuple[InputSpec, ...]) -> Source:
    """Open calibration data for a model with these inputs.

    Args:
        data: A path: `.npz` (input name to array, axis 0 counts samples), a folder of such files in the order of
            their names, a file of held-out batches that rankfold wrote, Polygraphy's inputs JSON (a file or a folder),
            or a Python script with `load_data()`, which runs as the user's own code. Or an iterable of feed dicts, one
            feed dict, or an object with `get_next()`.
        inputs: The model's inputs.

    Where axis 0 of the model is dynamic, data is cut into single samples; where it is fixed, into whole batches of
    that size. The keys `group` (one integer or text per sample: samples of one group stay together) and `labels`
    (class numbers, for tuning) are free unless the model has inputs of these names.

    Raises:
        CalibrationDataError: The data is not there, cannot be read or does not fit; for what a header does not tell,
            while the units are read.
    """
    if not isinstance(data, str | os.PathLike):
        return Source(_checked_units(_feeds_of(data), inputs, "data"))
    path = Path(data)
    files = data_files(path)
    if files[0].suffix == ".json":
        return Source(_checked_units(json_feeds(files), inputs, str(path)))
    if files[0].suffix == ".py":
        return Source(_checked_units(script_feeds(path, _feeds_of), inputs, str(path)))
    if len(files) == 1 and is_spool(files[0]):
        return Source(_checked_units(read_spool(files[0]), inputs, str(path)), spool_samples(files[0]))
    return npz_source(files, inputs)


def _feeds_of(data: object) -> Iterator[object]:
    if isinstance(data, DataReader):
        return iter(data.get_next, None)
    if isinstance(data, Mapping):
        return iter([data])
    if isinstance(data, Iterable):
        return iter(data)
    raise CalibrationDataError(
        f"data is a {type(data).__name__}; expected a path, an iterable of feed dicts or an object with get_next()"
    )


def _checked_units(feeds: Iterable[object], inputs: tuple[InputSpec, ...], where: str) -> Iterator[Unit]:
    index = -1
    for index, feed in enumerate(feeds):
        yield from _units_of_feed(feed, inputs, f"{where}, feed {index}")
    if index < 0:
        raise CalibrationDataError(f"{where}: no feeds; give at least 2 samples")


def _units_of_feed(feed: object, inputs: tuple[InputSpec, ...], where: str) -> Iterator[Unit]:
    if not isinstance(feed, Mapping):
        raise CalibrationDataError(f"{where}: is a {type(feed).__name__}; expected a dict of input name to array")
    check_names(feed.keys(), inputs, where)
    arrays = {spec.name: _array(feed[spec.name], spec.name, where) for spec in inputs}
    headers = {name: Header(array.shape, array.dtype) for name, array in arrays.items()}
    check_dtypes(headers, inputs, where)
    layout = lay_out(headers, inputs, where)
    if layout.dropped:
        raise CalibrationDataError(
            f"{where}: input '{layout.slots[0].name}' has {layout.samples} samples; the model's axis 0 is fixed at "
            f"{layout.step}: give whole batches (a torch DataLoader: drop_last=True)"
        )
    group_key = RESERVED[0]
    has_groups = group_key in feed and group_key not in arrays
    group = _array(feed[group_key], group_key, where) if has_groups else None
    rows = {name: _rows_of(array) for name, array in arrays.items()}
    label_key = RESERVED[1]
    has_labels = label_key in feed and label_key not in arrays
    labels = sample_labels(_array(feed[label_key], label_key, where), layout) if has_labels else None
    yield from cut(layout, rows, Notes(unit_groups(group, layout, where), labels), where)


def _array(value: object, name: str, where: str) -> NDArray[np.generic]:
    # Lists of unequal lengths and tensors that live on a device or need gradients do not become arrays.
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CalibrationDataError(f"{where}: '{name}' is no array ({error}); give a numpy array") from error


def _rows_of(array: NDArray[np.generic]) -> TakeRows:
    position = 0

    def take(rows: int | None) -> NDArray[np.generic]:
        nonlocal position
        start, position = position, array.shape[0] if rows is None and array.ndim else position + (rows or 0)
        # Copied: many loaders refill one buffer, while units of earlier feeds still wait for their batch.
        part = array[start:position] if array.ndim else array
        return np.array(part, dtype=array.dtype.newbyteorder("="), order="C")

    return take
