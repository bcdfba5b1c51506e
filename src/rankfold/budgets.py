"""What a plan has to meet, in size, quality or speed, and how close a plan came to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Keep:
    """Budget: keep at most this share of the parameters of all distinct foldable weights, in (0, 1]."""

    share: float


@dataclass(frozen=True)
class Energy:
    """Budget: keep at least this share of every site's output energy on the calibration rows, in (0, 1]."""

    share: float


@dataclass(frozen=True)
class Utilized:
    """Budget: every weight at its utilized rank, between projections that keep a share of the variance, in (0, 1].

    Attributes:
        share: Of the variance of a weight's inputs, and of that of its outputs.
        centred: Whether the variance is taken about the mean; else about zero.
    """

    share: float
    centred: bool = True


@dataclass(frozen=True)
class MaxError:
    """Budget: the smallest plan whose largest relative L2 over the compared outputs is at most this, above 0.

    It is measured on those held-out samples that choose.
    """

    limit: float


@dataclass(frozen=True)
class Speedup:
    """Budget: at most 1 / `factor` of the foldable layers' FLOPs, a factor above 1.

    A layer's FLOPs count its parameters once per row that it is given; no time is measured for it.
    """

    factor: float


@dataclass(frozen=True)
class Answer:
    """How close the plan came to a target, and what one step further would have cost.

    Attributes:
        target: What was asked: `max_error`, `max_drop` or `speedup`.
        asked: Its limit, or the factor.
        found: What the plan chosen loses on what it was chosen by; of a speed-up, FLOPs before / after.
        measured: Plans that were measured against the limit.
        next_kept, next_found: Of the smaller plans measured, the one that loses least: the share it keeps, and what
            it loses. None where there is none, and of a speed-up.
    """

    target: Literal["max_error", "max_drop", "speedup"]
    asked: float
    found: float
    measured: int
    next_kept: float | None = None
    next_found: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """What the original and the written model score by the user's own measure, higher is better.

    Attributes:
        limit: The drop that was allowed.
        rows: Samples scored; None where that is not known.
        interval: 95 % interval of the drop, by a paired bootstrap over the samples; None without single scores.
    """

    before: float
    after: float
    limit: float
    rows: int | None
    interval: tuple[float, float] | None

    @property
    def drop(self) -> float:
        """Return how much less the written model scores."""
        return self.before - self.after


@dataclass(frozen=True)
class Tried:
    """A plan that was tried on held-out samples before one was chosen.

    Attributes:
        name: What made it.
        kept: Share of the parameters of all foldable weights that it keeps.
        loss: What the outputs lose, as the metric measures it.
        chosen: Whether it is the one.
    """

    name: str
    kept: float
    loss: float
    chosen: bool
