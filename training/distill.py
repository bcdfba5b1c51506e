"""Training some of a model's weights until its outputs come nearer to another model's.

The other model's outputs are given, so that only one model runs here. Nothing has to be tuned: each tensor's steps are
measured in its own size, the rate is found by short trials, and the best state on held-out samples is what comes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor

from rankfold.training.executor import GraphModule, build
from rankfold.training.judging import Criterion, distance, label_loss, mean_distance, without_padding
from rankfold.training.progress_file import Progress, kept, restored
from rankfold.training.tensors import from_array
from rankfold.training.widened import widened, widened_array, widened_arrays
from rankfold.values import Feed

Array = NDArray[np.generic]

RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Sizes of a step relative to the tensor's, tried from the smallest on: Adam moves each number by about that, in its
first steps at random, so that a model that is near already stands small steps only."""
PROBE_STEPS = 16  # enough for a rate that is too large to show it, a small part of a pass over some thousand samples
_PROBED = 4  # lessons that judge a probe
_WARM_UP = 0.05  # share of the steps over which the rate rises
_BETAS = (0.9, 0.99)  # squares averaged over a hundred steps: a run has hundreds, not the millions .999 is made for
_LOOKS_PER_PASS = 4  # at the held-out samples
_PATIENCE = 6  # looks without a gain before training ends early: one and a half passes
_SMALLEST_SIZE = 0.01  # of a tensor as its steps are measured, relative to the median's: a bias of zeros moves too


@dataclass(frozen=True)
class Lesson:
    """A batch, what the original gives for it, and what it is, where that is known.

    Attributes:
        feed: The inputs.
        wanted: Tensor name to the original's values.
        labels: Class numbers (samples,); None trains without.
    """

    feed: Feed
    wanted: Mapping[str, Array]
    labels: Array | None = None


@dataclass(frozen=True)
class Course:
    """What a model is trained on.

    Attributes:
        lessons: Gives the lessons of a pass by its number, from a place on, always the same ones.
        steps: How many lessons a pass has.
        held_out: Gives the lessons that only judge.
        criteria: How each output is judged while training.
        middles: Tensors inside the graph that are compared too, by relative L2.
        middles_weight: What their mean distance counts beside the outputs'.
        labelled: The output that labels are compared with; None trains without labels.
        labels_weight: What the labels count beside the outputs' distance, from 0 to 1.
        padding: Input (samples, tokens) whose zeros say which tokens of an output do not count; None where all do.
    """

    lessons: Callable[[int, int], Iterable[Lesson]]
    steps: int
    held_out: Callable[[], Iterable[Lesson]]
    criteria: Mapping[str, Criterion]
    middles: tuple[str, ...] = ()
    middles_weight: float = 1.0
    labelled: str | None = None
    labels_weight: float = 0.5
    padding: str | None = None

    @property
    def judged(self) -> Mapping[str, Criterion]:
        """Return how held-out samples are judged: by relative L2, but where labels count as in training."""
        return self.criteria if self.labelled else dict.fromkeys(self.criteria, "relative_l2")


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
    pupil = _Pupil(proto, course, trainable, weights or {}, schooling.device)
    progress = restored(schooling.file) or _begun(pupil, schooling)
    optimizer, schedule = pupil.optimizer(progress.rate)
    total = schooling.passes * course.steps
    _resume(pupil, optimizer, progress)
    every = max(1, course.steps // _LOOKS_PER_PASS)
    lessons = _from(course, progress.step, schooling.passes)
    steps = schooling.watched(range(progress.step, total), total - progress.step)
    for step, lesson in zip(steps, lessons, strict=True):
        if progress.since >= _PATIENCE:
            break
        schedule(_share(step, total))
        if not pupil.learn(optimizer, lesson):
            break
        progress.step = step + 1
        if progress.step % every == 0 or progress.step == total:
            progress.looked(pupil.held_out_loss(), pupil.state())
            kept(schooling.file, progress, pupil.state(), optimizer.state_dict())
    arrays = {name: tensor.numpy() for name, tensor in progress.best.items()}
    return Schooled(arrays, progress.before, progress.loss, progress.rate, progress.step, tuple(progress.looks))


class _Pupil:
    """The module that is trained, with what it is trained on."""

    def __init__(
        self, proto: ModelProto, course: Course, trainable: Sequence[str], weights: Mapping[str, Array], device: str
    ) -> None:
        self.course = course
        self.device = device
        self.module: GraphModule = build(
            widened(proto), weights=widened_arrays(weights), trainable=trainable, also=course.middles
        ).to(device)
        self.parameters = self.module.parameters_by_name

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.parameters.items()}

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state[name])

    def optimizer(self, rate: float) -> tuple[torch.optim.Optimizer, Callable[[float], None]]:
        """Return an optimizer whose steps are measured in each tensor's size, and what sets the share of its rate."""
        sizes = {name: float(value.detach().square().mean().sqrt()) for name, value in self.parameters.items()}
        least = _SMALLEST_SIZE * float(np.median(list(sizes.values())))
        rates = [rate * max(sizes[name], least) for name in self.parameters]
        groups = [{"params": [value], "lr": own} for value, own in zip(self.parameters.values(), rates, strict=True)]
        made = torch.optim.AdamW(groups, betas=_BETAS, weight_decay=0.0)

        def schedule(share: float) -> None:
            for group, own in zip(made.param_groups, rates, strict=True):
                group["lr"] = own * share

        return made, schedule

    def learn(self, optimizer: torch.optim.Optimizer, lesson: Lesson) -> bool:
        """Take a step; return whether there was a finite loss to take it by."""
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss(lesson)
        if not bool(torch.isfinite(loss)):
            return False
        loss.backward()
        optimizer.step()
        return True

    def loss(self, lesson: Lesson, *, judged: bool = False) -> Tensor:
        """Return what one lesson shows: as it is learnt from, or as held-out samples are judged."""
        course = self.course
        feed = self._placed(lesson.feed)
        counted = None if course.padding is None else feed[course.padding] != 0
        found = without_padding(self.module(feed), counted)
        wanted = without_padding(self._placed(lesson.wanted), counted)
        loss = mean_distance(course.judged if judged else course.criteria, wanted, found)
        if course.labelled is not None and lesson.labels is not None:
            probabilities = course.criteria[course.labelled] == "kl_probabilities"
            labels = from_array(lesson.labels.astype(np.int64)).to(self.device)
            own = label_loss(found[course.labelled], labels, probabilities=probabilities)
            loss = (1 - course.labels_weight) * loss + course.labels_weight * own
        if course.middles and not judged:
            apart = [distance("relative_l2", wanted[name], found[name]) for name in course.middles]
            loss = loss + course.middles_weight * torch.stack(apart).mean()
        return loss

    @torch.no_grad()
    def held_out_loss(self) -> float:
        return self.mean_loss(self.course.held_out(), judged=True)

    @torch.no_grad()
    def mean_loss(self, lessons: Iterable[Lesson], *, judged: bool = False) -> float:
        losses = [float(self.loss(lesson, judged=judged)) for lesson in lessons]
        return float(np.mean(losses)) if losses and np.isfinite(losses).all() else math.inf

    def _placed(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        return {name: from_array(widened_array(array)).to(self.device) for name, array in arrays.items()}


def _begun(pupil: _Pupil, schooling: Schooling) -> Progress:
    """Return the state before the first step, with the rate that short trials show to be the best."""
    start, before = pupil.state(), pupil.held_out_loss()
    lessons = _some(pupil.course, PROBE_STEPS + _PROBED, schooling.passes)
    learnt, judged = lessons[:-_PROBED] or lessons, lessons[-_PROBED:]
    found: dict[float, float] = {}
    for rate in schooling.rates:
        optimizer, schedule = pupil.optimizer(rate)
        for step, lesson in enumerate(learnt):
            schedule(min(1.0, (step + 1) / (len(learnt) // 2 + 1)))
            if not pupil.learn(optimizer, lesson):
                break
        found[rate] = pupil.mean_loss(judged)
        pupil.set_state(start)
        if found[rate] > min(found.values()):
            break
    return Progress(rate=min(found, key=lambda rate: found[rate]), before=before, loss=before, best=start)


def _some(course: Course, wanted: int, passes: int) -> list[Lesson]:
    return [lesson for lesson, _ in zip(_from(course, 0, passes), range(wanted), strict=False)]


def _from(course: Course, step: int, passes: int) -> Iterator[Lesson]:
    for number in range(step // course.steps, passes):
        yield from course.lessons(number, step % course.steps if number == step // course.steps else 0)


def _share(step: int, total: int) -> float:
    """Return the share of the rate: a rise, then half a cosine down to nothing."""
    warm = max(1, round(_WARM_UP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def _resume(pupil: _Pupil, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    if progress.state is not None and progress.optimizer is not None:
        pupil.set_state(progress.state)
        optimizer.load_state_dict(progress.optimizer)
