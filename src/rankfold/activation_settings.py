"""How each activation is summed, as a run of one unit shows it, and which are left out, with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rankfold.options import Options
from rankfold.passes.activations import Activation
from rankfold.runtime_calib.activation_rows import Array, Pooling
from rankfold.runtime_calib.activation_sums import RowSetting
from rankfold.tapping import mask_order
from rankfold.values import Skipped

MOST_FEATURES = 4096
"""Values of a row beyond which an activation is left out: its covariance would take more than 128 MB."""
ROWS_PER_FEATURE = 32  # 20 to 50 give a stable spectrum; more cost time, and wide activations take most of it
_LARGEST_STRIDE = 16
_FLOAT_BYTES = 8


@dataclass(frozen=True)
class Units:
    """What is known of the data.

    Attributes:
        samples: Samples of the unit that was run.
        units: How many units there are.
        padding: Shape of the mask in that unit; empty without one.
        counted: Share of the mask's entries that are not padding.
        classes: How many classes there are, 0 without labels.
    """

    samples: int
    units: int
    padding: tuple[int, ...] = ()
    counted: float = 1.0
    classes: int = 0


def row_setting(
    activation: Activation, seen: Array | None, units: Units, pooling: Pooling, options: Options
) -> RowSetting | Skipped:
    """Return how an activation is summed, or why it is not."""
    if seen is None or seen.dtype.kind != "f":
        return _skipped(activation, "it holds no floating-point numbers")
    if seen.ndim < 2 or not seen.size:
        return _skipped(activation, f"its shape is {seen.shape}, and rows of features take two axes or more")
    axis = activation.feature_axis
    positions = seen.size // seen.shape[axis]
    masked = mask_order(seen.shape, axis, units.padding)
    by_sample = seen.shape[0] == units.samples and masked != "turned"
    if pooling != "none" and not by_sample:
        return _skipped(activation, f"its axis 0 does not count samples: its shape is {seen.shape} for {units.samples}")
    features = math.prod(seen.shape[1:]) if pooling == "flatten" else seen.shape[axis]
    if features > MOST_FEATURES:
        return _skipped(activation, f"its rows have {features} values; those of more than {MOST_FEATURES} are left out")
    rows = positions * units.units * (units.counted if masked else 1.0)
    stride = min(max(int(rows / (ROWS_PER_FEATURE * features)), 1), _LARGEST_STRIDE)
    return RowSetting(
        tensor=activation.tensor,
        feature_axis=axis,
        features=features,
        masked=masked,
        stride=1 if pooling != "none" else options.row_stride or stride,
        by_class=by_sample and units.classes > 0,
    )


def passes_over(
    settings: Sequence[RowSetting], seen: dict[str, Array], units: Units, options: Options
) -> Iterator[list[RowSetting]]:
    """Yield the settings in groups that memory has room for, as sums and as a batch's values; one per pass."""
    batch = max(1, options.batch_size // max(units.samples, 1))
    group: list[RowSetting] = []
    taken = 0
    for setting in settings:
        squares = setting.features**2 * (2 if setting.by_class else 1)
        size = _FLOAT_BYTES * (squares + units.classes * setting.features + 2 * batch * seen[setting.tensor].size)
        if group and taken + size > options.memory_bytes:
            yield group
            group, taken = [], 0
        group.append(setting)
        taken += size
    if group:
        yield group


def _skipped(activation: Activation, reason: str) -> Skipped:
    return Skipped(activation.tensor, activation.op_type, reason)
