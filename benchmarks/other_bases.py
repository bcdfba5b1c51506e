"""Bases beside the one that is used, each a projection of a site's outputs, at given ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from benchmarks.subjects import Subject
from benchmarks.weighed import RowSums, SiteSums
from rankfold.passes.fold import finite_weight
from rankfold.passes.model_file import Model
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.values import FloatArray, folded_parameters

DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3)  # of the gradients' second moment, relative to its mean eigenvalue
Ranks = Mapping[str, int | None]


@dataclass(frozen=True)
class Oblique:
    """`z` becomes `(z - mean) @ down @ up + mean`, with `down` (out, rank) and `up` (rank, out)."""

    down: FloatArray
    up: FloatArray
    mean: FloatArray


@dataclass(frozen=True)
class Ground:
    """A subject's model, its sites and what was summed of them."""

    subject: Subject
    model: Model
    scan: Scan
    sums: Mapping[str, SiteSums]


Basis = Callable[[Ground, Ranks], dict[str, Oblique]]


def orthogonal(second: FloatArray, mean: FloatArray, rank: int) -> Oblique:
    """Return the projection on the leading eigenvectors of a second moment (out, out)."""
    _, vectors = linalg.eigh(second, subset_by_index=[len(second) - rank, len(second) - 1])
    return Oblique(vectors, vectors.T, mean)


def loss_aware(second: FloatArray, mean: FloatArray, gradient: FloatArray, rank: int) -> Oblique:
    """Return `G^½ V Vᵀ G^-½`, V the leading eigenvectors of `G^½ S G^½`, for a damped `G` (out, out)."""
    values, vectors = linalg.eigh(gradient)
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse = (vectors / np.sqrt(values)) @ vectors.T
    inner = orthogonal(root @ second @ root, mean, rank)
    return Oblique(root @ inner.down, inner.up @ inverse, mean)


def about_zero(ground: Ground, ranks: Ranks) -> dict[str, Oblique]:
    """Return the bases of the outputs' second moments about zero."""
    return {
        name: orthogonal(sums.second / sums.weight, np.zeros_like(sums.mean), rank)
        for name, sums, rank in _planned(ground, ranks, "even")
    }


def weighted(way: str) -> Basis:
    """Return the way to bases of outputs about their mean, rows weighted in a way; `even` is what rankfold uses."""

    def basis(ground: Ground, ranks: Ranks) -> dict[str, Oblique]:
        return {name: orthogonal(s.covariance, s.mean, rank) for name, s, rank in _planned(ground, ranks, way)}

    return basis


def by_loss(damping: float) -> Basis:
    """Return the way to loss-aware bases under a damping."""

    def basis(ground: Ground, ranks: Ranks) -> dict[str, Oblique]:
        found = {}
        for name, sums, rank in _planned(ground, ranks, "even"):
            moment = ground.sums[name].gradient
            gradient = moment.second / moment.weight
            little = damping * float(np.trace(gradient)) / len(gradient)
            found[name] = loss_aware(sums.covariance, sums.mean, gradient + little * np.eye(len(gradient)), rank)
        return found

    return basis


def by_loss_within(damping: float) -> Basis:
    """Return the way to loss-aware bases within each weight's row space."""

    def basis(ground: Ground, ranks: Ranks) -> dict[str, Oblique]:
        found = {}
        sites = {site.name: site for site in ground.scan.sites}
        for name, sums, rank in _planned(ground, ranks, "even"):
            site = sites[name]
            moment = ground.sums[name].gradient
            gradient = moment.second / moment.weight
            if site.out_features <= site.in_features:
                rows = np.eye(site.out_features)
            else:
                rows = linalg.qr(finite_weight(ground.model, ground.scan, site).T, mode="economic")[0]
            inner = rows.T @ gradient @ rows
            little = damping * float(np.trace(inner)) / len(inner)
            made = loss_aware(rows.T @ sums.covariance @ rows, sums.mean, inner + little * np.eye(len(inner)), rank)
            found[name] = Oblique(rows @ made.down, made.up @ rows.T, sums.mean)
        return found

    return basis


def joint(ground: Ground, ranks: Ranks) -> dict[str, Oblique]:
    """Return bases in which layers that read one tensor share their first factor, all others as rankfold's."""
    found = weighted("even")(ground, ranks)
    groups: dict[str, list[Site]] = {}
    for site in ground.scan.sites:
        if ranks[site.name] is not None:
            groups.setdefault(site.uses[0].activation, []).append(site)
    for group in groups.values():
        if len(group) > 1:
            found |= _joined(ground, group, sum(_cost(site, ranks[site.name]) for site in group))
    return found


def parted(ground: Ground, ranks: Ranks) -> dict[str, Oblique]:
    """Return bases in which a layer with three times as many outputs as inputs is three, all others as before."""
    found = weighted("even")(ground, ranks)
    for site in ground.scan.sites:
        rank = ranks[site.name]
        if rank is None or site.out_features != 3 * site.in_features:
            continue
        size = site.in_features
        own = _largest(lambda r, size=size: 3 * folded_parameters(size, size, r, "pivoted"), _cost(site, rank), size)  # type: ignore[misc]
        sums = ground.sums[site.name].outputs["even"]
        parts = [
            orthogonal(sums.covariance[place, place], sums.mean[place], own)
            for place in (slice(start, start + size) for start in range(0, site.out_features, size))
        ]
        found[site.name] = Oblique(
            linalg.block_diag(*(part.down for part in parts)),
            linalg.block_diag(*(part.up for part in parts)),
            sums.mean,
        )
    return found


BASES: dict[str, Basis] = {
    "about the mean": weighted("even"),
    "about zero": about_zero,
    "rows weighted by 1/‖y‖²": weighted("by output"),
    "rows weighted by ‖g‖²": weighted("by gradient"),
    **{f"loss-aware, damping {damping:g}": by_loss(damping) for damping in DAMPINGS},
    "loss-aware within rows, damping 0.03": by_loss_within(0.03),
    "one first factor per tensor read": joint,
    "fused qkv in three parts": parted,
}


def _planned(ground: Ground, ranks: Ranks, way: str) -> Iterator[tuple[str, RowSums, int]]:
    for name, rank in ranks.items():
        if rank is not None:
            yield name, ground.sums[name].outputs[way], rank


def _cost(site: Site, rank: int | None) -> int:
    if rank is None:
        return site.parameters
    return folded_parameters(site.in_features, site.out_features, rank, "pivoted" if site.pivots else "pair")


def _largest(cost: Callable[[int], int], budget: int, most: int) -> int:
    return max(rank for rank in range(1, most + 1) if cost(rank) <= budget)


def _joined(ground: Ground, group: list[Site], budget: int) -> dict[str, Oblique]:
    """Return the bases of sites that share `x @ down`, of the largest rank that costs no more than they do apart."""
    inputs = ground.sums[group[0].name].inputs
    weights = [finite_weight(ground.model, ground.scan, site) for site in group]
    widths = [site.out_features for site in group]
    fan_in = group[0].in_features
    rank = _largest(lambda r: folded_parameters(fan_in, sum(widths), r, "pivoted"), budget, min(fan_in, sum(widths)))
    scales = [np.trace(ground.sums[site.name].outputs["even"].covariance) ** -0.5 for site in group]
    stack = np.concatenate([weight * scale for weight, scale in zip(weights, scales, strict=True)], axis=1)
    shared = orthogonal(stack.T @ inputs.covariance @ stack, np.zeros(sum(widths)), rank)
    product = stack @ shared.down  # x @ product is what they share
    ups = np.split(shared.up, np.cumsum(widths)[:-1], axis=1)
    found = {}
    for site, weight, up, scale in zip(group, weights, ups, scales, strict=True):
        # as a map of z = x W: W⁺ (product up / scale), exact where W has full column rank, else by its row space
        down = linalg.pinv(weight) @ product
        mean = ground.sums[site.name].outputs["even"].mean
        found[site.name] = Oblique(down, up / scale, mean)
    return found
