"""From a calibration and a budget to a decision: the bases, the plan, and what it is expected to cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rankfold.choose import Study, hindrance, keep_searched, with_tails
from rankfold.findings import SiteOutcome, Tried
from rankfold.measures import site_outcomes
from rankfold.options import Options
from rankfold.passes.bases import held_out_tails, rows_warning, site_basis
from rankfold.passes.model_file import Model
from rankfold.passes.plan import make_plan, site_curves, with_predictions
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan, unmatched_patterns
from rankfold.passes.spectrum import Spectrum
from rankfold.runtime_calib.threads import limited_threads
from rankfold.values import Calibration, Energy, FloatArray, Keep, RankPlan

_VECTORS_SHARE = 0.5
"""Share of the memory in which the bases' vectors are kept; those beyond it are computed again when they are needed."""


@dataclass(frozen=True)
class Decision:
    """What is to be done, and what of the calibration is still needed for it.

    Attributes:
        spectra: Each site's basis; those that memory has no room for lack their vectors.
        calibration: Without moments where all vectors are there.
        tried: The plans that were tried before one was chosen.
    """

    plan: RankPlan
    spectra: dict[str, Spectrum]
    outcomes: tuple[SiteOutcome, ...]
    warnings: tuple[str, ...]
    calibration: Calibration
    tried: tuple[Tried, ...] = ()


def decide(
    model: Model,
    scan: Scan,
    calibration: Calibration,
    budget: Keep | Energy | RankPlan,
    options: Options,
    *,
    choosing: Path | None = None,
) -> Decision:
    """Return what is to be done with each site.

    Args:
        model, scan: The original and its sites.
        calibration: What was collected.
        budget: What to keep, or a plan that was checked already.
        options: Memory, progress, and how plans are searched for.
        choosing: The held-out batches to choose a plan on; None chooses none.
    """
    spectra, warnings = {}, []
    tails: dict[str, FloatArray] = {}
    losses: dict[str, FloatArray] = {}
    room = options.memory_bytes * _VECTORS_SHARE
    for site, basis, warning in _bases(model, scan, calibration, options):
        room -= basis.vectors.nbytes
        spectra[site.name] = basis if room >= 0 else _without_vectors(basis)
        tails[site.name] = held_out_tails(model, scan, site, basis, (calibration.moments, calibration.held_out))
        if calibration.choosing:
            losses[site.name] = held_out_tails(model, scan, site, basis, (calibration.moments, calibration.choosing))
        warnings.append(warning)
    told = [*pattern_warnings(scan, options), *filter(None, warnings), *_data_warnings(calibration)]
    tried: tuple[Tried, ...] = ()
    reason = hindrance(model, choosing) if choosing else None
    if isinstance(budget, RankPlan):
        plan = replace(
            with_predictions(budget, spectra),
            fixed_parameters=scan.fixed_parameters,
            fixed_dense_parameters=scan.fixed_dense_parameters,
        )
    elif isinstance(budget, Keep) and choosing and scan.sites and not reason:
        whole = _whole(model, scan, spectra, calibration)
        curves = with_tails(site_curves(scan, spectra), losses)
        plan, tried = keep_searched(Study(model, scan, curves, whole, choosing, options), budget)
        plan = with_predictions(plan, spectra)
    else:
        plan = make_plan(scan, site_curves(scan, spectra), budget, model_digest=model.digest)
        told.extend([reason] if reason and scan.sites else [])
    outcomes = site_outcomes(scan, plan, spectra, tails)
    rest = replace(calibration, held_out={}, choosing={}, moments={} if room >= 0 else calibration.moments)
    return Decision(plan, spectra, outcomes, tuple(told), rest, tried)


def whole_bases(model: Model, scan: Scan, decision: Decision) -> Callable[[Site], Spectrum]:
    """Return what gives a site's basis with its vectors: as it was kept, or made again of the same moments."""
    return _whole(model, scan, decision.spectra, decision.calibration)


def _whole(
    model: Model, scan: Scan, spectra: Mapping[str, Spectrum], calibration: Calibration
) -> Callable[[Site], Spectrum]:
    def whole(site: Site) -> Spectrum:
        basis = spectra[site.name]
        return basis if basis.vectors.size else site_basis(model, scan, site, calibration.moments)

    return whole


def site_spectra(
    model: Model, scan: Scan, calibration: Calibration, options: Options
) -> tuple[dict[str, Spectrum], tuple[str, ...]]:
    """Return each site's basis without its vectors, and warnings: of too few rows, of patterns that match nothing."""
    spectra, warnings = {}, []
    for site, basis, warning in _bases(model, scan, calibration, options):
        spectra[site.name] = _without_vectors(basis)
        warnings.append(warning)
    return spectra, (*pattern_warnings(scan, options), *filter(None, warnings))


def _bases(
    model: Model, scan: Scan, calibration: Calibration, options: Options
) -> Iterator[tuple[Site, Spectrum, str | None]]:
    """Yield each site with its basis and the warning about its rows."""
    with limited_threads():
        for site in options.progress(scan.sites, "bases", len(scan.sites)):
            basis = site_basis(model, scan, site, calibration.moments)
            yield site, basis, rows_warning(site, basis.rows)


def _without_vectors(basis: Spectrum) -> Spectrum:
    return replace(basis, vectors=np.empty((*basis.vectors.shape[:-1], 0)))


def _data_warnings(calibration: Calibration) -> Iterator[str]:
    settings = calibration.settings
    if settings.get("dropped_samples"):
        yield f"{settings['dropped_samples']} samples did not fill a batch of the model's fixed size and were left out"
    if settings.get("mask") and calibration.moments and not settings.get("masked_activations"):
        yield f"mask {settings['mask']!r} has the rows of none of the foldable layers' activations and was not used"


def pattern_warnings(scan: Scan, options: Options) -> tuple[str, ...]:
    """Return a warning for each pattern that matches nothing, which is likely misspelt."""
    given = {"--include": options.include, "--exclude": options.exclude}
    return tuple(
        f"{name} {pattern!r} matches no node, operator or weight"
        for name, patterns in given.items()
        for pattern in unmatched_patterns(scan, patterns)
    )
