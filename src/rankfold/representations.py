"""Representations: how many directions each activation uses, and with labels how far classes have collapsed in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from rankfold.activation_study import ActivationRanks, Study, measured
from rankfold.capture import check_mask_input
from rankfold.errors import CalibrationDataError, OptionsError
from rankfold.opening import open_model
from rankfold.options import Options
from rankfold.passes.activations import find_activations
from rankfold.passes.graph_checks import check_measurable
from rankfold.passes.model_file import input_specs
from rankfold.runtime_calib.activation_rows import Pooling
from rankfold.runtime_calib.activation_sums import Summing
from rankfold.runtime_calib.feeds import DataLike
from rankfold.runtime_calib.labelled_units import class_numbers, has_labels, keep_units
from rankfold.runtime_calib.shelf import Shelf
from rankfold.runtime_calib.threads import limited_threads
from rankfold.values import Skipped
from rankfold.weight_ranks import Correlation, WeightRanks, correlations, weight_ranks


@dataclass(frozen=True)
class Representations:
    """The activations of a model, inputs first, then in graph order.

    Attributes:
        model_digest: sha256 of the model.
        samples: Samples that were run: all of the data.
        pooling: What made a row.
        classes: Class number to its samples; empty without labels.
        activations: Those that were measured.
        skipped: Those that were not, and why; `node` is the tensor's name.
        weights: The foldable weights, with labels.
        correlations: Of the weights' ranks with the total cluster variation of what they read.
    """

    model_digest: str
    samples: int
    pooling: Pooling
    classes: dict[int, int]
    activations: tuple[ActivationRanks, ...]
    skipped: tuple[Skipped, ...]
    weights: tuple[WeightRanks, ...]
    correlations: tuple[Correlation, ...]
    warnings: tuple[str, ...]


def measure_activations(
    model: str | os.PathLike[str],
    data: DataLike,
    *,
    patterns: Sequence[str] = (),
    pooling: Pooling = "none",
    collapse: bool | None = None,
    options: Options = Options(),
) -> Representations:
    """Return rank measures of a model's activations, and with labels collapse measures, over all samples of the data.

    Args:
        model: The ONNX file.
        data: A path, or an iterable of feed dicts; with `labels`, whole numbers, beside the inputs.
        patterns: Shell-style patterns of tensor names, node names or operators; empty for all activations.
        pooling: What is a row of the rank measures: `none`: a position; `mean`: a sample, its positions' mean;
            `flatten`: a sample, all its values. Collapse is of samples, by their mean unless they are flattened.
        collapse: True refuses data without usable labels, False does not look at them, None takes what is there.
        options: Batch size, mask, memory, provider, seed, row stride, and the choice of weights.

    Raises:
        OptionsError: A setting makes no sense, or a pattern matches nothing.
        ModelError: The model cannot be used.
        CalibrationDataError: The data does not fit, or labels are missing or no class numbers.
    """
    if pooling not in get_args(Pooling):
        raise OptionsError(f"pooling is {pooling!r}; expected one of {', '.join(get_args(Pooling))}")
    loaded, scan = open_model(model, options)
    check_measurable(loaded.given.path, loaded.given.proto)
    check_mask_input(loaded, options.mask)
    chosen = find_activations(loaded, scan.index, patterns)
    with tempfile.TemporaryDirectory(prefix="rankfold-", ignore_cleanup_errors=True) as folder, limited_threads():
        shelf = keep_units(data, input_specs(loaded), Path(folder) / "units")
        classes, warnings = _classes(shelf, data, collapse)
        study = Study(loaded, shelf, classes, Summing(pooling, options.mask, len(classes), options.seed), options)
        found, skipped = measured(study, chosen)
        samples, sizes = shelf.samples, _sizes(shelf, classes)
    small = [label for label, size in sizes.items() if size < 2]
    if small:
        few = f"classes with a single sample, which tells nothing of how a class varies: {', '.join(map(str, small))}"
        warnings = (*warnings, few)
    before = {line.tensor: line.collapse for line in found if line.collapse is not None}
    weights = weight_ranks(loaded, scan, before, len(sizes)) if sizes else ()
    return Representations(
        model_digest=loaded.digest,
        samples=samples,
        pooling=pooling,
        classes=sizes,
        activations=found,
        skipped=skipped,
        weights=weights,
        correlations=correlations(weights),
        warnings=warnings,
    )


def _classes(shelf: Shelf, data: DataLike, collapse: bool | None) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Return the labels that occur, none where they are not to be used, and what to tell of it."""
    none = np.zeros(0, np.int64)
    if collapse is False or (collapse is None and not has_labels(shelf, data)):
        return none, ()
    try:
        return class_numbers(shelf, data), ()
    except CalibrationDataError as error:
        if collapse:
            raise
        return none, (f"collapse was not measured: {error}",)


def _sizes(shelf: Shelf, classes: NDArray[np.generic]) -> dict[int, int]:
    if not len(classes):
        return {}
    labels = [shelf.unit(number).labels for number in range(len(shelf))]
    found, counts = np.unique(np.concatenate([part for part in labels if part is not None]), return_counts=True)
    return dict(zip(map(int, found), map(int, counts), strict=True))
