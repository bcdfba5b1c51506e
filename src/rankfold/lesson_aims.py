"""What a training goes by: which outputs are compared, how each is judged, and which of them labels belong to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rankfold.errors import CalibrationDataError, ModelError
from rankfold.healing import Case, Criterion
from rankfold.runtime_calib.distance import looks_like_probabilities, resolved


def aims(case: Case, *, labelled: bool) -> tuple[dict[str, Criterion], str | None]:
    """Return how each output that teaches is judged, and the one that labels are compared with, if they are.

    Raises:
        ModelError: No output teaches anything.
        CalibrationDataError: Labels are needed, and there are none, or they are no classes of an output.
    """
    if not labelled:
        return dict.fromkeys(learnable(case), "relative_l2"), None
    criteria = _scored(case)
    return criteria, _labelled(case, criteria)


def learnable(case: Case) -> tuple[str, ...]:
    """Return the compared outputs that have gradients: those of whole numbers, such as the best class's, have none.

    Raises:
        ModelError: There is none.
    """
    names = tuple(name for name, array in case.choosing.references[0].items() if array.dtype.kind == "f")
    if not names:
        raise ModelError(
            f"{case.base.path}: none of the compared outputs ({', '.join(case.choosing.metrics)}) holds floating-point"
            " numbers to train toward; name others, or heal with refit alone"
        )
    return names


def _scored(case: Case) -> dict[str, Criterion]:
    """Return how each output is judged: by KL where it looks like scores, else by relative L2."""
    found: dict[str, Criterion] = {}
    for name in learnable(case):
        reference = case.choosing.references[0][name]
        scores = resolved("auto", reference) == "kl"
        found[name] = ("kl_probabilities" if looks_like_probabilities(reference) else "kl") if scores else "relative_l2"
    return found


def _labelled(case: Case, criteria: Mapping[str, Criterion]) -> str:
    """Return the output that labels are compared with: the first that looks like scores."""
    scores = [name for name, criterion in criteria.items() if criterion != "relative_l2"]
    if not scores:
        raise CalibrationDataError(
            "no compared output has a row of class scores per sample, and labels have no use; heal by distillation"
        )
    known = [case.training.labels, *case.labels]
    given = [labels for labels in known if labels is not None]
    if len(given) < len(known):
        raise CalibrationDataError(
            "the data has no labels for some of its samples, or none at all; give an array `labels` of integers, one"
            " per sample, or heal by distillation"
        )
    classes, labels = case.choosing.references[0][scores[0]].shape[-1], np.concatenate(given)
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise CalibrationDataError(
            f"labels run from {labels.min()} to {labels.max()}, output {scores[0]!r} has {classes} classes; number them"
            " from 0, and leave out samples without a class"
        )
    return scores[0]
