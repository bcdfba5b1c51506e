"""A model in which every rank of every site can be tried without building it anew.

Each site is written at full rank as two products, and between them stands a choice, direction by direction, between
what the data gives and its mean: `x → down → Where(mask, ·, E[x] down) → up`. A mask of ones is the original, the
first r ones are rank r with its bias corrected. The masks are inputs, so one session serves every plan.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from rankfold.passes.carry import Rewritten
from rankfold.passes.fold import fold, full_rank
from rankfold.passes.graph_index import taken_names
from rankfold.passes.metadata import FoldedPair, pairs_of
from rankfold.passes.model_file import Model
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.values import RankPlan

OLDEST_MASKED_OPSET = 9  # Where exists from here on


@dataclass(frozen=True)
class Mask:
    """The input that says which directions of a site are kept: bool, of `shape`, its first axis the directions."""

    name: str
    shape: tuple[int, ...]

    def of_rank(self, rank: int | None) -> NDArray[np.bool_]:
        """Return the mask that keeps the first `rank` directions; None keeps all."""
        kept = np.arange(self.shape[0]) < (self.shape[0] if rank is None else rank)
        return kept.reshape(self.shape)


@dataclass(frozen=True)
class Masked:
    """A model with masks.

    Attributes:
        rewritten: The model.
        masks: Site name to its mask.
    """

    rewritten: Rewritten
    masks: dict[str, Mask]


def full_rank_bytes(site: Site) -> int:
    """Return what both factors of a site take at full rank."""
    rank = min(site.in_features, site.out_features)
    return site.blocks * rank * (site.in_features + site.out_features) * site.stored_dtype.itemsize


def masked(
    model: Model, scan: Scan, plan: RankPlan, whole: Callable[[Site], Spectrum], *, sites: Collection[str]
) -> Masked | None:
    """Return the model with a mask for some sites, and the others folded by a plan; None where neither is asked for.

    Args:
        model: The original.
        scan: Its sites.
        plan: What becomes of the sites without a mask.
        whole: Gives a site's basis with its vectors; called several times a site.
        sites: Names of those that get a mask.

    Raises:
        ModelError: A weight holds NaN or infinity.
    """
    chosen = {site.name: site for site in scan.sites if site.name in sites}

    def basis(site: Site) -> Spectrum:
        """Return a basis; with a mask its means are left where they are, since the mask takes care of them."""
        return replace(whole(site), centred=False) if site.name in chosen else whole(site)

    folded = {line.site for line in plan.folded} | chosen.keys()
    bases = {site.name: _outline(basis(site)) for site in scan.sites if site.name in folded}
    made = fold(model, scan, _with_full_rank(plan, chosen.keys()), bases, version="masked", whole=basis)
    if made is None:
        return None
    pairs = [pair for pair in pairs_of(made.skeleton) if pair.site in chosen]
    return _with_masks(made, [(pair, chosen[pair.site]) for pair in pairs], _Means(model, scan, whole))


def _with_full_rank(plan: RankPlan, sites: Collection[str]) -> RankPlan:
    whole = {line.site: line for line in full_rank(plan).sites}
    return replace(plan, sites=tuple(whole[line.site] if line.site in sites else line for line in plan.sites))


@dataclass(frozen=True)
class _Means:
    model: Model
    scan: Scan
    whole: Callable[[Site], Spectrum]

    def of(self, site: Site) -> Iterator[NDArray[np.generic]]:
        """Yield, use by use, what stands for a direction that is left out."""
        basis = self.whole(site)
        dtype = helper.tensor_dtype_to_np_dtype(site.weight.onnx_type)
        for number in range(len(site.uses)):
            if basis.centred:
                yield (basis.means[number] @ basis.duals).astype(dtype)
            else:
                yield np.zeros(basis.vectors.shape[-1], dtype)


def _outline(basis: Spectrum) -> Spectrum:
    return basis.without_vectors


def _with_masks(made: Rewritten, pairs: list[tuple[FoldedPair, Site]], means: _Means) -> Masked:
    skeleton, taken = made.skeleton, taken_names(made.skeleton)
    inserted: dict[str, NodeProto] = {}  # by the name of the product that it chooses from
    extra: list[TensorProto] = []
    masks: dict[str, Mask] = {}
    for pair, site in pairs:
        mask = Mask(_fresh(f"{pair.site}/mask", taken), _shape(pair, site))
        masks[pair.site] = mask
        value = helper.make_tensor_value_info(mask.name, TensorProto.BOOL, mask.shape)
        skeleton.graph.input.append(value)
        for product, mean in zip(_products(skeleton, pair.down), means.of(site), strict=True):
            constant = numpy_helper.from_array(mean.reshape(mask.shape), _fresh(f"{product}/mean", taken))
            extra.append(constant)
            chosen = _fresh(f"{product}/chosen", taken)
            inserted[product] = helper.make_node("Where", [mask.name, product, constant.name], [chosen], name=chosen)
    _insert(skeleton, inserted)
    return Masked(Rewritten(skeleton, _Chained((made.initializers, extra))), masks)


@dataclass(frozen=True)
class _Chained:
    parts: tuple[Iterable[TensorProto], ...]

    def __iter__(self) -> Iterator[TensorProto]:
        for part in self.parts:
            yield from part


def _shape(pair: FoldedPair, site: Site) -> tuple[int, ...]:
    """Return the shape in which a vector of directions meets the product: trailing axes of one after the features'."""
    trailing = len(site.kernel) if site.kernel is not None else -site.uses[0].feature_axis - 1
    return (pair.rank, *(1,) * trailing)


def _products(skeleton: ModelProto, down: str) -> list[str]:
    """Return the results of the products with a factor, in graph order; it may be widened by a Cast first."""
    names = {down}
    found = []
    for node in skeleton.graph.node:
        if not names.intersection(node.input):
            continue
        if node.op_type == "Cast":
            names.add(node.output[0])
        else:
            found.append(node.output[0])
    return found


def _insert(skeleton: ModelProto, inserted: Mapping[str, NodeProto]) -> None:
    """Put each node behind the product that it reads, and let the others read its result."""
    nodes = []
    for node in skeleton.graph.node:
        for place, name in enumerate(node.input):
            if name in inserted:
                node.input[place] = inserted[name].output[0]
        nodes.append(node)
        nodes.extend(inserted[name] for name in node.output if name in inserted)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(copies)


def _fresh(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name
