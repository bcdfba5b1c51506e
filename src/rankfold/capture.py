"""From a model and data to moments: what is tapped, how many rows are taken, and which samples are held out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.options import Options
from rankfold.passes.fold import finite_weight
from rankfold.passes.model_file import Model, input_specs, output_names
from rankfold.passes.sites import Scan
from rankfold.passes.taps import OLDEST_STRIDED_OPSET, TapSetting, tap
from rankfold.runtime_calib.collect import Collector, Seen, probe
from rankfold.runtime_calib.feeds import (
    DataLike,
    Source,
    SpoolWriter,
    Unit,
    batched,
    hold_out,
    open_source,
    read_spool,
    sample_count,
    spool_samples,
)
from rankfold.values import Calibration, Feed, Moments, Request

# Beyond this many rows per feature the basis is stable, and more rows cost time and bring nothing: on DINOv2 ViT-S/14
# at a third of the parameters, every 4th, 6th and 8th row (32, 23 and 17 per feature) gave .2545, .2497 and .2558.
ROWS_PER_FEATURE = 20
LARGEST_STRIDE = 16


@dataclass(frozen=True)
class _Counted:
    """Passes units on and remembers how many samples went by."""

    samples: list[int]

    def watch(self, units: Iterable[Unit]) -> Iterator[Unit]:
        for unit in units:
            self.samples[0] += sample_count(unit.feed)
            yield unit


def capture(model: Model, scan: Scan, data: DataLike, spool: Path, *, options: Options) -> Calibration:
    """Read the data once: sum the moments of the calibration samples and of the held-out ones.

    Args:
        model: The model.
        scan: Its sites; without any, only the split is made.
        data: Calibration data in any form `open_source` takes.
        spool: Where the held-out batches are written; the file stays.
        options: Batch size, share held out, seed, mask, stride and provider.

    Raises:
        ModelError: A weight holds NaN or infinity.
        CalibrationDataError: The data does not fit, or there are too few samples to hold some out.
    """
    for site in scan.sites:
        finite_weight(model, scan, site)
    source = open_source(data, input_specs(model))
    first, units = _peek(source)
    _check_mask(model, options.mask)
    settings = tap_settings(model, scan, first.feed, source.count, options=options) if scan.sites else {}
    tapped = tap(model, settings, mask=options.mask)
    collector = Collector(tapped, seed=options.seed, provider=options.provider) if settings else None
    counted = _Counted([0])
    with SpoolWriter(spool, options.batch_size) as writer:
        chosen = counted.watch(hold_out(units, share=options.holdout, seed=options.seed, spool=writer))
        batches = options.progress(batched(chosen, options.batch_size), "calibrating", _batches(source, options))
        moments = _collected(collector, batches)
    held = spool_samples(spool)
    held_batches = options.progress(read_spool(spool), "held-out rows", math.ceil(held / options.batch_size))
    masked = sum(setting.masked for setting in settings.values())
    return Calibration(
        model_digest=model.digest,
        moments=moments,
        held_out=_collected(collector, held_batches),
        samples=counted.samples[0],
        held_out_samples=held,
        row_strides={request: setting.stride for request, setting in settings.items()},
        settings=_recorded(options, source.dropped) | {"masked_activations": masked},
    )


def _collected(collector: Collector | None, batches: Iterable[Feed]) -> dict[Request, Moments]:
    """Return the sums over all batches, which are read to the end in any case: reading them makes the split."""
    if collector is not None:
        return collector.collect(batches)
    for _ in batches:
        pass
    return {}


def _recorded(options: Options, dropped: int) -> dict[str, str | int | float | bool | None]:
    return {
        "batch_size": options.batch_size,
        "holdout": options.holdout,
        "seed": options.seed,
        "mask": options.mask,
        "provider": options.provider,
        "dropped_samples": dropped,
    }


def _peek(source: Source) -> tuple[Unit, Iterator[Unit]]:
    units = iter(source.units)
    first = next(units, None)
    if first is None:
        raise CalibrationDataError("the data holds no samples; give at least two")
    return first, itertools.chain([first], units)


def _batches(source: Source, options: Options) -> int | None:
    if source.count is None:
        return None
    return math.ceil(source.count * (1 - options.holdout) / max(options.batch_size, source.unit_size))


def _check_mask(model: Model, mask: str | None) -> None:
    names = [spec.name for spec in input_specs(model)]
    if mask is not None and mask not in names:
        raise CalibrationDataError(f"mask {mask!r} is no input of {model.path}; its inputs are {', '.join(names)}")


def tap_settings(
    model: Model, scan: Scan, feed: Feed, samples: int | None, *, options: Options
) -> dict[Request, TapSetting]:
    """Return how each request is summed: its layout as a run of one unit shows it, and a stride that suits the data.

    Args:
        model: The model.
        scan: Its sites.
        feed: One unit of data.
        samples: Samples in all, where known; without it every row is taken.
        options: Mask, stride, share held out and provider.
    """
    tensors = list(dict.fromkeys(request.tensor for request in scan.requests))
    seen = probe(model.path, tensors, feed, exposed=output_names(model), provider=options.provider)
    padding = None if options.mask is None else feed[options.mask].size
    calibration = None if samples is None else samples * (1 - options.holdout) / sample_count(feed)
    opset = max(entry.version for entry in model.proto.opset_import if entry.domain in ("", "ai.onnx"))
    return {
        request: _setting(request, seen[request.tensor], padding, calibration, _most(options.row_stride, opset))
        for request in scan.requests
    }


def _most(wanted: int | None, opset: int) -> int | None:
    return 1 if opset < OLDEST_STRIDED_OPSET else wanted


def _setting(request: Request, seen: Seen, padding: int | None, units: float | None, stride: int | None) -> TapSetting:
    values = _rows(request, seen.values)
    rows, features = values.shape
    if stride is None:
        stride = 1 if units is None else int(units * rows / (ROWS_PER_FEATURE * max(features, 1)))
        stride = min(max(stride, 1), LARGEST_STRIDE, max(rows, 1))
    return TapSetting(
        features=features,
        rank=len(seen.shape),
        pilot=_pilot(values),
        stride=stride,
        masked=padding is not None and rows == padding,
        wide=seen.dtype == "float64",
    )


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
