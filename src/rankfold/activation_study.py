"""Measuring activations: one unit is run to see them, then all samples in as many passes as memory asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rankfold.activation_settings import Units, passes_over, row_setting
from rankfold.memory import runs_lean
from rankfold.options import Options
from rankfold.passes.activations import Activation
from rankfold.passes.collapse import Classes, Collapse, collapse_measures
from rankfold.passes.model_file import Model, output_names
from rankfold.passes.rank_measures import RankMeasures, covariance_spectrum, rank_measures
from rankfold.runtime_calib.activation_rows import Array, ClassSums
from rankfold.runtime_calib.activation_sums import (
    ActivationSums,
    RowSetting,
    Summing,
    activations_of,
    open_exposed,
    sum_activations,
)
from rankfold.runtime_calib.labelled_units import class_batches
from rankfold.runtime_calib.shelf import Shelf
from rankfold.runtime_calib.trials import Session
from rankfold.runtime_calib.units import sample_count
from rankfold.values import Skipped


@dataclass(frozen=True)
class ActivationRanks:
    """One activation.

    Attributes:
        tensor, node, op_type: Its name, and what makes it; `input` for a model input.
        features: Values of a row.
        rows: Rows that were summed.
        stride: Every how many rows one was.
        masked: Whether padding was left out.
        ranks: Measures of the rows' covariance.
        collapse: Of one row per sample; None without labels, and where axis 0 does not count samples.
    """

    tensor: str
    node: str
    op_type: str
    features: int
    rows: int
    stride: int
    masked: bool
    ranks: RankMeasures
    collapse: Collapse | None


@dataclass(frozen=True)
class Study:
    """What activations are measured on: a model, samples, their classes, and how rows are made."""

    model: Model
    shelf: Shelf
    classes: NDArray[np.generic]
    summing: Summing
    options: Options


def measured(study: Study, chosen: Sequence[Activation]) -> tuple[tuple[ActivationRanks, ...], tuple[Skipped, ...]]:
    """Return the measures of activations, and those that are left out, with the reason.

    Raises:
        ModelError: onnxruntime refuses the model, or cannot give out one of the activations.
        CalibrationDataError: A batch cannot be run.
    """
    seen, units = _probed(study, chosen)
    found = {a.tensor: row_setting(a, seen.get(a.tensor), units, study.summing.pooling, study.options) for a in chosen}
    settings = [setting for setting in found.values() if isinstance(setting, RowSetting)]
    passes = list(passes_over(settings, seen, units, study.options))
    del seen
    named = {activation.tensor: activation for activation in chosen}
    results: dict[str, ActivationRanks | Skipped] = {}
    for number, group in enumerate(passes):
        sums = _summed(study, group, f"measuring activations, pass {number + 1} of {len(passes)}")
        for setting in group:
            results[setting.tensor] = _line(named[setting.tensor], setting, sums.pop(setting.tensor))
    lines = [results.get(tensor, setting) for tensor, setting in found.items()]
    return (
        tuple(line for line in lines if isinstance(line, ActivationRanks)),
        tuple(line for line in lines if isinstance(line, Skipped)),
    )


def _probed(study: Study, chosen: Sequence[Activation]) -> tuple[dict[str, Array], Units]:
    """Return what the activations of one unit are, and what is known of the data."""
    unit = study.shelf.unit(0)
    tensors = [activation.tensor for activation in chosen]
    seen = activations_of(_session(study, tensors), unit.feed, tensors)
    mask, count = study.summing.mask, len(study.shelf)
    counted, padding = 1.0, ()
    if mask is not None:
        counted = float(np.mean([np.mean(study.shelf.unit(number).feed[mask] != 0) for number in range(count)]))
        padding = unit.feed[mask].shape
    return seen, Units(sample_count(unit.feed), count, padding, counted, len(study.classes))


def _summed(study: Study, group: Sequence[RowSetting], description: str) -> dict[str, ActivationSums]:
    classes = study.classes if len(study.classes) else None
    size = study.options.batch_size
    batches = class_batches(study.shelf, classes, size)
    watched = study.options.progress(batches, description, len(study.shelf.batches(size)))
    session = _session(study, [setting.tensor for setting in group])
    return sum_activations(session, watched, group, summing=study.summing)


def _session(study: Study, tensors: Sequence[str]) -> Session:
    """Return a session that gives out tensors; inputs are known without it."""
    inputs = {value.name for value in study.model.proto.graph.input}
    return open_exposed(
        study.model.path,
        [name for name in tensors if name not in inputs],
        exposed=output_names(study.model),
        provider=study.options.provider,
        lean=runs_lean(study.model, study.options),
    )


def _line(activation: Activation, setting: RowSetting, sums: ActivationSums) -> ActivationRanks | Skipped:
    fault = sums.fault or (None if sums.rows.count else "it has no rows in the whole of the data")
    if fault is not None:
        return Skipped(activation.tensor, activation.op_type, fault)
    return ActivationRanks(
        tensor=activation.tensor,
        node=activation.node,
        op_type=activation.op_type,
        features=setting.features,
        rows=sums.rows.count,
        stride=setting.stride,
        masked=bool(setting.masked),
        ranks=rank_measures(covariance_spectrum(sums.rows.moments)),
        collapse=None if sums.classes is None else _collapse(sums.classes),
    )


def _collapse(sums: ClassSums) -> Collapse | None:
    if sums.rows.pilot is None:
        return None
    return collapse_measures(Classes(sums.rows.moments, sums.counts, sums.totals, sums.rows.pilot))
