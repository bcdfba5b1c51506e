"""A model that is trained: the lessons it gets, and the steps it takes by them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor

from rankfold.errors import ModelError
from rankfold.training.executor import GraphModule, build
from rankfold.training.judging import Criterion, distance, label_loss, mean_distance, without_padding
from rankfold.training.tensors import from_array
from rankfold.training.widened import widened, widened_array, widened_arrays

Array = NDArray[np.generic]

_BETAS = (0.9, 0.99)  # squares averaged over a hundred steps: a run has hundreds, not the millions .999 is made for
_SMALLEST_SIZE = 0.01  # of a tensor as its steps are measured, relative to the median's: a bias of zeros moves too


class Lesson(NamedTuple):
    """A batch, what the original gives for it, and what it is, where that is known; any such triple does.

    Attributes:
        feed: The inputs.
        wanted: Tensor name to the original's values; None where the course's original computes them.
        labels: Class numbers (samples,); None trains without.
    """

    feed: Mapping[str, Array]
    wanted: Mapping[str, Array] | None
    labels: Array | None = None


Triple = tuple[Mapping[str, Array], Mapping[str, Array] | None, Array | None]


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
        original: Gives the outputs and the middles of lessons that bring none; None where all bring theirs.
    """

    lessons: Callable[[int, int], Iterable[Triple]]
    steps: int
    held_out: Callable[[], Iterable[Triple]]
    criteria: Mapping[str, Criterion]
    middles: tuple[str, ...] = ()
    middles_weight: float = 1.0
    labelled: str | None = None
    labels_weight: float = 0.5
    padding: str | None = None
    original: GraphModule | None = None

    @property
    def judged(self) -> Mapping[str, Criterion]:
        """Return how held-out samples are judged: by relative L2, but where labels count as in training."""
        return self.criteria if self.labelled else dict.fromkeys(self.criteria, "relative_l2")


class _Placed(NamedTuple):
    """A lesson on the device, with what the original gives for it."""

    feed: dict[str, Tensor]
    wanted: dict[str, Tensor]
    labels: Tensor | None


class Pupil:
    """The module that is trained, with what it is trained on."""

    def __init__(
        self, proto: ModelProto, course: Course, trainable: Sequence[str], weights: Mapping[str, Array], device: str
    ) -> None:
        self.course = course
        self.device = device
        self.module: GraphModule = build(
            widened(proto), weights=widened_arrays(weights), trainable=trainable, also=course.middles
        ).to(device)
        self._original = None if course.original is None else course.original.to(device)
        self.parameters = self.module.parameters_by_name
        self.average: dict[str, Tensor] = {}

    def state(self) -> dict[str, Tensor]:
        """Return a copy of what is trained."""
        return {name: value.detach().cpu().clone() for name, value in self.parameters.items()}

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back to such a copy."""
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state[name])

    @torch.no_grad()
    def averaged(self, share: float) -> None:
        """Let the present values count that share in the average of all the values since the first call."""
        for name, value in self.parameters.items():
            if name in self.average:
                self.average[name].lerp_(value.detach(), share)
            else:
                self.average[name] = value.detach().clone()

    def judged_average(self) -> tuple[float, dict[str, Tensor]]:
        """Return the held-out loss of the average, and a copy of it."""
        present, average = self.state(), {name: value.cpu().clone() for name, value in self.average.items()}
        self.set_state(average)
        loss = self.held_out_loss()
        self.set_state(present)
        return loss, average

    def optimizer(self, rate: float) -> tuple[torch.optim.Optimizer, Callable[[float], None]]:
        """Return an optimizer whose steps are measured in each tensor's size, and what sets the share of its rate."""
        sizes = {name: float(value.detach().square().mean().sqrt()) for name, value in self.parameters.items()}
        least = _SMALLEST_SIZE * float(np.median(list(sizes.values())))
        rates = [rate * max(sizes[name], least) for name in self.parameters]
        groups = [{"params": [value], "lr": own} for value, own in zip(self.parameters.values(), rates, strict=True)]
        made = torch.optim.AdamW(groups, betas=_BETAS, weight_decay=0.0, fused=self.device != "cpu")

        def schedule(share: float) -> None:
            for group, own in zip(made.param_groups, rates, strict=True):
                group["lr"] = own * share

        return made, schedule

    def learn(self, optimizer: torch.optim.Optimizer, lesson: Triple) -> bool:
        """Take a step; return whether there was a finite loss to take it by."""
        optimizer.zero_grad(set_to_none=True)
        placed = self._placed_lesson(lesson)
        with _quick_products():
            loss = self._loss(placed)
            loss.backward()
        if not bool(torch.isfinite(loss)):
            return False
        optimizer.step()
        return True

    def _loss(self, lesson: _Placed, *, judged: bool = False) -> Tensor:
        """Return what one lesson shows: as it is learnt from, or as held-out samples are judged."""
        course = self.course
        counted = None if course.padding is None else lesson.feed[course.padding] != 0
        found = without_padding(self.module(lesson.feed), counted)
        wanted = without_padding(lesson.wanted, counted)
        loss = mean_distance(course.judged if judged else course.criteria, wanted, found)
        if course.labelled is not None and lesson.labels is not None:
            probabilities = course.criteria[course.labelled] == "kl_probabilities"
            own = label_loss(found[course.labelled], lesson.labels, probabilities=probabilities)
            loss = (1 - course.labels_weight) * loss + course.labels_weight * own
        if course.middles and not judged:
            apart = [distance("relative_l2", wanted[name], found[name]) for name in course.middles]
            loss = loss + course.middles_weight * torch.stack(apart).mean()
        return loss

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Return the loss of the held-out lessons."""
        return self.mean_loss(self.course.held_out(), judged=True)

    @torch.no_grad()
    def mean_loss(self, lessons: Iterable[Triple], *, judged: bool = False) -> float:
        """Return the mean loss of some lessons, infinite where one has none."""
        losses = [float(self._loss(self._placed_lesson(lesson), judged=judged)) for lesson in lessons]
        return float(np.mean(losses)) if losses and np.isfinite(losses).all() else math.inf

    @torch.no_grad()
    def _placed_lesson(self, lesson: Triple) -> _Placed:
        """Return a lesson on the device, with what the original gives for it."""
        feed, wanted, labels = lesson
        placed = self._placed(feed)
        classes = None if labels is None else from_array(labels.astype(np.int64)).to(self.device)
        return _Placed(placed, self._of_original(placed) if wanted is None else self._placed(wanted), classes)

    def _of_original(self, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the original.

        Raises:
            ModelError: A tensor holds NaN or infinity.
        """
        if self._original is None:
            raise ValueError("a lesson brings nothing of the original, and the course has no original to ask")
        with _quick_products(narrow=False):
            found = self._original(feed)
        named = {name: found[name] for name in (*self.course.criteria, *self.course.middles)}
        finite = torch.stack([torch.isfinite(value).all() for value in named.values()])
        if not bool(finite.all()):
            name = next(name for name, one in zip(named, finite.tolist(), strict=True) if not one)
            raise ModelError(
                f"tensor {name!r} of the original is not of finite numbers, and nothing can be healed by it"
            )
        return named

    def _placed(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        return {name: from_array(widened_array(array)).to(self.device) for name, array in arrays.items()}


@contextmanager
def _quick_products(*, narrow: bool = True) -> Iterator[None]:
    """Let torch multiply float32 matrices as the processor does best, for as long as this is open.

    On a GPU they are rounded to TF32, a part in two thousand. On a CPU, `narrow` lets them be rounded to bfloat16:
    oneDNN then takes over from the BLAS, at two times the speed on an AVX-512 processor, where it rounds nothing, and
    in bfloat16 itself, a part in 250, on those that have matrix units for it. Steps are taken so, nothing is judged.
    """
    products = [(torch.backends.cuda.matmul, "tf32")]
    if narrow:
        products.append((torch.backends.mkldnn.matmul, "bf16"))  # type: ignore[attr-defined]  # set up on import
    before = [backend.fp32_precision for backend, _ in products]
    for backend, precision in products:
        backend.fp32_precision = precision
    try:
        yield
    finally:
        for (backend, _), precision in zip(products, before, strict=True):
            backend.fp32_precision = precision
