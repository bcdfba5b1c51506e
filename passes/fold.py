"""Rewriting a model by a rank plan: each planned site's node becomes two, and nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rankfold.errors import ModelError
from rankfold.passes.carry import Rewritten, carry_back
from rankfold.passes.factors import Factors, factorise
from rankfold.passes.layout import as_read, laid_out
from rankfold.passes.metadata import FoldedPair, record_pairs
from rankfold.passes.model_file import Model
from rankfold.passes.plan_file import plan_digest
from rankfold.passes.rewrite import Replacement, View, open_view, read_own_part, replace_node, widened
from rankfold.passes.site import Site, read_bias, read_weight
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.values import FloatArray, RankPlan


def fold(
    model: Model, scan: Scan, plan: RankPlan, spectra: Mapping[str, Spectrum], *, version: str
) -> Rewritten | None:
    """Return the model with every planned site folded; None where the plan folds nothing.

    Args:
        model: The original; it is not changed.
        scan: Its sites.
        plan: Checked against them.
        spectra: Site name to basis, for the folded sites at least.
        version: Recorded in the metadata with the pairs.

    Raises:
        ModelError: A weight to be folded holds NaN or infinity.
    """
    ranks = {line.site: line.rank for line in plan.folded}
    if not any(ranks.values()):
        return None
    view = open_view(model.proto)
    pairs = list(scan.pairs)
    split = {site.weight.root for site in scan.parts if site.name in ranks}
    for site in scan.parts:
        if site.weight.root in split and site.name not in ranks:
            dense = np.asarray(read_weight(model, scan.index, site)).astype(site.stored_dtype)
            read_own_part(view, site, widened(view, site, view.constant(f"{site.name}/part", as_read(site, dense))))
    for site in scan.sites:
        rank = ranks.get(site.name)
        if rank is not None:
            weight = finite_weight(model, scan, site)
            factors = factorise(weight, spectra[site.name], rank, dtype=site.stored_dtype)
            pairs.append(_fold_site(view, model, scan, site, factors))
    folded = carry_back(model.proto, view.graph, view.imported)
    record_pairs(folded.skeleton, pairs, version=version, plan_digest=plan_digest(plan))
    return folded


def full_rank(plan: RankPlan) -> RankPlan:
    """Return the plan that folds every site without loss, for checking the rewriting itself."""
    lines = (replace(line, rank=min(line.in_features, line.out_features), predicted_error=0.0) for line in plan.sites)
    return replace(plan, sites=tuple(lines), made_by="full rank")


def finite_weight(model: Model, scan: Scan, site: Site) -> FloatArray:
    """Return a site's weight widened to float64, (in, out), or (blocks, in, out) for a stack.

    Raises:
        ModelError: It holds NaN or infinity.
    """
    weight = read_weight(model, scan.index, site).astype(np.float64)
    if not np.isfinite(weight).all():
        bad = int((~np.isfinite(weight)).sum())
        raise ModelError(
            f"{model.path}: weight {site.weight.root!r} of node {site.name!r} holds {bad} values that are NaN or"
            " infinite; export the model again from a sound checkpoint, or leave the node alone with --exclude"
        )
    return weight


def _fold_site(view: View, model: Model, scan: Scan, site: Site, factors: Factors) -> FoldedPair:
    arrays = laid_out(site, factors)
    names = (f"{site.name}/down", f"{site.name}/up")
    down, up = (view.constant(name, array) for name, array in zip(names, arrays, strict=True))
    read = widened(view, site, down), widened(view, site, up)
    for number, use in enumerate(site.uses):
        bias = None
        if factors.shifts is not None:
            bias = read_bias(model, scan.index, site, use) + factors.shifts[number] * use.scale
        replace_node(view, site, use, Replacement(scan.index.names[use.node], *read, bias))
    return FoldedPair(
        site.name, down.name, up.name, site.in_features, site.out_features, factors.rank, blocks=site.blocks
    )
