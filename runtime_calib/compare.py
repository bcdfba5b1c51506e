"""Comparing two models on held-out data, batch by batch, with Polygraphy's comparison."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError, ModelError
from rankfold.findings import Discrepancy
from rankfold.runtime_calib.output_sums import OutputSums, sum_output, summarize
from rankfold.runtime_calib.sessions import open_session, run_outputs
from rankfold.runtime_calib.units import sample_count
from rankfold.values import Feed, Provider


def compare(
    base: Path,
    candidate: Path,
    batches: Iterable[Feed],
    *,
    outputs: tuple[str, ...] = (),
    provider: Provider = "cpu",
    lean: bool = False,
    candidate_weights: Path | None = None,
) -> Discrepancy:
    """Return how far the candidate's outputs are from the base's, over all batches; one is held at a time.

    Args:
        outputs: The outputs to compare, all when empty; both models must have the same set in any case.
        lean: Run both without onnxruntime's own copies of the weights.
        candidate_weights: Folder of the candidate's external weights, where they do not lie beside it.

    Raises:
        CalibrationDataError: There is no batch, or a model cannot run one.
        ModelError: The outputs differ in name or shape, one is unknown, not numeric, or not finite.
    """
    folders = {base: None, candidate: candidate_weights}
    sessions = {
        path: open_session(path, provider=provider, lean=lean, weights_folder=folder)
        for path, folder in folders.items()
    }
    names = _names(base, candidate, sessions, outputs)
    sums = {name: OutputSums() for name in names}
    samples = 0
    for feed in batches:
        reference = run_outputs(sessions[base], feed, outputs=names)
        found = run_outputs(sessions[candidate], feed, outputs=names)
        for name in names:
            _check(name, (base, reference[name]), (candidate, found[name]))
            sums[name] += sum_output(reference[name], found[name])
        samples += sample_count(feed)
    if not samples:
        raise CalibrationDataError(f"{base} and {candidate} cannot be compared on 0 samples; give at least one")
    return Discrepancy(samples, tuple(summarize(name, sums[name]) for name in names))


def _names(
    base: Path,
    candidate: Path,
    sessions: dict[Path, onnxruntime.InferenceSession],
    outputs: tuple[str, ...],
) -> tuple[str, ...]:
    """Return the outputs to compare, in the base's order."""
    available = {path: tuple(output.name for output in session.get_outputs()) for path, session in sessions.items()}
    if set(available[base]) != set(available[candidate]):
        raise ModelError(
            f"{candidate} has the outputs {sorted(available[candidate])}, {base} has {sorted(available[base])}; "
            "give two models with the same outputs"
        )
    unknown = [name for name in outputs if name not in available[base]]
    if unknown:
        raise ModelError(f"{base} has no output {unknown[0]!r}; choose among {list(available[base])}")
    return tuple(name for name in available[base] if not outputs or name in outputs)


def _check(name: str, base: tuple[Path, Any], candidate: tuple[Path, Any]) -> None:
    """Raise `ModelError` where the arrays of one output, each with its model, cannot be compared."""
    for path, array in (base, candidate):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ModelError(
                f"{path}: output {name!r} is of type {found}, which has no distance; expected an array of numbers; "
                "name the outputs to compare, without it"
            )
        _check_finite(name, path, array)
    if base[1].shape != candidate[1].shape:
        raise ModelError(
            f"{candidate[0]}: output {name!r} has shape {candidate[1].shape}, {base[0]} gives {base[1].shape}; "
            "give two models whose outputs have the same shapes"
        )


def _check_finite(name: str, path: Path, array: NDArray[np.generic]) -> None:
    if array.dtype.kind != "f":
        return
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise ModelError(
            f"{path}: {bad} of {array.size} values of output {name!r} are NaN or infinite, expected finite ones; "
            "check the model and the data, or name the outputs to compare, without it"
        )
