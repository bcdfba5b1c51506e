"""From a calibration and a budget to a decision: the bases, the plan, and what it is expected to cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rankfold.answers import Found, faster_uniform, found_plan
from rankfold.budgets import Answer, MaxError, Speedup, Tried, Utilized
from rankfold.cautions import data_warnings, pattern_warnings
from rankfold.choose import UNIFORM_BECAUSE, Study, hindrance, with_tails
from rankfold.errors import PlanError
from rankfold.evaluation import MaxDrop, Score
from rankfold.findings import SiteOutcome
from rankfold.kept_bases import KeptBases
from rankfold.measures import rows_per_sample, site_outcomes
from rankfold.options import Options
from rankfold.passes.bases import held_out_tails, rows_warning, site_basis
from rankfold.passes.model_file import Model
from rankfold.passes.plan import make_plan, site_curves, with_predictions
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.projecting import Projected, dense_notes, projected, utilized_plan, with_losses
from rankfold.runtime_calib.threads import limited_threads
from rankfold.sensing import UNSENSED, Sensitivity
from rankfold.stated import Budget, searches
from rankfold.values import Calibration, Energy, FloatArray, Keep, RankPlan

_VECTORS_SHARE = 0.5
"""Of the memory: as much room on disk is taken for bases; those beyond it are computed again when they are needed."""


@dataclass(frozen=True)
class Decision:
    """What is to be done, and what of the calibration is still needed for it.

    Attributes:
        spectra: Each site's basis without its vectors.
        kept: The bases with them, but for those that there was no room for.
        calibration: Without moments where all bases were kept.
        tried: The plans that were tried before one was chosen.
        answer: How close the plan came to a target.
        before: What the original scored by a user's own measure.
        sensitivity: What the outputs make of errors in each site.
        notes: What a reader should know of the plan.
    """

    plan: RankPlan
    spectra: dict[str, Spectrum]
    kept: KeptBases
    outcomes: tuple[SiteOutcome, ...]
    warnings: tuple[str, ...]
    calibration: Calibration
    tried: tuple[Tried, ...] = ()
    answer: Answer | None = None
    before: Score | None = None
    sensitivity: Sensitivity = UNSENSED
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grounds:
    """What a decision is made on; it holds no moments that are not needed any more.

    Attributes:
        study: What plans are chosen from.
        spectra: Each site's basis; those that memory has no room for lack their vectors.
        tails: What each rank of a site loses on rows that only report.
        rows: Rows of each site per sample.
        warnings: Of too few rows, of patterns that match nothing, and of the data.
        calibration: Without moments where all vectors are there.
        choosing: Whether there are samples to choose a plan on.
        sensitivity: What the outputs make of errors in each site.
        projected: What projections make of each site that has some.
    """

    study: Study
    spectra: dict[str, Spectrum]
    kept: KeptBases
    tails: dict[str, FloatArray]
    rows: dict[str, float]
    warnings: tuple[str, ...]
    calibration: Calibration
    choosing: bool
    sensitivity: Sensitivity = UNSENSED
    projected: Mapping[str, Projected] = field(default_factory=dict)


def decide(grounds: Grounds, budget: Budget) -> Decision:
    """Return what is to be done with each site; `budget` is what to keep, or a plan that was checked already."""
    study, spectra = grounds.study, grounds.spectra
    reason = hindrance(study.model, study.choosing) if grounds.choosing and study.scan.sites else None
    found = _found(grounds, budget, reason)
    plan = with_predictions(found.plan, spectra)
    told = (*grounds.warnings, *([reason] if reason else []))
    outcomes = site_outcomes(study.scan, plan, spectra, grounds.tails)
    plan, outcomes = with_losses(plan, outcomes, grounds.projected)
    return Decision(
        plan,
        spectra,
        grounds.kept,
        outcomes,
        told,
        grounds.calibration,
        found.tried,
        found.answer,
        found.before,
        grounds.sensitivity,
        dense_notes(plan, study.scan, budget),
    )


def grounds_of(
    model: Model,
    scan: Scan,
    calibration: Calibration,
    options: Options,
    *,
    choosing: Path | None = None,
    sensitivity: Sensitivity = UNSENSED,
    budget: Budget | None = None,
) -> Grounds:
    """Return what decisions about a model are made on.

    Args:
        model, scan: The original and its sites.
        calibration: What was collected; nobody should hold it beyond this call, for its moments take much memory.
        options: Memory, progress, and how plans are searched for.
        choosing: The held-out batches to choose a plan on; None chooses none.
        sensitivity: What the outputs make of errors in each site.
        budget: Where it has projections, what they make of the sites is found out too.
    """
    spectra, warnings = {}, []
    found: dict[str, Projected] = {}
    tails: dict[str, FloatArray] = {}
    losses: dict[str, FloatArray] = {}
    kept = KeptBases(options.memory_bytes * _VECTORS_SHARE)
    for site, basis, warning in _bases(model, scan, calibration, options, sensitivity):
        kept.keep(site.name, basis)
        spectra[site.name] = basis.without_vectors
        tails[site.name] = held_out_tails(model, scan, site, basis, (calibration.moments, calibration.held_out))
        if calibration.choosing:
            losses[site.name] = held_out_tails(model, scan, site, basis, (calibration.moments, calibration.choosing))
        warnings.append(warning)
        if (between := projected(model, scan, site, calibration, budget)) is not None:
            found[site.name] = between
    told = (*pattern_warnings(scan, options), *filter(None, warnings), *data_warnings(calibration))
    curves = site_curves(scan, spectra)
    curves = with_tails(curves, losses) if losses else curves
    rows = rows_per_sample(scan, calibration)
    needed = calibration.moments if found or not kept.are_all else {}
    rest = replace(calibration, held_out={}, choosing={}, moments=needed)
    whole = _whole(model, scan, kept, rest, sensitivity)
    study = Study(model, scan, curves, whole, choosing or Path(), options, _predicted(scan, spectra, sensitivity))
    return Grounds(study, spectra, kept, tails, rows, told, rest, choosing is not None, sensitivity, found)


def _predicted(scan: Scan, spectra: Mapping[str, Spectrum], sensitivity: Sensitivity) -> dict[str, float]:
    """Return what the model's output loses with each site's whole energy, by gradients; nothing if one has none."""
    metrics = ((site.name, sensitivity.metric(site)) for site in scan.sites)
    found = {
        name: spectra[name].energy * float(np.trace(metric)) / len(metric)
        for name, metric in metrics
        if metric is not None
    }
    return found if len(found) == len(scan.sites) and all(found.values()) else {}


def _found(grounds: Grounds, budget: Budget, hindered: str | None) -> Found:
    """Return the plan that meets a budget, by what suits it."""
    study, rows = grounds.study, grounds.rows
    scan, model = study.scan, study.model
    if isinstance(budget, RankPlan):
        fixed = (scan.fixed_parameters, scan.fixed_dense_parameters)
        return Found(replace(budget, fixed_parameters=fixed[0], fixed_dense_parameters=fixed[1]))
    if isinstance(budget, Utilized):
        return Found(utilized_plan(model, scan, budget, grounds.projected))
    if isinstance(budget, Keep | Energy) and (hindered or not searches(budget, study.options) or not scan.sites):
        curves = site_curves(scan, grounds.spectra)
        return Found(make_plan(scan, curves, budget, model_digest=model.digest))
    assert not isinstance(budget, Energy)
    if not scan.sites:
        raise PlanError("no layer is there that a fold could make smaller; exclude less, or give another model")
    if isinstance(budget, Speedup) and (hindered or not searches(budget, study.options)):
        return faster_uniform(study, budget, rows)
    if isinstance(budget, MaxError | MaxDrop) and hindered:
        raise PlanError(f"the limit cannot be met: {hindered.removeprefix(UNIFORM_BECAUSE)}")
    return found_plan(study, budget, rows)


def whole_bases(model: Model, scan: Scan, decision: Decision) -> Callable[[Site], Spectrum]:
    """Return what gives a site's basis with its vectors: as it was kept, or made again of the same moments."""
    return _whole(model, scan, decision.kept, decision.calibration, decision.sensitivity)


def _whole(
    model: Model,
    scan: Scan,
    kept: KeptBases,
    calibration: Calibration,
    sensitivity: Sensitivity,
) -> Callable[[Site], Spectrum]:
    def whole(site: Site) -> Spectrum:
        return kept.read(site.name) or site_basis(
            model, scan, site, calibration.moments, metric=sensitivity.metric(site)
        )

    return whole


def site_spectra(
    model: Model, scan: Scan, calibration: Calibration, options: Options
) -> tuple[dict[str, Spectrum], tuple[str, ...]]:
    """Return each site's basis without its vectors, and warnings: of too few rows, of patterns that match nothing."""
    spectra, warnings = {}, []
    for site, basis, warning in _bases(model, scan, calibration, options):
        spectra[site.name] = basis.without_vectors
        warnings.append(warning)
    return spectra, (*pattern_warnings(scan, options), *filter(None, warnings))


def _bases(
    model: Model,
    scan: Scan,
    calibration: Calibration,
    options: Options,
    sensitivity: Sensitivity = UNSENSED,
) -> Iterator[tuple[Site, Spectrum, str | None]]:
    """Yield each site with its basis and the warning about its rows."""
    with limited_threads():
        for site in options.progress(scan.sites, "bases", len(scan.sites)):
            basis = site_basis(model, scan, site, calibration.moments, metric=sensitivity.metric(site))
            yield site, basis, rows_warning(site, basis.rows)
