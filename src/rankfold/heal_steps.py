"""The steps of healing, one after the other, each kept where held-out error falls, and kept on disk when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankfold.errors import ModelError
from rankfold.findings import HealStep
from rankfold.healing import Case, How
from rankfold.lesson_aims import aims
from rankfold.lessons import Training, train
from rankfold.passes.healable import Healable
from rankfold.passes.refit_sites import find_refit_sites
from rankfold.passes.replaced import can_hold
from rankfold.passes.residuals import residual_sums
from rankfold.refit import refit
from rankfold.runtime_calib.sessions import run_outputs
from rankfold.values import Skipped
from rankfold.whole_files import readable, whole

Array = NDArray[np.generic]

_NAMED = "value "  # before each name in a file, so that none is taken for a parameter of the function that writes it
_REFITTED, _TRAINED = "refitted.npz", "training.pt"


class Step(NamedTuple):
    """A step's values by initializer, what is told of it, and the folds that it left alone."""

    values: dict[str, Array]
    told: HealStep
    skipped: tuple[Skipped, ...] = ()


def taken(case: Case, healable: Healable, course: tuple[How, int], kept: Path | None) -> tuple[Step, ...]:
    """Take the steps one after the other, each from what the one before left.

    Args:
        case: What is healed, and on what.
        healable: The initializers that may take other values.
        course: The last step, and how many passes it trains.
        kept: Where what was reached survives a kill; None keeps nothing.
    """
    how, passes = course
    _check_shapes(case)
    if how != "refit":
        aims(case, labelled=how == "finetune")  # what it cannot go by is said before the first step, which takes long
    first = _refit(case, kept)
    if how == "refit":
        return (first,)
    file = None if kept is None else kept / _TRAINED
    return first, _train(case, healable, first, Training(passes, labelled=how == "finetune", file=file))


def _check_shapes(case: Case) -> None:
    """Check on one sample that what is compared has the same shape in both models.

    Raises:
        ModelError: It has not: the candidate was made of another model.
    """
    sites, _ = find_refit_sites(case.base, case.candidate)
    inside = (*(use.target for site in sites for use in site.uses), *residual_sums(case.base, case.candidate))
    names = tuple(dict.fromkeys((*case.choosing.metrics, *inside)))
    feed, _ = case.training.batch([0])
    wanted, found = (run_outputs(case.part(model, {}, names), feed) for model in (case.base, case.candidate))
    for name in names:
        if wanted[name].shape != found[name].shape:
            raise ModelError(
                f"{case.candidate.path}: tensor {name!r} has shape {found[name].shape}, and in {case.base.path}"
                f" {wanted[name].shape}; give the model that it was made of"
            )


def _refit(case: Case, kept: Path | None) -> Step:
    """Fit in closed form, or take what an earlier call fitted before it was killed.

    Raises:
        ModelError: The candidate gives no finite numbers.
    """
    before = case.error(case.opened({}))
    if not np.isfinite(before):
        raise ModelError(
            f"{case.candidate.path}: its outputs hold NaN or infinity where the original's are finite, and cannot be"
            " healed; compress the original anew, to a larger size or in float32"
        )
    file = None if kept is None else kept / _REFITTED
    if file is not None and file.is_file():
        with readable(file), file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            values: dict[str, Array] = {name.removeprefix(_NAMED): archive[name] for name in archive.files}
        after = case.error(case.opened(values))
        return Step(values, HealStep("refit", before, after, bool(values), ("fitted before the run was killed",)))
    found = refit(case)
    after = case.error(case.opened(found.values))
    values = found.values if after < before else {}
    if file is not None:
        with whole(file) as archive_file:
            np.savez(archive_file, allow_pickle=False, **{_NAMED + name: value for name, value in values.items()})
    notes = (f"{found.fitted} factors and {found.biased} biases alone took other values",)
    return Step(values, HealStep("refit", before, after, bool(values), notes), found.skipped)


def _train(case: Case, healable: Healable, step: Step, training: Training) -> Step:
    """Train, and keep what came of it where the held-out error fell; on labels, where the loss that is tuned fell."""
    schooled = train(case, healable, step.values, training)
    values = dict(step.values) | {name: np.asarray(array) for name, array in schooled.arrays.items()}
    name: How = "finetune" if training.labelled else "distill"
    before = step.told.after if step.told.kept else step.told.before
    if not can_hold(case.candidate, values):
        note = "left out: its numbers do not fit in the model's float type"
        return Step(step.values, HealStep(name, before, before, False, (note,)))
    after = case.error(case.opened(values))
    better = schooled.after < schooled.before if training.labelled else after < before
    notes = (
        f"{schooled.steps} steps at a rate of {schooled.rate:g} of each tensor's size",
        f"held-out loss of the training {schooled.before:.4g}, then {schooled.after:.4g}",
    )
    return Step(values if better else step.values, HealStep(name, before, after, better, notes))
