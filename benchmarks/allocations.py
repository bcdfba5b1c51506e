"""Rank plans that need no rankfold to decide: a uniform share, and a common loss at every site.

Both choose among the ranks that rankfold offers (multiples of its quantum, or dense), so that candidates of one budget
differ in what is kept and where, not in how ranks are rounded.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rankfold.passes.allocate import Choice, Curve, parameter_curve
from rankfold.passes.model_file import Model
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.values import RankPlan, SiteRank

Urgency = Callable[[Curve, int], float]


@dataclass(frozen=True)
class Ground:
    """What a plan is made for: a model, its sites, and the share of the foldable parameters to keep."""

    model: Model
    scan: Scan
    keep: float


def uniform_plan(ground: Ground) -> RankPlan:
    """Return the plan that keeps one share of every site: the lowest share climbs first, until a step does not fit."""
    curves = [
        parameter_curve(site.name, (site.in_features, site.out_features), lambda _: 0.0, blocks=site.blocks)
        for site in ground.scan.sites
    ]

    def urgency(curve: Curve, place: int) -> float:
        return -(curve.choices[place].cost + curve.choices[place + 1].cost) / 2 / curve.dense.cost

    return _plan(ground, _climbed(curves, _budget(ground), urgency, fill=False), "uniform")


def normalised_energy_plan(ground: Ground, spectra: Mapping[str, Spectrum]) -> RankPlan:
    """Return the plan under which every site loses about the same share of its own output energy.

    The site that loses most climbs first. One whose next step does not fit stays, and the others go on.

    Args:
        ground: The model and the budget.
        spectra: Per site, with output energies as values.
    """
    curves = []
    for site in ground.scan.sites:
        tails = spectra[site.name].tails()
        sizes = (site.in_features, site.out_features)
        curves.append(parameter_curve(site.name, sizes, lambda rank, t=tails: float(t[rank]), blocks=site.blocks))
    chosen = _climbed(curves, _budget(ground), lambda curve, place: curve.choices[place].error, fill=True)
    return _plan(ground, chosen, "normalised energy")


def _budget(ground: Ground) -> float:
    whole = ground.scan.fixed_dense_parameters + sum(site.parameters for site in ground.scan.sites)
    return ground.keep * whole - ground.scan.fixed_parameters


def _climbed(curves: list[Curve], budget: float, urgency: Urgency, *, fill: bool) -> dict[str, Choice]:
    """Return the choices that the most urgent steps lead to; without `fill` the first that does not fit ends it."""
    level = [0] * len(curves)
    spent = sum(curve.choices[0].cost for curve in curves)
    if spent > budget:
        raise SystemExit(f"a cost of {budget:,.0f} cannot be met: the smallest ranks together cost {spent:,.0f}")
    waiting = [(-urgency(curve, 0), order) for order, curve in enumerate(curves) if len(curve.choices) > 1]
    heapq.heapify(waiting)
    while waiting:
        _, order = heapq.heappop(waiting)
        curve, place = curves[order], level[order]
        step = curve.choices[place + 1].cost - curve.choices[place].cost
        if spent + step > budget:
            if fill:
                continue
            break
        spent, level[order] = spent + step, place + 1
        if place + 2 < len(curve.choices):
            heapq.heappush(waiting, (-urgency(curve, place + 1), order))
    return {curve.site: curve.choices[level[order]] for order, curve in enumerate(curves)}


def _plan(ground: Ground, chosen: Mapping[str, Choice], made_by: str) -> RankPlan:
    scan = ground.scan
    lines = (
        SiteRank(
            site.name,
            site.in_features,
            site.out_features,
            chosen[site.name].rank,
            chosen[site.name].error,
            site.blocks,
        )
        for site in scan.sites
    )
    return RankPlan(
        ground.model.digest,
        f"{made_by}, keep {ground.keep:g}",
        scan.fixed_parameters,
        scan.fixed_dense_parameters,
        tuple(lines),
    )
