"""Ranks of the foldable weights beside the collapse of what each reads, and how the two go together over layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from rankfold.labelled import spearman
from rankfold.passes.collapse import Collapse
from rankfold.passes.fold import finite_weight
from rankfold.passes.model_file import Model
from rankfold.passes.rank_measures import RankMeasures, distance_to_rank, rank_measures, without_rounding
from rankfold.passes.sites import Scan
from rankfold.values import FloatArray

_FEWEST_LAYERS = 4  # the variance of atanh of the correlation has n - 3 below it
_NORMAL = 1.959963984540054  # 97.5 % of a standard normal distribution lie below it


@dataclass(frozen=True)
class WeightRanks:
    """One foldable weight beside the activation that it reads.

    Attributes:
        site, op_type: Its name, and the operator that multiplies by it.
        blocks: How many matrices of that shape are stacked.
        activation: The tensor that its first use reads.
        ranks: Of its squared singular values; of a stack, of all its matrices' together.
        distance: `√(Σ_{i > K} σ_i²)`: how far it is from rank K, the number of classes; of a stack, of each matrix.
        relative_distance: The same over its Frobenius norm, in [0, 1].
        before: Collapse measures of the activation; None where it was not measured.
    """

    site: str
    op_type: str
    in_features: int
    out_features: int
    blocks: int
    activation: str
    ranks: RankMeasures
    distance: float
    relative_distance: float
    before: Collapse | None


@dataclass(frozen=True)
class Correlation:
    """How a layer's rank and the within-class variability of what it reads go together, over layers.

    Attributes:
        rank: Which measure of the weight.
        layers: How many layers there are to go by.
        spearman: Correlation of the order of both, in [-1, 1].
        interval: A 95 % interval; None with fewer than four layers, and where the order is the same or the reverse.
    """

    rank: str
    layers: int
    spearman: float
    interval: tuple[float, float] | None


def weight_ranks(model: Model, scan: Scan, before: Mapping[str, Collapse], classes: int) -> tuple[WeightRanks, ...]:
    """Return the ranks of every foldable weight.

    Args:
        model, scan: The model and its foldable weights.
        before: Collapse measures by tensor name.
        classes: K.

    Raises:
        ModelError: A weight holds NaN or infinity.
    """
    found = []
    for site in scan.sites:
        singular = linalg.svdvals(finite_weight(model, scan, site))
        squares = np.sort((singular**2).reshape(-1))[::-1]
        norm = math.sqrt(float(squares.sum()))
        distance = distance_to_rank(singular, classes)
        found.append(
            WeightRanks(
                site=site.name,
                op_type=site.op_type,
                in_features=site.in_features,
                out_features=site.out_features,
                blocks=site.blocks,
                activation=site.uses[0].activation,
                ranks=rank_measures(without_rounding(squares)),
                distance=distance,
                relative_distance=distance / norm if norm else 0.0,
                before=before.get(site.uses[0].activation),
            )
        )
    return tuple(found)


def correlations(weights: tuple[WeightRanks, ...]) -> tuple[Correlation, ...]:
    """Return how ranks of weights go with the total cluster variation of what they read; none of under three layers."""
    known = [
        (weight, weight.before.cluster_variation)
        for weight in weights
        if weight.before is not None and weight.before.cluster_variation is not None
    ]
    if len(known) < _FEWEST_LAYERS - 1:
        return ()
    variation = np.array([value for _, value in known])
    measures = {
        "stable rank": [weight.ranks.stable for weight, _ in known],
        "effective rank": [weight.ranks.effective for weight, _ in known],
        "relative distance to rank K": [weight.relative_distance for weight, _ in known],
    }
    return tuple(_correlation(name, np.array(values), variation) for name, values in measures.items())


def spearman_interval(correlation: float, count: int) -> tuple[float, float] | None:
    """Return a 95 % interval of Spearman's correlation of `count` pairs.

    Fisher's transformation with the variance `(1 + r²/2) / (n - 3)` of Bonett and Wright 2000, Psychometrika 65(1). It
    takes pairs to be independent, which a network's layers are not: it tells least how wide the doubt is.
    """
    if count < _FEWEST_LAYERS or abs(correlation) >= 1:
        return None
    middle = math.atanh(correlation)
    half = _NORMAL * math.sqrt((1 + correlation**2 / 2) / (count - 3))
    return math.tanh(middle - half), math.tanh(middle + half)


def _correlation(name: str, values: FloatArray, variation: FloatArray) -> Correlation:
    found = max(-1.0, min(1.0, spearman(values, variation)))
    if 1 - abs(found) < len(values) * float(np.finfo(np.float64).eps):  # the same order, but for rounding
        found = math.copysign(1.0, found)
    return Correlation(name, len(values), found, spearman_interval(found, len(values)))
