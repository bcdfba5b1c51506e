"""From a calibration and a budget to a decision: the bases, the plan, and what it is expected to cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rankfold.findings import SiteOutcome
from rankfold.measures import site_outcomes
from rankfold.options import Options
from rankfold.passes.bases import rows_warning, site_basis
from rankfold.passes.model_file import Model
from rankfold.passes.plan import make_plan, site_curves, with_predictions
from rankfold.passes.side_moments import side_moments
from rankfold.passes.sites import Scan
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
    warnings += _dropped_warning(calibration)
    if isinstance(budget, RankPlan):
        plan = with_predictions(budget, spectra)
    else:
        plan = make_plan(scan, site_curves(scan, spectra), budget, model_digest=model.digest)
    outcomes = site_outcomes(model, scan, plan, spectra, calibration)
    return Decision(plan, spectra, outcomes, warnings, replace(calibration, moments={}, held_out={}))


def _dropped_warning(calibration: Calibration) -> tuple[str, ...]:
    dropped = calibration.settings.get("dropped_samples")
    return (f"{dropped} samples did not fill a batch of the model's fixed size and were left out",) if dropped else ()


def site_spectra(
    model: Model, scan: Scan, calibration: Calibration, options: Options
) -> tuple[dict[str, Spectrum], tuple[str, ...]]:
    """Return each site's basis, and a warning for each that stands on too few rows."""
    spectra, warnings = {}, []
    with limited_threads():
        for site in options.progress(scan.sites, "bases", len(scan.sites)):
            spectra[site.name] = site_basis(model, scan, site, calibration.moments)
            warnings.append(rows_warning(site, side_moments(model, scan.index, site, calibration.moments)))
    return spectra, tuple(filter(None, warnings))
