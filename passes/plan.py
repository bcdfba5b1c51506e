"""Making a rank plan from a budget, and checking a plan against a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from rankfold.errors import PlanError
from rankfold.passes.allocate import Choice, Curve, allocate, parameter_curve, within_error
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.passes.utilized import STACKED, has_inputs, takes_mean
from rankfold.values import Energy, Keep, RankPlan, SiteRank


def site_curves(scan: Scan, spectra: Mapping[str, Spectrum]) -> tuple[Curve, ...]:
    """Return what can be done with each site, at the error its calibration rows predict."""
    curves = []
    for site in scan.sites:
        tails = spectra[site.name].tails()
        sizes = (site.in_features, site.out_features)
        curves.append(
            parameter_curve(
                site.name,
                sizes,
                lambda rank, t=tails: float(t[rank]),  # type: ignore[misc]
                blocks=site.blocks,
                pivots=_worth_pivoting(site),
            )
        )
    return tuple(curves)


def _worth_pivoting(site: Site) -> bool:
    """Return whether a site's curve holds pivoted ranks: not a convolution's.

    A Concat of channels ends the blocked layout that the runtime gives convolutions. A ResNet at three quarters of its
    parameters took all of the original's time pivoted, .81 of it as pairs; at a half, .88 in place of .74. A plan by
    hand may still ask for it.
    """
    return bool(site.pivots) and site.kernel is None


def make_plan(scan: Scan, curves: tuple[Curve, ...], budget: Keep | Energy, *, model_digest: str) -> RankPlan:
    """Return the plan that meets a budget.

    A budget that earlier folds already meet leaves every site dense.

    Raises:
        PlanError: The share is not in (0, 1], or cannot be reached with the sites there are.
    """
    if not 0 < budget.share <= 1:
        raise PlanError(f"the share is {budget.share}; expected a number above 0 and at most 1")
    empty = dense_plan(scan, f"{type(budget).__name__.lower()} {budget.share:g}", model_digest=model_digest)
    if isinstance(budget, Energy):
        return with_choices(empty, within_error(curves, 1 - budget.share))
    allowed = budget.share * empty.parameters_before
    if empty.parameters_after <= allowed:
        return empty
    check_reachable(empty, curves, budget.share)
    return with_choices(empty, allocate(curves, allowed - empty.fixed_parameters))


def dense_plan(scan: Scan, made_by: str, *, model_digest: str) -> RankPlan:
    """Return the plan that folds nothing."""
    lines = tuple(SiteRank(s.name, s.in_features, s.out_features, None, 0.0, s.blocks) for s in scan.sites)
    return RankPlan(model_digest, made_by, scan.fixed_parameters, scan.fixed_dense_parameters, lines)


def check_plan(plan: RankPlan, scan: Scan, *, model_digest: str) -> None:
    """Check that a plan was made for this model and that its ranks can be folded.

    Raises:
        PlanError: It was made for another model, names other sites, or asks for an impossible rank.
    """
    if plan.model_digest != model_digest:
        raise PlanError(
            f"the plan was made for a model of sha256 {plan.model_digest[:12]}…, and this one has {model_digest[:12]}…;"
            " make a plan for this model"
        )
    twice = [name for name, count in Counter(line.site for line in plan.sites).items() if count > 1]
    if twice:
        raise PlanError(f"the plan lists site {twice[0]!r} more than once; keep one line of it")
    planned = {line.site: (line.in_features, line.out_features, line.blocks) for line in plan.sites}
    found = {site.name: (site.in_features, site.out_features, site.blocks) for site in scan.sites}
    if planned != found:
        odd = sorted(set(planned.items()) ^ set(found.items()))[0]
        raise PlanError(
            f"the plan has {len(planned)} sites and the model {len(found)}; the first that differs is {odd[0]!r} of"
            f" shape {odd[1][:2]}; use the --include and --exclude patterns the plan was made with"
        )
    pivots = {site.name for site in scan.sites if site.pivots}
    for line in plan.sites:
        if line.form == "pivoted" and line.site not in pivots:
            raise PlanError(f"site {line.site!r} is pivoted in the plan, which it cannot be; expected the form 'pair'")
        largest = min(line.in_features, line.out_features) - (line.form == "pivoted")  # all as pivots leave no others
        if line.rank is not None and not 1 <= line.rank <= largest:
            raise PlanError(
                f"site {line.site!r} has rank {line.rank} in the plan; expected 1 to {largest}, or null to leave it"
                " dense"
            )
    sites = {site.name: site for site in scan.sites}
    for line in plan.sites:
        if line.projection is not None:
            _check_projection(line, sites[line.site])


def _check_projection(line: SiteRank, site: Site) -> None:
    projection = line.projection
    assert projection is not None  # the caller asked
    if not has_inputs(site):
        raise PlanError(f"site {line.site!r} has a projection in the plan, and is {STACKED}; take the projection out")
    if projection.centred and not takes_mean(site):
        raise PlanError(
            f"site {line.site!r} has a centred projection in the plan, and no bias that could take up the mean; set"
            " centred to false, or make the plan anew"
        )
    for name, found, most in (
        ("inputs", projection.inputs, line.in_features),
        ("outputs", projection.outputs, line.out_features),
    ):
        if not 1 <= found <= most:
            raise PlanError(
                f"site {line.site!r} has a projection on {found} directions of its {name}; expected 1 to {most}"
            )
    if line.rank not in (None, projection.rank) or line.form != "pair":
        raise PlanError(
            f"site {line.site!r} has rank {line.rank}, {line.form}, and a projection on {projection.inputs} and"
            f" {projection.outputs} directions; expected rank {projection.rank} as a pair, or null to leave it dense;"
            " edit the projection's numbers too, or take the projection out for the best approximation of a rank"
        )


def with_predictions(plan: RankPlan, spectra: Mapping[str, Spectrum]) -> RankPlan:
    """Return the plan with its errors predicted anew, for ranks that were edited by hand."""
    return replace(
        plan,
        sites=tuple(
            replace(line, predicted_error=0.0 if line.rank is None else float(spectra[line.site].tails()[line.rank]))
            for line in plan.sites
        ),
    )


def with_choices(plan: RankPlan, choices: Mapping[str, Choice]) -> RankPlan:
    """Return the plan with the choice of each site."""
    lines = ((line, choices[line.site]) for line in plan.sites)
    return replace(
        plan,
        sites=tuple(
            replace(line, rank=choice.rank, predicted_error=choice.error, form=choice.form) for line, choice in lines
        ),
    )


def check_reachable(plan: RankPlan, curves: tuple[Curve, ...], share: float) -> None:
    """Check that a share of the parameters can be kept.

    Raises:
        PlanError: The smallest ranks keep more.
    """
    least = plan.fixed_parameters + sum(curve.choices[0].cost for curve in curves)
    if least > share * plan.parameters_before:
        reachable = least / plan.parameters_before
        fixed = (
            f"{plan.fixed_parameters:,} of {plan.parameters_before:,} lie in weights that are excluded or were folded"
            " before"
        )
        if not any(curve.choices[0].rank for curve in curves):
            raise PlanError(
                f"a kept share of {share:g} cannot be reached: no layer is left that a fold makes smaller ({fixed});"
                " exclude less"
            )
        raise PlanError(
            f"a kept share of {share:g} cannot be reached: with every site that may be folded at its smallest rank,"
            f" {reachable:.4f} of the parameters remain ({fixed}); ask for {reachable + 5e-5:.4f} or more, or"
            " exclude less"
        )
