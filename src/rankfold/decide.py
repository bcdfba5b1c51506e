"""From a calibration and a budget to a decision: the bases, the plan, and what it is expected to cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rankfold.findings import SiteOutcome
from rankfold.measures import site_outcomes
from rankfold.options import Options
from rankfold.passes.bases import rows_warning, site_basis
from rankfold.passes.model_file import Model
from rankfold.passes.plan import make_plan, site_curves, with_predictions
from rankfold.passes.side_moments import side_moments
from rankfold.passes.sites import Scan, unmatched_patterns
from rankfold.passes.spectrum import Spectrum
from rankfold.runtime_calib.threads import limited_threads
from rankfold.values import Calibration, Energy, Keep, RankPlan


@dataclass(frozen=True)
class Decision:
    """What is to be done, and what remains of the calibration once that is known; the moments themselves do not."""

    plan: RankPlan
    spectra: dict[str, Spectrum]
    outcomes: tuple[SiteOutcome, ...]
    warnings: tuple[str, ...]
    calibration: Calibration


def decide(
    model: Model, scan: Scan, calibration: Calibration, budget: Keep | Energy | RankPlan, options: Options
) -> Decision:
    """Return what is to be done with each site; `budget` is what to keep, or a plan that was checked already."""
    spectra, warnings = site_spectra(model, scan, calibration, options)
    warnings += tuple(_data_warnings(calibration))
    if isinstance(budget, RankPlan):
        plan = with_predictions(budget, spectra)
    else:
        plan = make_plan(scan, site_curves(scan, spectra), budget, model_digest=model.digest)
    outcomes = site_outcomes(model, scan, plan, spectra, calibration)
    return Decision(plan, spectra, outcomes, warnings, replace(calibration, moments={}, held_out={}))


def _data_warnings(calibration: Calibration) -> Iterator[str]:
    settings = calibration.settings
    if settings.get("dropped_samples"):
        yield f"{settings['dropped_samples']} samples did not fill a batch of the model's fixed size and were left out"
    if settings.get("mask") and calibration.moments and not settings.get("masked_activations"):
        yield f"mask {settings['mask']!r} has the rows of none of the foldable layers' activations and was not used"


def site_spectra(
    model: Model, scan: Scan, calibration: Calibration, options: Options
) -> tuple[dict[str, Spectrum], tuple[str, ...]]:
    """Return each site's basis, and warnings: of sites that stand on too few rows, of patterns that match nothing."""
    spectra, warnings = {}, []
    with limited_threads():
        for site in options.progress(scan.sites, "bases", len(scan.sites)):
            spectra[site.name] = site_basis(model, scan, site, calibration.moments)
            warnings.append(rows_warning(site, side_moments(model, scan.index, site, calibration.moments)))
    return spectra, (*pattern_warnings(scan, options), *filter(None, warnings))


def pattern_warnings(scan: Scan, options: Options) -> tuple[str, ...]:
    """Return a warning for each pattern that matches nothing, which is likely misspelt."""
    given = {"--include": options.include, "--exclude": options.exclude}
    return tuple(
        f"{name} {pattern!r} matches no node, operator or weight"
        for name, patterns in given.items()
        for pattern in unmatched_patterns(scan, patterns)
    )
