"""Proving a fold: against the original on held-out data, at full rank against itself, and on the clock."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from rankfold.findings import Latency, SelfCheck
from rankfold.options import Options
from rankfold.passes.factors import factorise
from rankfold.passes.fold import finite_weight, fold, full_rank
from rankfold.passes.model_file import Model
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.passes.write_model import write_model
from rankfold.runtime_calib.compare import compare
from rankfold.runtime_calib.feeds import read_spool, sample_count
from rankfold.runtime_calib.latency import latency_of_batches
from rankfold.values import Feed, InputSpec, RankPlan

# How far a model folded at full rank may be from itself, in units of its weights' rounding: two products round twice
# where one rounded once, and a few dozen layers carry that on. What was seen in float32 is near 12.
_ROUNDINGS = 64
_PROBE_ROWS = 64


def self_check(
    model: Model, scan: Scan, plan: RankPlan, spectra: Mapping[str, Spectrum], feed: Feed, *, options: Options
) -> SelfCheck | None:
    """Fold the plan's sites at full rank and compare: the model on held-out data, each site on random rows.

    Random rows go in every direction, those that calibration never saw included. None where nothing is folded.
    """
    if not plan.folded:
        return None
    chosen = {line.site for line in plan.folded}
    whole = full_rank(replace(plan, sites=tuple(line for line in plan.sites if line.site in chosen)))
    sites = [site for site in scan.sites if site.name in chosen]
    with tempfile.TemporaryDirectory(prefix="rankfold-") as folder:
        path = Path(folder) / "full_rank.onnx"
        write_model(fold(model, scan, whole, spectra, version="self-check"), model, path)
        found = compare(
            model.path,
            path,
            options.progress([feed], "self-check", 1),
            outputs=options.outputs,
            provider=options.provider,
        )
    precision = max(_rounding(site) for site in sites)
    return SelfCheck(
        held_out=max(output.relative_l2 for output in found.outputs),
        unseen=max(_on_random_rows(model, scan, site, spectra[site.name], options.seed) for site in sites),
        tolerance=_ROUNDINGS * precision,
    )


def latencies(
    base: Path, candidate: Path, feed: Feed, specs: tuple[InputSpec, ...], *, options: Options
) -> tuple[Latency, ...]:
    """Time both models at batch 1 and at the batch that was fed, on the provider asked for; no rounds, no times."""
    if options.latency_rounds == 0:
        return ()
    single = one_sample(feed, specs)
    feeds = [single, feed] if sample_count(single) != sample_count(feed) else [feed]
    watched = options.progress(feeds, "timing", len(feeds))
    return latency_of_batches(base, candidate, watched, provider=options.provider, rounds=options.latency_rounds)


def one_sample(feed: Feed, specs: tuple[InputSpec, ...]) -> Feed:
    """Return the first sample of a batch; inputs whose first axis is fixed stay as they are."""
    dynamic = {spec.name for spec in specs if spec.shape and not isinstance(spec.shape[0], int)}
    return {name: array[:1] if name in dynamic else array for name, array in feed.items()}


def first_batch(spool: Path) -> Feed:
    """Return the first held-out batch."""
    batches: Iterator[Feed] = read_spool(spool)
    return next(batches)


def _rounding(site: Site) -> float:
    """Return the spacing of the weight's type at 1."""
    one = np.ones((), site.stored_dtype)  # halved until adding it changes nothing: np.finfo does not know bfloat16
    step = one
    while one + step / 2 != one:
        step = step / one.dtype.type(2)
    return float(step)


def _on_random_rows(model: Model, scan: Scan, site: Site, basis: Spectrum, seed: int) -> float:
    weight = finite_weight(model, scan, site)
    factors = factorise(weight, basis, min(site.in_features, site.out_features), dtype=site.stored_dtype)
    rows = np.random.default_rng(seed).standard_normal((_PROBE_ROWS, site.in_features))
    exact = rows @ weight
    away = rows @ factors.down.astype(np.float64) @ factors.up.astype(np.float64) - exact
    return float(np.linalg.norm(away) / max(float(np.linalg.norm(exact)), np.finfo(float).tiny))
