"""Calibration data in `.npz` files: one file, or a folder of them in the order of their names."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.feed_checks import check_dtypes, check_names, sample_labels, unit_groups
from rankfold.runtime_calib.feed_cut import Notes, cut
from rankfold.runtime_calib.feed_layout import Layout, lay_out
from rankfold.runtime_calib.npz_stream import Member, members, open_npz, row_stream
from rankfold.runtime_calib.units import Source, Unit
from rankfold.values import InputSpec


def npz_source(paths: list[Path], inputs: tuple[InputSpec, ...]) -> Source:
    """Return the samples of the files, one file after another; all headers are checked now, values while reading.

    Raises:
        CalibrationDataError: A file does not fit the model, or no file fills one batch of the model's fixed size.
    """
    layouts = [_layout(path, inputs) for path in paths]
    if not any(layout.units for layout in layouts):
        found = max(layout.samples for layout in layouts)
        raise CalibrationDataError(
            f"{_named(paths)}: {found} samples do not fill one batch: the model's axis 0 is fixed at "
            f"{layouts[0].step}; give at least {2 * layouts[0].step} samples per file"
        )
    sizes = {layout.unit_samples for layout in layouts}
    return Source(
        units=chain.from_iterable(_units(path, inputs) for path in paths),
        count=sum(layout.units * layout.unit_samples for layout in layouts),
        dropped=sum(layout.dropped for layout in layouts),
        unit_size=sizes.pop() if len(sizes) == 1 else 1,
    )


def _layout(path: Path, inputs: tuple[InputSpec, ...]) -> Layout:
    with open_npz(path) as archive:
        return _checked(members(archive, path), inputs, path)


def _checked(found: dict[str, Member], inputs: tuple[InputSpec, ...], path: Path) -> Layout:
    headers = {name: member.header for name, member in found.items()}
    check_names(headers, inputs, str(path))
    check_dtypes(headers, inputs, str(path))
    return lay_out(headers, inputs, str(path))


def _units(path: Path, inputs: tuple[InputSpec, ...]) -> Iterator[Unit]:
    with open_npz(path) as archive:
        found = members(archive, path)
        layout = _checked(found, inputs, path)
        rows = {slot.name: row_stream(archive, path, found[slot.name]) for slot in layout.slots}
        has_groups = "group" in found and "group" not in rows
        group = row_stream(archive, path, found["group"])(None) if has_groups else None
        yield from cut(
            layout, rows, Notes(unit_groups(group, layout, str(path)), _labels(archive, path, layout)), str(path)
        )


def _labels(archive: zipfile.ZipFile, path: Path, layout: Layout) -> NDArray[np.generic] | None:
    """Return the class numbers in a file; what is none of that, such as text, is not read."""
    found = members(archive, path)
    if "labels" not in found or any(slot.name == "labels" for slot in layout.slots):
        return None
    header = found["labels"].header
    if header.dtype.kind not in "iu" or header.shape != (layout.samples,):
        return None
    return sample_labels(row_stream(archive, path, found["labels"])(None), layout)


def _named(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0].parent} ({len(paths)} files)"
