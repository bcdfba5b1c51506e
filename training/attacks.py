"""Adversarial examples by gradients with respect to an input: steps that raise a classifier's loss, inside a ball.

One step of full length from the sample itself is FGSM (Goodfellow et al. 2015, arXiv 1412.6572); several, from a random
point of the ball and projected back to it, are PGD (Madry et al. 2018, arXiv 1706.06083). Under the L2 norm a step goes
along the gradient, scaled to a length, instead of along its sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rankfold.training.ball import Norm, Room, ball_about
from rankfold.training.executor import GraphModule
from rankfold.training.tensors import from_array
from rankfold.training.widened import widened_array

Array = NDArray[np.generic]
_TINY = 1e-12  # below any probability that matters, above what has no logarithm


@dataclass(frozen=True)
class Attack:
    """How examples are sought.

    Attributes:
        norm: What the ball is measured by: `linf`, the largest change of any value, or `l2`, the length of the change.
        steps: Gradients taken per start.
        step: The length of one step, as a share of the ball's radius.
        restarts: Starts per sample, the worst for the classifier counts.
        scattered: Start at a point drawn evenly from the ball, not at the sample itself.
    """

    norm: Norm
    steps: int
    step: float
    restarts: int = 1
    scattered: bool = True


@dataclass(frozen=True)
class Classifier:
    """What is attacked.

    Attributes:
        module: The graph.
        input: The input that is changed; the others stay.
        scores: The tensor of class scores, (samples, classes), that the loss is taken of.
        probabilities: Whether these are probabilities, whose logarithm is taken; else they are logits.
        device: Torch's name of where the module is.
    """

    module: GraphModule
    input: str
    scores: str
    probabilities: bool = False
    device: str = "cpu"


class Sought(NamedTuple):
    """Examples, in the input's shape and the module's type, and the loss at each of them, (samples,)."""

    examples: Array
    losses: Array


def sample_losses(classifier: Classifier, feed: Mapping[str, Array], labels: Array) -> Array:
    """Return the cross-entropy of each sample in nats, (samples,), for class numbers (samples,)."""
    placed = _placed(classifier, feed)
    with torch.no_grad():
        losses, _ = _judged(classifier, placed, placed[classifier.input], _classes(classifier, labels))
    return _array(losses)


def input_gradients(classifier: Classifier, feed: Mapping[str, Array], labels: Array) -> Array:
    """Return each sample's gradient of its loss by the input, in the input's shape; what is not finite is 0."""
    placed = _placed(classifier, feed)
    return _array(_gradients(classifier, placed, placed[classifier.input], _classes(classifier, labels)))


def adversarial(
    classifier: Classifier,
    feed: Mapping[str, Array],
    labels: Array,
    *,
    attack: Attack,
    radius: float,
    room: Room,
    randoms: Sequence[np.random.Generator] = (),
) -> Sought:
    """Return an example per sample: the last point of each walk, of several walks the one that the classifier fails at.

    Where several fail, or none does, the one of the largest loss counts.

    Args:
        classifier: What is attacked.
        feed: A batch; of the attacked input, axis 0 counts samples.
        labels: Their classes (samples,).
        attack: How examples are sought.
        radius: Of the ball, 0 or more, in units of `room.unit`.
        room: Where examples may lie; samples that lie outside may stay where they are.
        randoms: One generator per start, where starts are scattered; samples take from it in order, so that starts do
            not depend on how samples are batched.
    """
    placed = _placed(classifier, feed)
    classes = _classes(classifier, labels)
    origin = placed[classifier.input]
    ball = ball_about(origin, radius, room, norm=attack.norm)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for number in range(attack.restarts):
        point = ball.scattered(randoms[number]) if attack.scattered else origin
        for _ in range(attack.steps):
            gradient = _gradients(classifier, placed, point, classes)
            point = ball.held(point + ball.stride(gradient, attack.step))
        with torch.no_grad():
            found = (point, *_judged(classifier, placed, point, classes))
        best = found if best is None else _worse(best, found)
    assert best is not None  # there is a start at least
    return Sought(_array(best[0]), _array(best[1]))


def _gradients(classifier: Classifier, feed: Mapping[str, Tensor], point: Tensor, classes: Tensor) -> Tensor:
    point = point.detach().requires_grad_()
    losses, _ = _judged(classifier, feed, point, classes)
    if not losses.requires_grad:  # nothing that carries a gradient lies between the input and the scores
        return torch.zeros_like(point)
    (found,) = torch.autograd.grad(losses.sum(), point, allow_unused=True)
    return torch.zeros_like(point) if found is None else torch.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


def _judged(
    classifier: Classifier, feed: Mapping[str, Tensor], point: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each sample's loss, and whether it is classified wrongly."""
    scores = classifier.module({**feed, classifier.input: point})[classifier.scores]
    logs = scores.clamp_min(_TINY).log() if classifier.probabilities else torch.log_softmax(scores, -1)
    return functional.nll_loss(logs, classes, reduction="none"), scores.argmax(-1) != classes


def _worse(
    first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, sample by sample, the point, loss and failure that are the worse of two for the classifier."""
    taken = (second[2] & ~first[2]) | ((second[2] == first[2]) & (second[1] > first[1]))
    beside = taken.reshape(-1, *(1,) * (first[0].ndim - 1))
    return (
        torch.where(beside, second[0], first[0]),
        torch.where(taken, second[1], first[1]),
        torch.where(taken, second[2], first[2]),
    )


def _placed(classifier: Classifier, feed: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: from_array(widened_array(array)).to(classifier.device) for name, array in feed.items()}


def _classes(classifier: Classifier, labels: Array) -> Tensor:
    return from_array(labels.astype(np.int64)).to(classifier.device)


def _array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().cpu().numpy()
    return found


def limit_threads(threads: int) -> None:
    """Let torch take as many threads, in this process."""
    torch.set_num_threads(threads)
