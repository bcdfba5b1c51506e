"""Fitting biases and second factors anew, in the graph's order, to what the original gives; no gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from rankfold.healing import Case
from rankfold.passes.refit import ROWS_PER_DIMENSION, STRENGTHS, Fit, Normal, Rows, best_fits
from rankfold.passes.refit_sites import RefitSite, RefitUse, find_refit_sites
from rankfold.passes.replaced import can_hold
from rankfold.runtime_calib.sessions import run_outputs
from rankfold.runtime_calib.threads import limited_threads
from rankfold.runtime_calib.units import sample_count
from rankfold.values import Feed, FloatArray, Skipped

Array = NDArray[np.generic]

FEWEST_SAMPLES = 32  # rows of one image or sentence are alike: as many samples, whatever rows they have
MOST_JUDGING = 32  # samples whose rows choose the strength
MOST_TRYING = 128  # samples that judge the outputs after each group, as there are dozens of groups
MOST_ROWS_PER_DIMENSION = 64  # beyond it a fit hardly changes; what there is more is left out by a random draw


@dataclass(frozen=True)
class Refitted:
    """What was fitted.

    Attributes:
        values: New numbers by initializer.
        fitted, biased: How many folds took a new factor, and how many a new bias alone.
        skipped: The others that could not be fitted.
    """

    values: dict[str, Array]
    fitted: int
    biased: int
    skipped: tuple[Skipped, ...]


@dataclass
class _Sums:
    """What is gathered of one site: sums to fit on, rows to judge by, and the mean of all that a bias adds to."""

    normal: Normal
    judged: list[list[Rows]]
    mean: list[FloatArray]

    @classmethod
    def empty(cls, uses: int) -> _Sums:
        return cls(Normal.empty(uses), [[] for _ in range(uses)], [np.zeros(())] * uses)


def refit(case: Case) -> Refitted:
    """Fit biases, then factors, site after site in the graph's order, and keep what lowers the held-out error.

    Sites that read one tensor are fitted together. The inner activations are the compressed model's own, with all that
    was fitted before; what they are fitted to is the original's.
    """
    sites, skipped = find_refit_sites(case.base, case.candidate)
    work = _Work(replace(case, choosing=case.choosing.first(MOST_TRYING)))
    groups = [list(group) for _, group in groupby(sites, key=lambda site: site.reads)]
    few: list[Skipped] = []
    with limited_threads():
        for group in case.options.progress(groups, "refitting", len(groups)):
            few.extend(work.fit(group))
    return Refitted(work.values, work.fitted, work.biased, (*skipped, *few))


class _Work:
    """The model as it is fitted so far; its values and its error change with each group."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.values: dict[str, Array] = {}
        self.error = case.error(case.opened({}))
        self.fitted = self.biased = 0

    def fit(self, group: list[RefitSite]) -> Iterator[Skipped]:
        """Fit the sites of one group; yield those that have too few rows for more than their bias."""
        found = self._gathered(group)
        attempts: list[dict[str, Fit]] = [{}, {}]
        for site, sums in zip(group, found, strict=True):
            rows = sum(sums.normal.rows)
            enough = rows >= ROWS_PER_DIMENSION * site.rank
            fits = best_fits(sums.normal, sums.judged, STRENGTHS if enough else ())
            for attempt, fit in zip(attempts, fits, strict=True):
                attempt[site.name] = fit
            if not enough:
                needed = f"{ROWS_PER_DIMENSION * site.rank} are needed"
                yield Skipped(site.name, "", f"its factor stays: {rows} rows for rank {site.rank}, {needed}")
        for attempt in attempts:
            if self._tried(group, found, attempt):
                return

    def _tried(self, group: list[RefitSite], found: list[_Sums], attempt: Mapping[str, Fit]) -> bool:
        """Take a group's fits where they lower the held-out error; those that lower nothing by themselves are left."""
        taken = [(site, sums, attempt[site.name]) for site, sums in zip(group, found, strict=True)]
        taken = [part for part in taken if part[2].error < 1]
        values: dict[str, Array] = {}
        for site, sums, fit in taken:
            values |= self._changed(site, sums, fit, values)
        if not values or not can_hold(self.case.candidate, values):
            return False
        error = self.case.error(self.case.opened(self.values | values))
        if not error < self.error:
            return False
        self.values, self.error = self.values | values, error
        self.fitted += sum(fit.strength is not None for _, _, fit in taken)
        self.biased += sum(fit.strength is None for _, _, fit in taken)
        return True

    def _gathered(self, group: list[RefitSite]) -> list[_Sums]:
        """Return what the samples to fit on, and those that choose, give of a group's sites."""
        found = [_Sums.empty(len(site.uses)) for site in group]
        shelf, options = self.case.training, self.case.options
        rows_of = _Reader(self.case, self.values, group).rows
        random = np.random.default_rng(options.seed)
        samples = 0
        for numbers in shelf.batches(options.batch_size, order=random.permutation(len(shelf)).tolist()):
            feed, _ = shelf.batch(numbers)
            samples += sample_count(feed)
            for site, sums, parts in zip(group, found, rows_of(feed), strict=True):
                for use, (rows, mean) in enumerate(parts):
                    limit = MOST_ROWS_PER_DIMENSION * site.rank * len(numbers) // FEWEST_SAMPLES + 1
                    sums.normal.add(use, _drawn(rows, max(limit, len(numbers)), random))
                    sums.mean[use] = sums.mean[use] + mean * sample_count(feed)
            if samples >= FEWEST_SAMPLES and all(map(_has_enough, group, found)):
                break
        for sums in found:
            sums.mean = [mean / samples for mean in sums.mean]
        seen = 0
        for feed in self.case.choosing.feeds:
            if (seen := seen + sample_count(feed)) > MOST_JUDGING and seen > sample_count(feed):
                break
            for sums, parts in zip(found, rows_of(feed), strict=True):
                for use, (rows, _) in enumerate(parts):
                    sums.judged[use].append(rows)
        return found

    def _changed(self, site: RefitSite, sums: _Sums, fit: Fit, before: Mapping[str, Array]) -> dict[str, Array]:
        values: dict[str, Array] = {}
        if fit.strength is not None:
            up = self._value(site.up, before)
            change = (fit.change.T if site.turned else fit.change).reshape(up.shape)
            values[site.up] = up + change
        for number, use in enumerate(site.uses):
            if use.bias is None:
                continue
            bias = self._value(use.bias, before)
            shift = sums.mean[number].copy()
            shift[use.features] = sums.normal.shift(number, fit.change)
            values[use.bias] = bias + (shift[use.bias_features] / use.beta).reshape(bias.shape)
        return values

    def _value(self, name: str, before: Mapping[str, Array]) -> FloatArray:
        """Return an initializer as it stands now, float64."""
        if name in before or name in self.values:
            return (before[name] if name in before else self.values[name]).astype(np.float64)
        model = self.case.candidate
        return model.tensor(next(t for t in model.proto.graph.initializer if t.name == name)).astype(np.float64)


class _Reader:
    """Reads the rows of a group of sites, from the parts of both models that these need."""

    def __init__(self, case: Case, values: Mapping[str, Array], group: list[RefitSite]) -> None:
        inside = dict.fromkeys(name for site in group for name in _tensors(site))
        targets = dict.fromkeys(use.target for site in group for use in site.uses)
        self.group, self.mask = group, case.options.mask
        self.compressed = case.part(case.candidate, values, tuple(inside))
        self.original = case.part(case.base, {}, tuple(targets))

    def rows(self, feed: Feed) -> list[list[tuple[Rows, FloatArray]]]:
        """Return the rows of each use of each site, and the mean of what is missing at all features of its target."""
        compressed, original = run_outputs(self.compressed, feed), run_outputs(self.original, feed)
        padding = None if self.mask is None else feed[self.mask]
        return [[_use_rows(use, compressed, original, padding) for use in site.uses] for site in self.group]


def _has_enough(site: RefitSite, sums: _Sums) -> bool:
    return sum(sums.normal.rows) >= MOST_ROWS_PER_DIMENSION * site.rank


def _tensors(site: RefitSite) -> Iterator[str]:
    for use in site.uses:
        yield from (use.inner, use.target)


def _use_rows(use: RefitUse, compressed: Feed, original: Feed, padding: Array | None) -> tuple[Rows, FloatArray]:
    inner = _as_rows(compressed[use.inner], use.axis, padding)
    missing = _as_rows(original[use.target], use.axis, padding) - _as_rows(compressed[use.target], use.axis, padding)
    rows = Rows(inner * use.alpha, missing[:, use.features], use.bias is not None)
    return rows, missing.mean(axis=0)


def _as_rows(array: Array, axis: int, padding: Array | None) -> FloatArray:
    turned = np.moveaxis(array, axis, -1)
    if padding is not None and turned.shape[:-1] == padding.shape:
        turned = turned[padding != 0]
    rows: FloatArray = turned.reshape(-1, turned.shape[-1]).astype(np.float64)
    return rows


def _drawn(rows: Rows, limit: int, random: np.random.Generator) -> Rows:
    """Return at most so many rows, drawn at random."""
    if len(rows.inner) <= limit:
        return rows
    chosen = random.choice(len(rows.inner), limit, replace=False)
    return Rows(rows.inner[chosen], rows.missing[chosen], rows.biased)
