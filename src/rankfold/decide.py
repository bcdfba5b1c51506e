"""From a calibration and a budget to a decision: the bases, the plan, and what it is expected to cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rankfold.answers import Found, faster_uniform, found_plan
from rankfold.budgets import Answer, MaxError, Speedup
from rankfold.choose import UNIFORM_BECAUSE, Study, hindrance, with_tails
from rankfold.errors import PlanError
from rankfold.evaluation import MaxDrop, Score
from rankfold.findings import SiteOutcome, Tried
from rankfold.measures import rows_per_sample, site_outcomes
from rankfold.options import Options
from rankfold.passes.bases import held_out_tails, rows_warning, site_basis
from rankfold.passes.model_file import Model
from rankfold.passes.plan import make_plan, site_curves, with_predictions
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan, unmatched_patterns
from rankfold.passes.spectrum import Spectrum
from rankfold.runtime_calib.threads import limited_threads
from rankfold.stated import Budget, searches
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
        answer: How close the plan came to a target.
        before: What the original scored by a user's own measure.
    """

    plan: RankPlan
    spectra: dict[str, Spectrum]
    outcomes: tuple[SiteOutcome, ...]
    warnings: tuple[str, ...]
    calibration: Calibration
    tried: tuple[Tried, ...] = ()
    answer: Answer | None = None
    before: Score | None = None


def decide(
    model: Model,
    scan: Scan,
    calibration: Calibration,
    budget: Budget,
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
    known = _known(model, scan, calibration, choosing, options)
    spectra = known.spectra
    told = [*known.warnings, *_data_warnings(calibration)]
    reason = hindrance(model, choosing) if choosing and scan.sites else None
    found = _found(known.study, calibration, budget, spectra, reason)
    plan = with_predictions(found.plan, spectra)
    told.extend([reason] if reason else [])
    outcomes = site_outcomes(scan, plan, spectra, known.tails)
    rest = replace(calibration, held_out={}, choosing={}, moments={} if known.complete else calibration.moments)
    return Decision(plan, spectra, outcomes, tuple(told), rest, found.tried, found.answer, found.before)


def studied(model: Model, scan: Scan, calibration: Calibration, choosing: Path, options: Options) -> Studied:
    """Return what plans are chosen from, for more than one of them."""
    known = _known(model, scan, calibration, choosing, options)
    return Studied(known.study, known.spectra, (*known.warnings, *_data_warnings(calibration)))


@dataclass(frozen=True)
class Studied:
    """What plans are chosen from, the bases that predict their errors, and warnings."""

    study: Study
    spectra: Mapping[str, Spectrum]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Known:
    """The bases, what their ranks lose on rows that only report, what plans are chosen from, if all vectors fit."""

    spectra: dict[str, Spectrum]
    tails: dict[str, FloatArray]
    study: Study
    warnings: tuple[str, ...]
    complete: bool


def _known(model: Model, scan: Scan, calibration: Calibration, choosing: Path | None, options: Options) -> _Known:
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
    told = (*pattern_warnings(scan, options), *filter(None, warnings))
    curves = site_curves(scan, spectra)
    curves = with_tails(curves, losses) if losses else curves
    study = Study(model, scan, curves, _whole(model, scan, spectra, calibration), choosing or Path(), options)
    return _Known(spectra, tails, study, told, room >= 0)


def _found(
    study: Study, calibration: Calibration, budget: Budget, spectra: Mapping[str, Spectrum], hindered: str | None
) -> Found:
    """Return the plan that meets a budget, by what suits it."""
    scan, model = study.scan, study.model
    if isinstance(budget, RankPlan):
        fixed = (scan.fixed_parameters, scan.fixed_dense_parameters)
        return Found(replace(budget, fixed_parameters=fixed[0], fixed_dense_parameters=fixed[1]))
    if isinstance(budget, Keep | Energy) and (hindered or not searches(budget, study.options) or not scan.sites):
        curves = site_curves(scan, spectra)
        return Found(make_plan(scan, curves, budget, model_digest=model.digest))
    assert not isinstance(budget, Energy)
    if not scan.sites:
        raise PlanError("no layer is there that a fold could make smaller; exclude less, or give another model")
    rows = rows_per_sample(scan, calibration)
    if isinstance(budget, Speedup) and (hindered or not searches(budget, study.options)):
        return faster_uniform(study, budget, rows)
    if isinstance(budget, MaxError | MaxDrop) and hindered:
        raise PlanError(f"the limit cannot be met: {hindered.removeprefix(UNIFORM_BECAUSE)}")
    return found_plan(study, budget, rows)


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
