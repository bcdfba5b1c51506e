"""Training some of a model's weights until its outputs come nearer to another model's.

The other model's outputs are given, so that only one model runs here. Nothing has to be tuned: each tensor's steps are
measured in its own size, the rate is found by short trials, and what comes back are the values that held-out samples
showed to be the best, averaged over some steps (Polyak and Juditsky 1992): one step's are noisy while the rate is high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from rankfold.training.progress_file import Progress, kept, restored
from rankfold.training.pupil import Course, Pupil, Triple

Array = NDArray[np.generic]

RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Sizes of a step relative to the tensor's, tried from the smallest on: Adam moves each number by about that, in its
first steps at random, so that a model that is near already stands small steps only."""
PROBE_STEPS = (4, 128)  # of each rate, fewest and most: enough for one that is too large to show it
_PROBE_SHARE = 1 / 16  # of all steps, between these: the trials of all rates take three eighths of a run at most
_GROWTH = 1 / 4  # of the rate with the length of the run
_PROBED = 8  # lessons that judge a probe, at most
_WARM_UP = 0.05  # share of the steps over which the rate rises
_LOOKS_PER_PASS = 4  # at the held-out samples
_PATIENCE = (6, 0.5)  # looks without a gain before training ends early: so many, and such a share of all
_AVERAGED = 0.05  # share of the steps over which values are averaged before they are judged


@dataclass(frozen=True)
class Schooling:
    """How long, and where what was reached is kept.

    Attributes:
        passes: Over all lessons, at most.
        watched: Wraps the numbers of the steps to come; gets their sum.
        file: Where the state is saved now and then, and gone on from; None keeps nothing.
        rates: To try.
        device: Torch's name of where to train.
    """

    passes: int
    watched: Callable[[Iterable[int], int], Iterable[int]] = lambda steps, _: steps
    file: Path | None = None
    rates: Sequence[float] = RATES
    device: str = "cpu"


@dataclass(frozen=True)
class Schooled:
    """What came of it.

    Attributes:
        arrays: The trained tensors by name, float32 or wider: those of the best look.
        before, after: The held-out loss at the beginning and at the best look.
        rate: The one that was chosen.
        steps: Taken in all.
        looks: The step and the loss of each look.
    """

    arrays: Mapping[str, Array]
    before: float
    after: float
    rate: float
    steps: int
    looks: tuple[tuple[int, float], ...] = field(default=())


def is_there(device: str) -> bool:
    """Tell whether torch can train on a device."""
    return device == "cpu" or torch.cuda.is_available()


def distill(
    proto: ModelProto,
    course: Course,
    schooling: Schooling,
    *,
    trainable: Sequence[str],
    weights: Mapping[str, Array] | None = None,
) -> Schooled:
    """Train a model's tensors toward what a course wants of it, and return those with which it came nearest.

    A model of half precision is trained in float32. The same arguments give the same numbers on one machine.

    Args:
        proto: The model.
        course: What it is fed and what it should give.
        schooling: How long.
        trainable: Names of its initializers.
        weights: Initializers by name, instead of those in the model or where it lacks them.

    Raises:
        ModelError: The graph cannot be run in torch.
    """
    pupil = Pupil(proto, course, trainable, weights or {}, schooling.device)
    progress = restored(schooling.file) or _begun(pupil, schooling)
    optimizer, schedule = pupil.optimizer(progress.rate)
    total = schooling.passes * course.steps
    _resume(pupil, optimizer, progress)
    every = max(1, course.steps // _LOOKS_PER_PASS)
    patience = max(_PATIENCE[0], round(_PATIENCE[1] * total / every))
    lessons = _from(course, progress.step, schooling.passes)
    steps = schooling.watched(range(progress.step, total), total - progress.step)
    for step, lesson in zip(steps, lessons, strict=True):
        if progress.since >= patience:
            break
        schedule(_share(step, total))
        if not pupil.learn(optimizer, lesson):
            break
        progress.step = step + 1
        pupil.averaged(1 / max(1.0, min(progress.step, _AVERAGED * total)))
        if progress.step % every == 0 or progress.step == total:
            progress.looked(*pupil.judged_average())
            kept(schooling.file, progress, _resumed(pupil, optimizer))
    arrays = {name: tensor.numpy() for name, tensor in progress.best.items()}
    return Schooled(arrays, progress.before, progress.loss, progress.rate, progress.step, tuple(progress.looks))


def _begun(pupil: Pupil, schooling: Schooling) -> Progress:
    """Return the state before the first step, with the rate that short trials show to be the best.

    A run recovers from a larger rate than a trial does, so it takes that rate times the fourth root of how much longer
    it is. Over 500 steps of a ViT, 3e-5, 1e-4, 3e-4 and 1e-3 left 1.31, 1.07, .93 and .99 of 1e-4; the trial of 31
    steps chose 3e-4. Of another, whose trial chose 3e-5, 384 steps left .0231 by 1e-4 and .0226 by 2e-4.
    """
    start, before = pupil.state(), pupil.held_out_loss()
    fewest, most = PROBE_STEPS
    total = schooling.passes * pupil.course.steps
    trial = min(max(fewest, min(most, int(_PROBE_SHARE * total))), (total + 1) // 2)  # what is left judges
    judged = list(islice(_from(pupil.course, trial % total, schooling.passes), _PROBED))
    found: dict[float, float] = {}
    for rate in schooling.rates:
        optimizer, schedule = pupil.optimizer(rate)
        for step, lesson in enumerate(islice(_from(pupil.course, 0, schooling.passes), trial)):
            schedule(_share(step, trial))  # down to nothing, as a run: while the rate is high the loss is too
            if not pupil.learn(optimizer, lesson):
                break
        found[rate] = pupil.mean_loss(judged)
        pupil.set_state(start)
        if found[rate] > min(found.values()):
            break
    best = min(found, key=lambda rate: found[rate])
    return Progress(rate=best * max(1.0, total / max(1, trial)) ** _GROWTH, before=before, loss=before, best=start)


def _from(course: Course, step: int, passes: int) -> Iterator[Triple]:
    for number in range(step // course.steps, passes):
        yield from course.lessons(number, step % course.steps if number == step // course.steps else 0)


def _share(step: int, total: int) -> float:
    """Return the share of the rate: a rise, then half a cosine down to nothing."""
    warm = max(1, round(_WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _resumed(pupil: Pupil, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what `_resume` takes a training up from."""
    average = {name: value.cpu() for name, value in pupil.average.items()}
    return {"state": pupil.state(), "average": average, "optimizer": optimizer.state_dict()}


def _resume(pupil: Pupil, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    if (saved := progress.resumed) is not None:
        pupil.set_state(saved["state"])
        pupil.average = {name: value.to(pupil.device) for name, value in saved["average"].items()}
        optimizer.load_state_dict(saved["optimizer"])
