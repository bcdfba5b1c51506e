"""How each tensor's rows are summed: their layout as a run of one unit shows it, and a stride that suits the data."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rankfold.memory import runs_lean
from rankfold.options import Options
from rankfold.passes.graph_index import onnx_opset
from rankfold.passes.model_file import Model, output_names
from rankfold.passes.sites import Scan
from rankfold.passes.taps import OLDEST_STRIDED_OPSET, Masked, TapSetting
from rankfold.runtime_calib.collect import Seen, probe
from rankfold.runtime_calib.feeds import sample_count
from rankfold.values import Feed, Request

# Beyond this many rows per feature the basis is stable, and more rows cost time and bring nothing: on DINOv2 ViT-S/14
# at a third of the parameters, every 4th, 6th and 8th row (32, 23 and 17 per feature) gave .2545, .2497 and .2558.
ROWS_PER_FEATURE = 16
LARGEST_STRIDE = 16


def tap_settings(
    model: Model, scan: Scan, feed: Feed, samples: int | None, *, options: Options, counted: float = 1.0
) -> dict[Request, TapSetting]:
    """Return how each request is summed: its layout as a run of one unit shows it, and a stride that suits the data.

    Args:
        model: The model.
        scan: Its sites.
        feed: One unit of data.
        samples: Samples in all, where known; without it every row is taken.
        options: Mask, stride, share held out and provider.
        counted: Share of the rows under the mask that count.
    """
    tensors = list(dict.fromkeys(request.tensor for request in scan.requests))
    seen = probe(
        model.path,
        tensors,
        feed,
        exposed=output_names(model),
        provider=options.provider,
        lean=runs_lean(model, options),
    )
    padding = () if options.mask is None else feed[options.mask].shape
    units = None if samples is None else samples * (1 - options.holdout) / sample_count(feed)
    opset = onnx_opset(model.proto)
    return {
        request: _setting(
            request, seen[request.tensor], padding, (units, counted), stride=_most(options.row_stride, opset)
        )
        for request in scan.requests
    }


def _most(wanted: int | None, opset: int) -> int | None:
    return 1 if opset < OLDEST_STRIDED_OPSET else wanted


def _setting(
    request: Request, seen: Seen, padding: tuple[int, ...], data: tuple[float | None, float], *, stride: int | None
) -> TapSetting:
    """Return one request's setting; `data` are the units to come and the share of rows under the mask that counts."""
    values = _rows(request, seen.values)
    rows, features = values.shape
    pilot = _pilot(values)
    if request.window is not None:  # a row per place of the output; the pilot only has to be near the mean
        places = math.prod(request.window.kernel)
        rows, features = rows // math.prod(request.window.strides), features * places
        pilot = tuple(value for value in pilot for _ in range(places))
    alone = request.block is not None or request.window is not None  # rows that no mask counts
    masked = "" if alone else mask_order(seen.shape, request.feature_axis, padding)
    if stride is None:
        units, counted = data[0], data[1] if masked else 1.0
        stride = 1 if units is None else int(units * rows * counted / (ROWS_PER_FEATURE * max(features, 1)))
        stride = min(max(stride, 1), LARGEST_STRIDE, max(rows, 1))
    return TapSetting(
        features=features,
        rank=len(seen.shape),
        pilot=pilot,
        stride=stride,
        masked=masked,
        wide=seen.dtype == "float64",
    )


def mask_order(shape: tuple[int, ...], feature_axis: int, padding: tuple[int, ...]) -> Masked:
    """Return in which order a tensor's rows follow the mask, by its axes other than the features'; "" without a mask.

    Rows that were flattened to one axis are taken to be in the mask's order, and an axis of one between samples and
    tokens changes nothing.
    """
    if not padding:
        return ""
    feature = feature_axis % len(shape)
    leading = tuple(extent for axis, extent in enumerate(shape) if axis != feature)
    plain = tuple(extent for place, extent in enumerate(leading) if extent != 1 or place in (0, len(leading) - 1))
    if padding in (leading, plain) or leading == (math.prod(padding),):
        return "rows"
    return "turned" if len(padding) == 2 and leading == padding[::-1] else ""


def _rows(request: Request, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return what was seen of a tensor as rows (n, features)."""
    chosen = values if request.block is None else np.take(values, request.block, axis=-3)
    features = chosen.shape[request.feature_axis]
    return np.moveaxis(chosen, request.feature_axis, -1).reshape(-1, features)


def _pilot(rows: NDArray[np.generic]) -> tuple[float, ...]:
    """Return the mean row of the probe, 0 where that is not finite."""
    with np.errstate(all="ignore"):
        mean = rows.astype(np.float64).mean(axis=0)
    return tuple(np.where(np.abs(mean) < np.finfo(np.float32).max, mean, 0.0).tolist())
