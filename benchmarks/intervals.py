"""Quality as terms per sample, and how sure the difference of two candidates on the same samples is.

Every figure here is a ratio of two sums over samples, or its square root: accuracy and a mean have ones below, a
relative L2 has squared distances above and squared lengths below. So samples can be drawn again without running
anything again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rankfold.values import FloatArray, read_only

RESAMPLES = 10_000
COVERAGE = 0.95
_MOST_CLUSTERS = 5  # up to here all n^n resamples are gone through, 3,125 at most; beyond, some are drawn
_AT_A_TIME = 1 << 23  # drawn numbers held at once: 64 MB


@dataclass(frozen=True)
class Measure:
    """One figure of one candidate, term by term.

    Attributes:
        above, below: What each sample adds above and below the fraction, (samples,).
        root: Whether the figure is the square root of the fraction.
    """

    above: FloatArray
    below: FloatArray
    root: bool

    def __post_init__(self) -> None:
        if self.above.shape != self.below.shape or self.above.ndim != 1 or not len(self.above):
            raise ValueError(f"terms of shapes {self.above.shape} and {self.below.shape}; expected (samples,) twice")
        read_only(self.above)
        read_only(self.below)

    @property
    def value(self) -> float:
        """Return the figure over all samples."""
        return float(_figure(np.array([self.above.sum(), self.below.sum()]), root=self.root))


@dataclass(frozen=True)
class Interval:
    """The difference of two figures (second less first), and the bounds that hold it with `COVERAGE`."""

    difference: float
    low: float
    high: float


def mean_of(values: NDArray[np.generic]) -> Measure:
    """Return the mean of one number per sample; booleans give a share."""
    return Measure(values.astype(np.float64), np.ones(len(values)), root=False)


def relative_l2(found: FloatArray, reference: FloatArray) -> Measure:
    """Return the relative L2 distance of outputs, (samples, ...), to the original's."""
    axes = tuple(range(1, reference.ndim))
    return Measure(((found - reference) ** 2).sum(axes), (reference**2).sum(axes), root=True)


def student_interval(differences: FloatArray) -> Interval:
    """Return the mean of a few differences, (count,), and Student's interval, which takes them to be normal.

    Three are too few to draw again: 27 resamples, none of them beyond what was seen.

    Raises:
        ValueError: There are fewer than two.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"{count} differences have no spread; give two at least")
    mean = float(differences.mean())
    half = float(stats.t.ppf((1 + COVERAGE) / 2, count - 1) * differences.std(ddof=1) / count**0.5)
    return Interval(mean, mean - half, mean + half)


def paired_interval(first: Measure, second: Measure, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the paired bootstrap interval of `second - first`, by percentiles (Efron and Tibshirani 1993, chapter 13).

    Each resample draws as many samples as there are, with replacement, and the same ones for both candidates.

    Raises:
        ValueError: The two are not figures of one kind over as many samples.
    """
    count = len(first.above)
    if count != len(second.above) or first.root != second.root:
        raise ValueError(
            f"figures of {count} and {len(second.above)} samples (roots: {first.root}, {second.root}) are no pair; give"
            " two candidates' scores of one kind on the same samples"
        )
    terms = np.stack([first.above, first.below, second.above, second.below], axis=1)
    random, step = np.random.default_rng(seed), max(_AT_A_TIME // count, 1)
    drawn = [_drawn(random, terms, min(step, resamples - start)) for start in range(0, resamples, step)]
    sums = np.concatenate(drawn)
    differences = _figure(sums[:, 2:], root=first.root) - _figure(sums[:, :2], root=first.root)
    low, high = np.quantile(differences, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(second.value - first.value, float(low), float(high))


def cluster_interval(
    figure: Callable[[NDArray[np.intp]], float],
    clusters: NDArray[np.generic],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return the bootstrap interval of a figure of rows that hang together in clusters, by percentiles.

    Each resample draws as many clusters as there are, with replacement, each with all of its rows (Davison and Hinkley
    1997, section 3.8). Few clusters give few different resamples, and an interval that is too narrow.

    Args:
        figure: Takes the numbers of the rows drawn, (rows,).
        clusters: Which cluster each row is of, (rows,).
        seed, resamples: Of the draws, where there are too many resamples to go through all.
    """
    members = [np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)]
    count = len(members)
    if count <= _MOST_CLUSTERS:
        draws = [*product(range(count), repeat=count)]
    else:
        draws = [*map(tuple, np.random.default_rng(seed).integers(count, size=(resamples, count)).tolist())]
    known: dict[tuple[int, ...], float] = {}
    for draw in draws:
        kind = tuple(sorted(draw))
        if kind not in known:
            known[kind] = figure(np.concatenate([members[number] for number in kind]))
    found = [known[tuple(sorted(draw))] for draw in draws]
    # Without interpolation: between the few values of so few resamples there is nothing.
    low, high = np.quantile(found, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], method="inverted_cdf")
    return float(low), float(high)


def _drawn(random: np.random.Generator, terms: FloatArray, resamples: int) -> FloatArray:
    """Return the sums of the terms over each resample, (resamples, terms)."""
    count = len(terms)
    places = random.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    times = np.bincount(places.ravel(), minlength=resamples * count).reshape(resamples, count)
    sums: FloatArray = times.astype(np.float64) @ terms
    return sums


def _figure(sums: FloatArray, *, root: bool) -> FloatArray:
    ratio: FloatArray = sums[..., 0] / sums[..., 1]
    return np.sqrt(ratio) if root else ratio
