"""Writing a model folded in any basis at a plan's ranks, by the same rewriting that rankfold's own results get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rankfold import Options, __version__
from rankfold.opening import open_model
from rankfold.passes.fold import finite_weight, fold
from rankfold.passes.spectrum import Spectrum
from rankfold.passes.write_model import write_model
from rankfold.values import FloatArray, RankPlan


def fold_with(
    model: Path, plan: RankPlan, bases: Mapping[str, Spectrum], output: Path, *, include: tuple[str, ...] = ()
) -> Path:
    """Write the model folded at the plan's ranks in the given bases, and return where.

    Args:
        model: The original.
        plan: Its folded sites are folded, all else stays.
        bases: Site name to basis, for the folded sites at least.
        output: Where the result goes.
        include: The patterns that the plan was made with; they decide which sites there are.
    """
    loaded, scan = open_model(model, Options(include=include))
    planned = {line.site for line in plan.folded}
    strange = planned.difference(site.name for site in scan.sites)
    if strange or not planned.issubset(bases):
        raise ValueError(f"{model}: no site or no basis for {sorted(strange or planned.difference(bases))[0]!r}")
    folded = fold(loaded, scan, plan, bases, version=__version__)
    write_model(folded, loaded if folded else loaded.given, output)
    return output


def bases_by_weight(
    model: Path, plan: RankPlan, basis: Callable[[FloatArray, int], Spectrum], *, include: tuple[str, ...] = ()
) -> dict[str, Spectrum]:
    """Return bases that follow from each planned site's weight and number of uses alone."""
    loaded, scan = open_model(model, Options(include=include))
    planned = {line.site for line in plan.folded}
    sites = (site for site in scan.sites if site.name in planned)
    return {site.name: basis(finite_weight(loaded, scan, site), len(site.uses)) for site in sites}
