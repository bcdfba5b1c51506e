"""What calibration data is refused for, besides its shapes: names, dtypes, values and groups."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.feed_layout import Header, Layout, Slot
from rankfold.values import InputSpec

RESERVED = ("group", "labels")
"""Keys beside the inputs: `group` keeps samples together, `labels` are read where a model is tuned on them."""

_TEXT = ("object", "str")
"""What numpy calls the dtype of a string tensor; fixed-width text arrays are accepted for it."""


def check_names(found: Collection[str], inputs: tuple[InputSpec, ...], where: str) -> None:
    """Refuse data that lacks an input or has a key that is neither an input nor reserved.

    Raises:
        CalibrationDataError: The message lists the names found and expected.
    """
    expected = [spec.name for spec in inputs]
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected and name not in RESERVED]
    if missing or unknown:
        problems = [
            f"{label} {_listed(names)}" for label, names in (("missing", missing), ("unknown", unknown)) if names
        ]
        raise CalibrationDataError(
            f"{where}: the names do not fit the model: {'; '.join(problems)}; found {_listed(found)}, expected "
            f"{_listed(expected)}; name every array after its model input, as in "
            f"np.savez(path, **{{'{_first(expected)}': array}})"
        )


def check_dtypes(headers: Mapping[str, Header], inputs: tuple[InputSpec, ...], where: str) -> None:
    """Refuse arrays whose dtype is not the model's: nothing is converted silently.

    Raises:
        CalibrationDataError: The message names both dtypes and the conversion.
    """
    for spec in inputs:
        dtype = headers[spec.name].dtype
        if dtype.kind == "U" if spec.dtype in _TEXT else dtype.name == spec.dtype:
            continue
        wanted = "str" if spec.dtype in _TEXT else spec.dtype
        raise CalibrationDataError(
            f"{where}: input '{spec.name}' is {dtype.name}, the model takes {wanted}; "
            f"convert it with array.astype('{wanted}')"
        )


def check_finite(slot: Slot, array: NDArray[np.generic], first_sample: int, where: str) -> None:
    """Refuse NaN and infinities in float arrays.

    Args:
        slot: The input; a constant's message has no sample index.
        array: The next rows of the input.
        first_sample: Index of its first row.
        where: The file or feed, for the message.

    Raises:
        CalibrationDataError: The message gives the input and the index of the first such sample.
    """
    if array.dtype.kind not in "fc":
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    place = ""
    if slot.kind != "constant":
        bad_row = int(np.argmin(finite.reshape(len(array), -1).all(axis=1)))
        place = f" at sample {first_sample + bad_row}"
    value = "NaN" if np.isnan(array).any() else "infinity"
    raise CalibrationDataError(
        f"{where}: input '{slot.name}' has {value}{place}; finite values are needed: drop or mend such samples"
    )


def unit_groups(group: NDArray[np.generic] | None, layout: Layout, where: str) -> list[Hashable] | None:
    """Return the group of every unit.

    Args:
        group: Integers or text, one per sample, or one for all; None where the data has no groups.
        layout: How the samples divide.
        where: The file or feed, for the message.

    Raises:
        CalibrationDataError: Wrong length or dtype, or samples of different groups inside one fixed batch.
    """
    if group is None:
        return None
    if group.dtype.kind not in "iubUS" or group.shape not in ((), (layout.samples,)):
        raise CalibrationDataError(
            f"{where}: 'group' is {group.dtype.name} of shape {group.shape}; expected integers or text of shape "
            f"({layout.samples},), one per sample"
        )
    if not group.ndim:
        return [group.item()] * layout.units
    table = group[: layout.units * layout.step].reshape(layout.units, layout.step)
    mixed = np.flatnonzero((table != table[:, :1]).any(axis=1))
    if len(mixed):
        raise CalibrationDataError(
            f"{where}: samples {mixed[0] * layout.step} to {(mixed[0] + 1) * layout.step - 1} make one batch of the "
            f"model's fixed size {layout.step} but belong to different groups; order and pad the data so that every "
            f"batch lies inside one group"
        )
    groups: list[Hashable] = table[:, 0].tolist()
    return groups


def sample_labels(labels: NDArray[np.generic] | None, layout: Layout) -> NDArray[np.generic] | None:
    """Return labels that can be trained on: whole numbers, one per sample. Others are left alone, as None."""
    if labels is None or labels.dtype.kind not in "iu" or labels.shape != (layout.samples,):
        return None
    return labels


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _first(names: list[str]) -> str:
    return names[0] if names else "input"
