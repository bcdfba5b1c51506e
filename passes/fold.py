"""Rewriting a model by a rank plan: each planned site's node becomes a pair of products, or the pivoted form of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper

from rankfold.errors import ModelError
from rankfold.passes.carry import Rewritten, carry_back
from rankfold.passes.factors import Factors, factorise
from rankfold.passes.layout import as_read, laid_out
from rankfold.passes.metadata import FoldedPair, record_pairs
from rankfold.passes.model_file import Model
from rankfold.passes.pivots import Pivots, choose_pivots
from rankfold.passes.plan_file import plan_digest
from rankfold.passes.rewrite import Replacement, View, open_view, read_own_part, replace_node, widened
from rankfold.passes.rewrite_pivoted import PivotedReplacement, mark_constants, replace_by_pivots
from rankfold.passes.site import Site, Use, read_bias, read_weight
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.projections import Projection
from rankfold.values import FloatArray, RankPlan


def fold(
    model: Model,
    scan: Scan,
    plan: RankPlan,
    spectra: Mapping[str, Spectrum],
    *,
    version: str,
    whole: Callable[[Site], Spectrum] | None = None,
    projected: Callable[[Site, Projection], Factors] | None = None,
) -> Rewritten | None:
    """Return the model with every planned site folded; None where the plan folds nothing.

    The new weights are computed while the result is written, site by site.

    Args:
        model: The original; it is not changed.
        scan: Its sites.
        plan: Checked against them.
        spectra: Site name to basis, for the folded sites at least.
        version: Recorded in the metadata with the pairs.
        whole: Gives a site's basis with its vectors at the time they are needed, where `spectra` lack them.
        projected: Gives the factors of a site between its projections, where the plan has such.

    Raises:
        ModelError: A weight to be folded holds NaN or infinity.
    """
    ranks = {line.site: line.rank for line in plan.folded if line.rank is not None}
    if not ranks:
        return None
    between = {line.site: line.projection for line in plan.folded if line.projection is not None}
    job = _Job(model, scan, ranks, spectra, whole, between=between, projected=projected)
    pivoted = {line.site for line in plan.folded if line.form == "pivoted"}
    # Before anything is written: the nodes depend on where a site's pivots lie.
    job = replace(job, pivots={site.name: job.choose_pivots(site) for site in job.sites if site.name in pivoted})
    view = open_view(model.proto)
    made: dict[str, gs.Constant] = {}
    pairs = list(scan.pairs)
    split = {site.weight.root for site in scan.parts if site.name in ranks}
    for site in scan.parts:
        if site.weight.root in split and site.name not in ranks:
            dense = np.asarray(read_weight(model, scan.index, site)).astype(site.stored_dtype)
            read_own_part(view, site, widened(view, site, view.constant(f"{site.name}/part", as_read(site, dense))))
    for site in job.sites:
        pair, constants = job.fold_site(view, site, job.outline(site))
        pairs.append(pair)
        for constant in constants:  # only names and types are needed to write the graph
            constant.values = np.empty(0, constant.values.dtype)
            made[constant.name] = constant
    folded = carry_back(model.proto, view.graph, view.imported, view.heirs)
    record_pairs(folded.skeleton, pairs, version=version, plan_digest=plan_digest(plan))
    return replace(folded, initializers=_Initializers(job, tuple(folded.initializers), frozenset(made)))


def full_rank(plan: RankPlan) -> RankPlan:
    """Return the plan that folds every site without loss, as pairs, for checking the rewriting itself."""
    lines = (
        replace(line, rank=min(line.in_features, line.out_features), predicted_error=0.0, form="pair", projection=None)
        for line in plan.sites
    )
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


@dataclass(frozen=True)
class _Job:
    """What a fold works from."""

    model: Model
    scan: Scan
    ranks: Mapping[str, int]
    spectra: Mapping[str, Spectrum]
    whole: Callable[[Site], Spectrum] | None
    pivots: Mapping[str, Pivots] = field(default_factory=dict)
    between: Mapping[str, Projection] = field(default_factory=dict)
    projected: Callable[[Site, Projection], Factors] | None = None

    @property
    def sites(self) -> Iterator[Site]:
        """Yield the sites to fold, in graph order."""
        return (site for site in self.scan.sites if site.name in self.ranks)

    def outline(self, site: Site) -> Factors:
        """Return factors of the right shapes that hold nothing and take no memory."""
        rank, leading = self.ranks[site.name], (site.blocks,) if site.blocks > 1 else ()
        pivots = self.pivots.get(site.name)
        fan_in = site.in_features - (rank if pivots and pivots.side == "input" else 0)
        fan_out = site.out_features - (rank if pivots and pivots.side == "output" else 0)
        down = np.zeros((*leading, fan_in, rank), site.stored_dtype)
        up = np.zeros((*leading, rank, fan_out), site.stored_dtype)
        held = self.between.get(site.name) or self.spectra[site.name]
        shifts = (np.zeros(site.out_features),) * len(site.uses) if held.centred else None
        return Factors(down, up, shifts, pivots)

    def factors(self, site: Site) -> Factors:
        """Return the factors themselves."""
        if site.name in self.between:
            assert self.projected is not None  # a plan with projections comes with what gives them
            return self.projected(site, self.between[site.name])
        weight, rank = finite_weight(self.model, self.scan, site), self.ranks[site.name]
        return factorise(weight, self.basis(site), rank, dtype=site.stored_dtype, pivots=self.pivots.get(site.name))

    def basis(self, site: Site) -> Spectrum:
        """Return a site's basis with its vectors."""
        return self.spectra[site.name] if self.whole is None else self.whole(site)

    def choose_pivots(self, site: Site) -> Pivots:
        """Return the pivots of a site at its rank."""
        basis, rank = self.basis(site), self.ranks[site.name]
        down = finite_weight(self.model, self.scan, site) @ basis.duals[:, :rank]
        return choose_pivots(down, basis.vectors[:, :rank], site.pivots)

    def fold_site(self, view: View, site: Site, factors: Factors) -> tuple[FoldedPair, list[gs.Constant]]:
        """Fold one site in a view; return what to record of it and the constants it brought."""
        before = set(view.taken)
        pair = _fold_site(view, self.model, self.scan, site, factors)
        new = view.taken - before
        found = (tensor for node in view.graph.nodes for tensor in node.inputs if tensor.name in new)
        return pair, list({tensor.name: tensor for tensor in found if isinstance(tensor, gs.Constant)}.values())


@dataclass(frozen=True)
class _Initializers:
    """The initializers of a folded model, in order, the new ones computed when their site's turn comes.

    The edit is made once more on a fresh view, site by site and now with the real numbers, so that names and values
    come from the same lines of code. One site's factors are held at a time, and biases until their place comes.

    Attributes:
        outlined: All initializers, those in `made` empty.
        made: Names of those to compute.
    """

    job: _Job
    outlined: tuple[TensorProto, ...]
    made: frozenset[str]

    def __iter__(self) -> Iterator[TensorProto]:
        view, sites = open_view(self.job.model.proto), self.job.sites
        ready: dict[str, gs.Constant] = {}
        for tensor in self.outlined:
            if tensor.name not in self.made:
                yield tensor
                continue
            while tensor.name not in ready:
                ready |= _computed(self.job, view, next(sites))
            yield _emptied(ready.pop(tensor.name))


def _computed(job: _Job, view: View, site: Site) -> dict[str, gs.Constant]:
    _, constants = job.fold_site(view, site, job.factors(site))
    return {constant.name: constant for constant in constants}


def _emptied(constant: gs.Constant) -> TensorProto:
    """Return a constant as a tensor, and let go of its values: the view would keep them."""
    tensor = numpy_helper.from_array(constant.values, constant.name)
    constant.values = np.empty(0, constant.values.dtype)
    return tensor


def _fold_site(view: View, model: Model, scan: Scan, site: Site, factors: Factors) -> FoldedPair:
    arrays = laid_out(site, factors)
    names = (f"{site.name}/down", f"{site.name}/up")
    down, up = (view.constant(name, array) for name, array in zip(names, arrays, strict=True))
    read = widened(view, site, down), widened(view, site, up)
    marks = () if factors.pivots is None else mark_constants(view, site.name, factors.pivots)
    for number, use in enumerate(site.uses):
        bias = None
        if factors.shifts is not None:
            bias = read_bias(model, scan.index, site, use) + factors.shifts[number] * use.scale
        new = Replacement(scan.index.names[use.node], *read, bias)
        if factors.pivots is None:
            replace_node(view, site, use, new)
            continue
        parts = None
        if _adds_to_parts(scan, use, factors.pivots) and (bias is not None or use.bias is not None):
            parts = factors.parted(read_bias(model, scan.index, site, use) if bias is None else bias)
        replace_by_pivots(view, site, use, PivotedReplacement(new, factors.pivots, marks, parts))
    return FoldedPair(
        site.name,
        down.name,
        up.name,
        site.in_features,
        site.out_features,
        factors.rank,
        blocks=site.blocks,
        op_type=site.op_type,
        weight=site.weight.root,
        form="pair" if factors.pivots is None else "pivoted",
    )


def _adds_to_parts(scan: Scan, use: Use, pivots: Pivots) -> bool:
    """Return whether the products themselves add a bias, each to its part of the output."""
    return pivots.side == "output" and scan.index.nodes[use.node].op_type in ("Gemm", "Conv")
