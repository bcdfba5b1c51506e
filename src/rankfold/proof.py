"""Proving a fold: against the original on held-out data, at full rank against itself, and on the clock."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rankfold.findings import Discrepancy, Latency, SelfCheck
from rankfold.memory import runs_lean
from rankfold.options import Options
from rankfold.passes.carry import Rewritten
from rankfold.passes.factors import Factors, factorise
from rankfold.passes.fold import finite_weight, fold, full_rank
from rankfold.passes.model_file import Model, input_specs
from rankfold.passes.pivots import choose_pivots
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.passes.write_model import write_referring
from rankfold.runtime_calib.compare import compare
from rankfold.runtime_calib.feeds import read_spool, sample_count
from rankfold.runtime_calib.latency import latency_of_batches
from rankfold.values import Feed, FloatArray, InputSpec, RankPlan

# How far a model folded at full rank may be from itself, in units of its weights' rounding: two products round twice
# where one rounded once, and a few dozen layers carry that on. What was seen in float32 is near 12.
_ROUNDINGS = 64
_PROBE_ROWS = 64
_GOLDEN = (5**0.5 - 1) / 2  # multiples of it, modulo 1, lie evenly however many are taken
_CHECKED_SHARE = 0.5  # of the memory, for what is folded at full rank


def self_check(
    model: Model,
    scan: Scan,
    plan: RankPlan,
    feed: Feed,
    *,
    spectra: Mapping[str, Spectrum],
    whole: Callable[[Site], Spectrum],
    options: Options,
) -> SelfCheck | None:
    """Fold the plan's sites at full rank and compare: the model on held-out data, each site on random rows.

    Random rows go in every direction, those that calibration never saw included. A site that the plan pivots is also
    compared at its own rank, with the matrix its factors store: at full rank there are no pivots. None where nothing is
    folded. At full rank a model is larger than before: where not all sites fit in a share of the memory, it is some of
    every kind.

    Args:
        model: The original.
        scan: Its sites.
        plan: Which of them are folded.
        feed: The held-out batch to compare on.
        spectra: The folded sites' bases, with or without vectors.
        whole: Gives a site's basis with them; one is held at a time.
        options: Memory, outputs, seed, provider and progress.
    """
    planned = {line.site: line for line in plan.folded}
    folded = [site for site in scan.sites if site.name in planned]
    if not folded:
        return None
    sites = checked_sites(folded, int(options.memory_bytes * _CHECKED_SHARE))
    ranks = {site.name: planned[site.name].rank or 0 for site in sites if planned[site.name].form == "pivoted"}
    ticks = iter(options.progress(sites, "self-check", len(sites)))
    rows = _RandomRows(model, scan, options.seed, ranks)

    def checked(site: Site) -> Spectrum:
        next(ticks, None)
        return rows.checked(site, whole(site))

    chosen = {site.name for site in sites}
    lines = tuple(line for line in plan.sites if line.site in chosen)
    made = fold(model, scan, full_rank(replace(plan, sites=lines)), spectra, version="self-check", whole=checked)
    assert made is not None  # there is a site
    found = _compared(model, made, feed, options)
    next(ticks, None)
    return SelfCheck(
        held_out=max(output.relative_l2 for output in found.outputs),
        unseen=max(rows.unseen.values()),
        tolerance=_ROUNDINGS * max(_rounding(site) for site in sites),
        checked=len(sites),
        folded=len(folded),
        pivoted=max(rows.pivoted.values(), default=None),
    )


def _compared(model: Model, made: Rewritten, feed: Feed, options: Options) -> Discrepancy:
    """Write a rewritten model for a moment, and compare it with the original."""
    with tempfile.TemporaryDirectory(prefix="rankfold-") as folder:
        path = Path(folder) / "full_rank.onnx"
        write_referring(made, model, path)
        return compare(
            model.given.path,
            path,
            [feed],
            outputs=options.outputs,
            provider=options.provider,
            lean=runs_lean(model, options),
            candidate_weights=model.path.resolve().parent,
        )


def checked_sites(sites: Sequence[Site], room_bytes: int) -> list[Site]:
    """Return the sites to fold at full rank: as many as fit, spread evenly; the first of each operator in any case."""
    first = {site.op_type: site for site in reversed(sites)}
    chosen = {site.name for site in first.values()}
    room = room_bytes - sum(_full_rank_bytes(site) for site in first.values())
    spread = sorted(range(len(sites)), key=lambda place: place * _GOLDEN % 1)
    for site in (sites[place] for place in spread):
        needed = _full_rank_bytes(site)
        if site.name not in chosen and needed <= room:
            chosen.add(site.name)
            room -= needed
    return [site for site in sites if site.name in chosen]


def latencies(model: Model, candidate: Path, feed: Feed, *, lean: bool, options: Options) -> tuple[Latency, ...]:
    """Time both models at batch 1 and at the batch that was fed, on the provider asked for; no rounds, no times."""
    if options.latency_rounds == 0:
        return ()
    single = one_sample(feed, input_specs(model))
    feeds = [single, feed] if sample_count(single) != sample_count(feed) else [feed]
    return latency_of_batches(
        model.path,
        candidate,
        options.progress(feeds, "timing", len(feeds)),
        provider=options.provider,
        lean=lean,
        rounds=options.latency_rounds,
    )


def one_sample(feed: Feed, specs: tuple[InputSpec, ...]) -> Feed:
    """Return the first sample of a batch; inputs whose first axis is fixed stay as they are."""
    dynamic = {spec.name for spec in specs if spec.shape and not isinstance(spec.shape[0], int)}
    return {name: array[:1] if name in dynamic else array for name, array in feed.items()}


def first_batch(spool: Path) -> Feed:
    """Return the first held-out batch."""
    batches: Iterator[Feed] = read_spool(spool)
    return next(batches)


def _full_rank_bytes(site: Site) -> int:
    """Return what one site's full-rank fold takes: both factors in the file and in the session, and its basis."""
    rank, width = min(site.in_features, site.out_features), site.stored_dtype.itemsize
    return site.blocks * rank * (2 * width * (site.in_features + site.out_features) + 8 * site.out_features)


def _rounding(site: Site) -> float:
    """Return the spacing of the weight's type at 1."""
    one = np.ones((), site.stored_dtype)  # halved until adding it changes nothing: np.finfo does not know bfloat16
    step = one
    while one + step / 2 != one:
        step = step / one.dtype.type(2)
    return float(step)


@dataclass(frozen=True)
class _RandomRows:
    """What sites do to random rows, the factors as stored against the matrix they stand for.

    Attributes:
        seed: Of the rows.
        ranks: Of the sites that are pivoted.
        unseen, pivoted: What was found of each site at full rank, and of the pivoted ones at their own.
    """

    model: Model
    scan: Scan
    seed: int
    ranks: Mapping[str, int]
    unseen: dict[str, float] = field(default_factory=dict)
    pivoted: dict[str, float] = field(default_factory=dict)

    def checked(self, site: Site, basis: Spectrum) -> Spectrum:
        """Return the basis, what it does to a site noted."""
        self.unseen[site.name] = self._at_full_rank(site, basis)
        if site.name in self.ranks:
            self.pivoted[site.name] = self._pivoted(site, basis, self.ranks[site.name])
        return basis

    def _at_full_rank(self, site: Site, basis: Spectrum) -> float:
        """Return how far a pair of full rank is from the weight."""
        weight = finite_weight(self.model, self.scan, site)
        rank = min(site.in_features, site.out_features)
        return self._away(weight, factorise(weight, basis, rank, dtype=site.stored_dtype))

    def _pivoted(self, site: Site, basis: Spectrum, rank: int) -> float:
        """Return how far the pivoted form is from the pair's product, over what its pivots amplify a rounding by."""
        weight = finite_weight(self.model, self.scan, site)
        down, up = weight @ basis.duals[:, :rank], basis.vectors[:, :rank]
        pivots = choose_pivots(down, up, site.pivots)
        factors = factorise(weight, basis, rank, dtype=site.stored_dtype, pivots=pivots)
        return self._away(down @ up.T, factors) / pivots.growth

    def _away(self, matrix: FloatArray, factors: Factors) -> float:
        rows = np.random.default_rng(self.seed).standard_normal((_PROBE_ROWS, matrix.shape[-2]))
        exact = rows @ matrix
        away = factors.product(rows) - exact
        return float(np.linalg.norm(away) / max(float(np.linalg.norm(exact)), np.finfo(float).tiny))
