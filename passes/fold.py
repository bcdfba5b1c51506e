"""Rewriting a model by a rank plan: each planned site's node becomes two, and nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rankfold.errors import ModelError
from rankfold.passes.carry import Rewritten, carry_back
from rankfold.passes.factors import Factors, factorise
from rankfold.passes.metadata import FoldedPair, record_pairs
from rankfold.passes.model_file import Model
from rankfold.passes.plan_file import plan_digest
from rankfold.passes.rewrite import View, open_view, replace_node
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
    for site in scan.sites:
        rank = ranks.get(site.name)
        if rank is not None:
            dtype = read_weight(model, scan.index, site).dtype
            factors = factorise(finite_weight(model, scan, site), spectra[site.name], rank, dtype=dtype)
            pairs.append(_fold_site(view, model, scan, site, factors))
    folded = carry_back(model.proto, view.graph, view.imported)
    record_pairs(folded.skeleton, pairs, version=version, plan_digest=plan_digest(plan))
    return folded


def full_rank(plan: RankPlan) -> RankPlan:
    """Return the plan that folds every site without loss, for checking the rewriting itself."""
    lines = (replace(line, rank=min(line.in_features, line.out_features), predicted_error=0.0) for line in plan.sites)
    return replace(plan, sites=tuple(lines), made_by="full rank")


def finite_weight(model: Model, scan: Scan, site: Site) -> FloatArray:
    """Return a site's weight widened to float64, (in, out).

    Raises:
        ModelError: It holds NaN or infinity.
    """
    weight = np.asarray(read_weight(model, scan.index, site), np.float64)
    if not np.isfinite(weight).all():
        bad = int((~np.isfinite(weight)).sum())
        raise ModelError(
            f"{model.path}: weight {site.weight.root!r} of node {site.name!r} holds {bad} values that are NaN or"
            " infinite; export the model again from a sound checkpoint, or leave the node alone with --exclude"
        )
    return weight


def _fold_site(view: View, model: Model, scan: Scan, site: Site, factors: Factors) -> FoldedPair:
    turned = site.uses[0].weight_operand == 0
    down = view.constant(f"{site.name}/down", factors.down.T if turned else factors.down)
    up = view.constant(f"{site.name}/up", factors.up.T if turned else factors.up)
    for number, use in enumerate(site.uses):
        bias = None
        if factors.shifts is not None:
            bias = read_bias(model, scan.index, site, use) + factors.shifts[number] * use.scale
        replace_node(view, use, scan.index.names[use.node], (down, up), bias)
    return FoldedPair(site.name, down.name, up.name, site.in_features, site.out_features, factors.rank)
