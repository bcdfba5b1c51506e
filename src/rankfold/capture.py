"""From a model and data to moments: what is tapped, how many rows are taken, and which samples are held out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rankfold.errors import CalibrationDataError, ModelError
from rankfold.measures import versions
from rankfold.memory import runs_lean
from rankfold.options import Options
from rankfold.passes.fold import finite_weight
from rankfold.passes.graph_checks import check_measurable
from rankfold.passes.graph_index import onnx_opset
from rankfold.passes.model_file import Model, input_specs
from rankfold.passes.sites import Scan
from rankfold.passes.taps import OLDEST_MASKED_OPSET, TapSetting, tap
from rankfold.reading import Reading, data_fingerprint, open_reading
from rankfold.runtime_calib.checkpoint import Run
from rankfold.runtime_calib.checkpoint_folder import checkpoint_folder
from rankfold.runtime_calib.feeds import DataLike, Unit, spool_samples
from rankfold.sweeps import Collection, collect_all, plan_sweeps
from rankfold.tapping import tap_settings
from rankfold.values import Calibration, Request, Tapped


def capture(
    model: Model,
    scan: Scan,
    data: DataLike,
    spool: Path,
    *,
    work: Path,
    options: Options = Options(),
    choosing: Path | None = None,
    sampled: Path | None = None,
) -> Calibration:
    """Sum the moments of the calibration samples and of the held-out ones.

    Args:
        model: The model.
        scan: Its sites; without any, only the split is made.
        data: Calibration data in any form `open_source` takes.
        spool: Where the held-out batches are written; the file stays.
        work: Folder for what does not fit in memory; moments may be mapped from its files. With a checkpoint, that.
        options: Batch size, share held out, seed, mask, stride, memory and provider.
        choosing: Where to write those of the held-out batches that something is chosen on; None chooses nothing.
        sampled: Where to write some of the calibration samples, to take gradients of.

    Raises:
        ModelError: A weight holds NaN or infinity.
        CalibrationDataError: The data does not fit, there are too few samples to hold some out, or the checkpoint is
            of another run.
    """
    _check_weights(model, scan)
    held_out = work / "held_out.npz" if options.checkpoint else spool
    first, reading = open_reading(data, input_specs(model), held_out, choosing, sampled)
    _check_mask(model, options.mask)
    settings = _settings_of(model, scan, first, reading, options=options) if scan.sites else {}
    tapped = tap(model, settings, mask=options.mask)
    run = _run(work, _fingerprint(model, data, tapped, reading, options=options), reading, options)
    sweeps = plan_sweeps(settings, options.memory_bytes, on_disk=run is not None, sides=2 + bool(choosing))
    if len(sweeps.groups) > 1 and reading.again is None:
        reading.kept = work / "calibration.npz"
    collection = Collection(tapped, sweeps, reading, work, run, runs_lean(model, options))
    found = collect_all(collection, options)
    _put(held_out, spool)
    noted = {
        "masked_activations": sum(bool(setting.masked) for setting in settings.values()),
        "choosing_samples": spool_samples(choosing) if choosing else 0,
        "sweeps": len(sweeps.groups),
        "prepacking": not collection.lean,
    }
    return Calibration(
        model_digest=model.digest,
        moments=found["calibration"],
        held_out=found["held_out"],
        choosing=found["choosing"],
        samples=reading.samples or 0,
        held_out_samples=spool_samples(spool),
        row_strides={request: setting.stride for request, setting in settings.items()},
        settings=_recorded(options, reading.source.dropped) | noted,
    )


def _run(work: Path, fingerprint: dict[str, str], reading: Reading, options: Options) -> Run | None:
    """Return the run that is kept in a checkpoint, the reading set to where it was left; None keeps nothing."""
    if not options.checkpoint:
        return None
    run = Run(work, fingerprint)
    reading.samples = run.begin()
    return run


def _check_weights(model: Model, scan: Scan) -> None:
    for site in scan.sites:
        finite_weight(model, scan, site)


def _settings_of(
    model: Model, scan: Scan, first: Unit, reading: Reading, *, options: Options
) -> dict[Request, TapSetting]:
    counted = 1.0 if options.mask is None else reading.counted(options.mask)
    return tap_settings(model, scan, first.feed, reading.source.count, counted=counted, options=options)


@contextmanager
def captured(model: Model, scan: Scan, data: DataLike, options: Options) -> Iterator[Calibration]:
    """Yield the moments of a model's sites; they may be mapped from files that are gone afterwards.

    Raises:
        ModelError: The model cannot be measured.
        CalibrationDataError: The data does not fit.
    """
    check_measurable(model.given.path, model.given.proto)
    with work_folder(options) as work:
        spool = options.held_out_to or work / "held_out.npz"
        yield capture(model, scan, data, spool, work=work, options=options)


@contextmanager
def work_folder(options: Options) -> Iterator[Path]:
    """Yield the folder for what does not fit in memory: the checkpoint's, or a temporary one.

    What is mapped from its files stays mapped after they are gone, where the system allows that; where it does not,
    the files stay.
    """
    if options.checkpoint is not None:
        with checkpoint_folder(options.checkpoint) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rankfold-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def _fingerprint(model: Model, data: DataLike, tapped: Tapped, reading: Reading, *, options: Options) -> dict[str, str]:
    """Return what decides the sums and in what order they come, by name."""
    recorded = _recorded(options, 0)
    return {
        "model": model.digest,
        "data": data_fingerprint(data),
        "layers or first sample": hashlib.sha256(tapped.addition).hexdigest(),
        "choosing": str(reading.choosing is not None),
        "sampled": str(reading.sampled is not None),
        "versions": json.dumps(versions(), sort_keys=True),
        **{name.replace("_", " "): str(value) for name, value in recorded.items()},
    }


def _put(held_out: Path, spool: Path) -> None:
    """Give the held-out batches their second name; the checkpoint keeps the first until the end."""
    if held_out == spool:
        return
    spool.unlink(missing_ok=True)
    try:
        os.link(held_out, spool)
    except OSError:  # another disk, or one without links
        shutil.copyfile(held_out, spool)


def _recorded(options: Options, dropped: int) -> dict[str, str | int | float | bool | None]:
    return {
        "batch_size": options.batch_size,
        "holdout": options.holdout,
        "seed": options.seed,
        "mask": options.mask,
        "provider": options.provider,
        "memory_bytes": options.memory_bytes,
        "dropped_samples": dropped,
    }


def check_mask_input(model: Model, mask: str | None) -> None:
    """Check that a mask is an input of the model.

    Raises:
        CalibrationDataError: It is none.
    """
    names = [spec.name for spec in input_specs(model)]
    if mask is not None and mask not in names:
        raise CalibrationDataError(f"mask {mask!r} is no input of {model.path}; its inputs are {', '.join(names)}")


def _check_mask(model: Model, mask: str | None) -> None:
    check_mask_input(model, mask)
    opset = onnx_opset(model.proto)
    if mask is not None and opset < OLDEST_MASKED_OPSET:
        raise ModelError(
            f"{model.path}: uses opset {opset}, and a mask needs {OLDEST_MASKED_OPSET} or newer; export it for a newer"
            " one, or give data without padding"
        )
