"""Keeping a calibration in one `.npz`, so that plans can be made without running the model again."""

from __future__ import annotations

import json
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from rankfold.errors import CalibrationDataError
from rankfold.passes.write_model import whole_file_reported
from rankfold.values import Calibration, Moments, Request

_SCHEMA_VERSION = 2
_SIDES = ("moments", "held_out")
# What numpy, zipfile and json raise on damaged files.
_DAMAGE = (
    AttributeError,
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    OverflowError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def save_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write the sums, whole or not at all.

    Raises:
        OutputError: The place cannot be written.
    """
    requests = list(calibration.moments)
    head = {
        "schema_version": _SCHEMA_VERSION,
        "model_digest": calibration.model_digest,
        "samples": calibration.samples,
        "held_out_samples": calibration.held_out_samples,
        "settings": calibration.settings,
        "requests": [[r.tensor, r.feature_axis, r.block, calibration.row_strides[r]] for r in requests],
    }
    arrays: dict[str, Any] = {"head": np.array(json.dumps(head))}
    for side in _SIDES:
        for number, request in enumerate(requests):
            moments: Moments = getattr(calibration, side)[request]
            prefix = f"{side}/{number}"
            arrays |= {
                f"{prefix}/count": moments.count,
                f"{prefix}/total": moments.total,
                f"{prefix}/gram": moments.gram,
            }
    with whole_file_reported(Path(path)) as file:
        np.savez(file, **arrays)


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read what `save_calibration` wrote.

    Raises:
        CalibrationDataError: The file is missing, damaged or no calibration.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return _read(archive)
    except _DAMAGE as error:
        raise CalibrationDataError(
            f"{os.fspath(path)}: not a calibration ({error}); make one with `rankfold calibrate`"
        ) from error


def _read(archive: Any) -> Calibration:
    head = json.loads(str(archive["head"]))
    if head["schema_version"] != _SCHEMA_VERSION:
        raise ValueError(f"schema_version is {head['schema_version']}, expected {_SCHEMA_VERSION}")
    requests = [Request(tensor, axis, block) for tensor, axis, block, _ in head["requests"]]
    return Calibration(
        model_digest=head["model_digest"],
        moments=_moments(archive, "moments", requests),
        held_out=_moments(archive, "held_out", requests),
        samples=head["samples"],
        held_out_samples=head["held_out_samples"],
        row_strides={request: entry[3] for request, entry in zip(requests, head["requests"], strict=True)},
        settings=head["settings"],
    )


def _moments(archive: Any, side: str, requests: list[Request]) -> dict[Request, Moments]:
    found = {}
    for number, request in enumerate(requests):
        count, total, gram = (archive[f"{side}/{number}/{name}"] for name in ("count", "total", "gram"))
        found[request] = Moments(float(count), total, gram)
    return found
