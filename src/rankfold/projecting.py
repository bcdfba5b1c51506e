"""Weights between projections on what their inputs and outputs use: which, what they lose, and their factors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from rankfold.budgets import Utilized
from rankfold.findings import SiteOutcome
from rankfold.measures import break_even_rank
from rankfold.options import Options
from rankfold.passes.factors import Factors
from rankfold.passes.fold import finite_weight
from rankfold.passes.model_file import Model
from rankfold.passes.plan import dense_plan
from rankfold.passes.side_moments import side_moments
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.utilized import (
    STACKED,
    Directions,
    directions,
    has_inputs,
    measured_loss,
    projected_factors,
    seen_from_input,
    takes_mean,
)
from rankfold.projections import Losses, Projection
from rankfold.stated import Budget
from rankfold.values import Calibration, RankPlan, SiteRank


@dataclass(frozen=True)
class Projected:
    """What projections make of one site.

    Attributes:
        projection: The directions that are kept.
        losses: Of the calibration rows.
        held_out: What both projections lose of rows that only report.
    """

    projection: Projection
    losses: Losses
    held_out: float


def prepared(scan: Scan, budget: Budget, options: Options) -> tuple[Scan, Budget]:
    """Return the sites with the moments asked for that a budget needs, those of inputs for projections, and the budget.

    Where it is a share of the variance, it is about what the options say.
    """
    if isinstance(budget, Utilized):
        return seen_from_input(scan), replace(budget, centred=options.centred)
    if not isinstance(budget, RankPlan):
        return scan, budget
    names = {line.site for line in budget.sites if line.projection is not None}
    seen = seen_from_input(scan).sites
    chosen = (other if site.name in names else site for site, other in zip(scan.sites, seen, strict=True))
    return replace(scan, sites=tuple(chosen)), budget


def projected(
    model: Model, scan: Scan, site: Site, calibration: Calibration, budget: Budget | None
) -> Projected | None:
    """Return what a budget's projections make of a site; None where it has none for it."""
    asked = _asked(site, budget)
    if asked is None:
        return None
    centred, chosen = asked
    weight = finite_weight(model, scan, site)
    moments = side_moments(model, scan.index, site, calibration.moments)
    found = directions(weight, moments, centred=centred)
    projection = chosen(found)
    other = side_moments(model, scan.index, site, calibration.held_out)
    held_out = measured_loss(weight, found, projection, (moments, other))
    return Projected(projection, found.losses(projection), held_out)


def utilized_plan(model: Model, scan: Scan, budget: Utilized, found: Mapping[str, Projected]) -> RankPlan:
    """Return the plan of a share of the variance: sites whose utilized rank saves nothing stay dense."""
    plan = dense_plan(scan, f"utilized {budget.share:g}", model_digest=model.digest)
    lines = (
        replace(line, projection=found[line.site].projection) if line.site in found else line for line in plan.sites
    )
    return replace(plan, sites=tuple(replace(line, rank=_rank_that_saves(line)) for line in lines))


def with_losses(
    plan: RankPlan, outcomes: tuple[SiteOutcome, ...], found: Mapping[str, Projected]
) -> tuple[RankPlan, tuple[SiteOutcome, ...]]:
    """Return a plan and what became of its sites with the errors that projections really cause."""
    lines = {line.site: line for line in plan.sites if line.projection is not None and line.rank is not None}
    errors = {name: (found[name].losses.both, found[name].held_out) for name in lines}
    told = tuple(
        replace(outcome, predicted_error=errors[outcome.name][0], measured_error=errors[outcome.name][1])
        if outcome.name in errors
        else outcome
        for outcome in outcomes
    )
    told = tuple(
        replace(outcome, projection=found[outcome.name].projection, losses=found[outcome.name].losses)
        if outcome.name in found
        else outcome
        for outcome in told
    )
    predicted = (
        replace(line, predicted_error=errors[line.site][0]) if line.site in errors else line for line in plan.sites
    )
    return replace(plan, sites=tuple(predicted)), told


def dense_notes(plan: RankPlan, scan: Scan, budget: Budget) -> tuple[str, ...]:
    """Return which sites a share of the variance leaves dense, and why."""
    if not isinstance(budget, Utilized):
        return ()
    full = sum(line.rank is None and line.projection is not None for line in plan.sites)
    unseen = sum(not has_inputs(site) for site in scan.sites)
    notes = []
    if full:
        notes.append(f"{full} of {len(plan.sites)} sites stay dense: their utilized rank lies above break-even")
    if unseen:
        notes.append(f"{unseen} of {len(plan.sites)} sites stay dense: each is {STACKED}")
    return tuple(notes)


def projected_factors_of(model: Model, scan: Scan, calibration: Calibration) -> Callable[[Site, Projection], Factors]:
    """Return what gives the factors of a site between its projections, from the moments of its inputs."""

    def factors(site: Site, projection: Projection) -> Factors:
        weight = finite_weight(model, scan, site)
        moments = side_moments(model, scan.index, site, calibration.moments)
        return projected_factors(weight, moments, projection, dtype=site.stored_dtype)

    return factors


def _asked(site: Site, budget: Budget | None) -> tuple[bool, Callable[[Directions], Projection]] | None:
    """Return whether a site's variances are about the mean, and what gives its projections by its directions."""
    if isinstance(budget, Utilized) and has_inputs(site):
        share = budget.share
        return budget.centred and takes_mean(site), lambda found: _at_least_one(found.projection(share))
    if isinstance(budget, RankPlan):
        planned = next((line.projection for line in budget.sites if line.site == site.name), None)
        return None if planned is None else (planned.centred, lambda _: planned)
    return None


def _at_least_one(found: Projection) -> Projection:
    """Return projections that two factors can hold, also where nothing varies."""
    return replace(found, inputs=max(found.inputs, 1), outputs=max(found.outputs, 1))


def _rank_that_saves(line: SiteRank) -> int | None:
    if line.projection is None or line.projection.rank > break_even_rank(line.in_features, line.out_features):
        return None
    return line.projection.rank
