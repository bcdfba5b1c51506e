"""Running one model again and again on the same rows, with other masks each time, against the original's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError, ModelError
from rankfold.runtime_calib.distance import Losses, Metric, losses, resolved
from rankfold.runtime_calib.sessions import open_session, run_outputs
from rankfold.runtime_calib.units import sample_count
from rankfold.values import Feed, Provider

Outputs = dict[str, NDArray[np.generic]]
Session: TypeAlias = onnxruntime.InferenceSession


@dataclass(frozen=True)
class Rows:
    """Samples to try candidates on, and what the original makes of them.

    Attributes:
        feeds: Batches.
        references: The original's outputs of each.
        metrics: How each output is judged.
        padding: Input whose zeros say which tokens of an output do not count; None where all do.
    """

    feeds: tuple[Feed, ...]
    references: tuple[Outputs, ...]
    metrics: Mapping[str, Metric]
    padding: str | None = None

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return sum(map(sample_count, self.feeds))

    def first(self, samples: int) -> Rows:
        """Return the first batches alone, as many as hold so many samples, or all."""
        ends = np.cumsum([sample_count(feed) for feed in self.feeds])
        count = int(np.searchsorted(ends, samples)) + 1
        return replace(self, feeds=self.feeds[:count], references=self.references[:count])


@dataclass(frozen=True)
class Run:
    """How models are run: where, and whether without onnxruntime's own copies of their weights."""

    provider: Provider = "cpu"
    lean: bool = False


def reference_rows(
    model: Path, feeds: Iterable[Feed], *, metrics: Mapping[str, Metric], padding: str | None, run: Run
) -> Rows:
    """Run the original on some batches and keep what it gives.

    Args:
        model: The original.
        feeds: The batches, all kept.
        metrics: Output name to metric; the other outputs do not count.
        padding: The mask input, if there is one.
        run: Where and how.

    Raises:
        ModelError: An output is not finite.
        CalibrationDataError: A batch cannot be run, or there is none.
    """
    session = open_session(model, provider=run.provider, lean=run.lean)
    kept, found = [], []
    for feed in feeds:
        outputs = run_outputs(session, feed, outputs=list(metrics))
        for name, array in outputs.items():
            if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
                raise ModelError(
                    f"{model}: output {name!r} is not numeric or holds NaN or infinity, and a plan cannot be chosen by"
                    " it; name the outputs to choose by"
                )
        kept.append(feed)
        found.append(outputs)
    if not found:
        raise CalibrationDataError(f"{model}: there are no held-out samples to choose a plan on; give more data")
    chosen = {name: resolved(metric, found[0][name]) for name, metric in metrics.items()}
    return Rows(tuple(kept), tuple(found), chosen, padding)


def open_trial(model: Path, *, run: Run, weights_folder: Path | None = None) -> Session:
    """Return a session of the model with masks."""
    return open_session(model, provider=run.provider, lean=run.lean, weights_folder=weights_folder)


def tried(session: Session, rows: Rows, masks: Feed) -> dict[str, Losses]:
    """Return what each output loses over all rows; a loss that is not finite counts as infinite."""
    parts: dict[str, list[Losses]] = {name: [] for name in rows.metrics}
    for feed, reference in zip(rows.feeds, rows.references, strict=True):
        found = run_outputs(session, feed | masks, outputs=list(rows.metrics))
        for name, metric in rows.metrics.items():
            pair = _counted(reference[name], found[name], feed, rows.padding)
            parts[name].append(losses(metric, *pair))
    return {name: joined(found) for name, found in parts.items()}


def seen_from(session: Session, rows: Rows, masks: Feed) -> Rows:
    """Return the rows with what the masked model makes of them in the place of the original's outputs."""
    found = tuple(run_outputs(session, feed | masks, outputs=list(rows.metrics)) for feed in rows.feeds)
    return replace(rows, references=found)


def joined(parts: Sequence[Losses]) -> Losses:
    """Return the losses of several batches as one."""
    lost, whole = (np.concatenate([getattr(part, name) for part in parts]) for name in ("lost", "whole"))
    return Losses(np.where(np.isfinite(lost), lost, np.inf), whole, parts[0].quadratic)


def _counted(
    reference: NDArray[np.generic], candidate: NDArray[np.generic], feed: Feed, padding: str | None
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Return both outputs, with zeros where a token is padding; samples stand along axis 0."""
    samples = sample_count(feed)
    if padding is not None and reference.shape[:2] == feed[padding].shape and reference.ndim > 1:
        kept = feed[padding].astype(bool).reshape(*feed[padding].shape, *(1,) * (reference.ndim - 2))
        reference, candidate = np.where(kept, reference, 0), np.where(kept, candidate, 0)
    if reference.ndim == 0 or reference.shape[0] != samples:  # no axis of samples: one thing in all
        return reference.reshape(1, -1), candidate.reshape(1, -1)
    return reference, candidate
