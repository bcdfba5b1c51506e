"""Signs that attacks by gradients fail for reasons of their own, and robust accuracy is too good to be true.

A defence that hides gradients shows in these (Athalye et al. 2018, arXiv 1802.00420, section 3): gradients that vanish,
one step that does better than many, another model's examples that do better than the model's own, and a larger ball
that holds fewer examples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankfold.shares import Share
from rankfold.threat import AttackName

Rights = NDArray[np.bool_]
_FEW = 1.0  # percent of the samples: fewer without a gradient move no robust accuracy that can be told from chance
_NORMAL = 1.96  # standard deviations that 95 % of a normal distribution lie within


class Place(NamedTuple):
    """Which attack, how far, on whose gradients, and who is asked, by the models' places."""

    attack: AttackName
    eps: float
    made_on: int
    scored_on: int


def signs_of_masking(
    rights: Mapping[Place, Rights], names: Sequence[str], flat: Sequence[Share], described: str
) -> tuple[str, ...]:
    """Return a warning for each sign that is more than chance.

    Args:
        rights: Per attack, radius and pair of models: which samples are still classified rightly.
        names: The models.
        flat: Per model, the samples whose gradient is zero.
        described: What attacks move, for the message.
    """
    found = [
        f"{name}: the gradient by {described} is zero for {share.count:,} of {share.samples:,} samples"
        f" ({share.percent:.3g} %); no attack by gradients moves them, and robust accuracy counts them as if they were"
        " safe (gradient masking)"
        for name, share in zip(names, flat, strict=True)
        if share.percent >= _FEW
    ]
    found.extend(_steps(rights, names))
    found.extend(_transfers(rights, names))
    found.extend(_radii(rights, names))
    return tuple(found)


def fewer_by_chance(first: Rights, second: Rights) -> bool:
    """Tell whether `first` has no fewer samples than `second` but for chance, on the same samples (McNemar 1947)."""
    lost, won = int((second & ~first).sum()), int((first & ~second).sum())
    return lost - won <= _NORMAL * math.sqrt(lost + won)


def _steps(rights: Mapping[Place, Rights], names: Sequence[str]) -> Iterator[str]:
    for place, right in rights.items():
        many = rights.get(place._replace(attack="pgd"))
        own = place.made_on == place.scored_on
        if place.attack == "fgsm" and own and many is not None and not fewer_by_chance(right, many):
            yield (
                f"{names[place.made_on]}: at ε = {place.eps:g} one step breaks more than many steps do; give more"
                " --steps or a smaller --step-size, or take it as a sign of gradient masking"
            )


def _transfers(rights: Mapping[Place, Rights], names: Sequence[str]) -> Iterator[str]:
    for place, right in rights.items():
        own = rights[place._replace(made_on=place.scored_on)]
        if place.made_on != place.scored_on and not fewer_by_chance(right, own):
            yield (
                f"{names[place.scored_on]}: {place.attack} at ε = {place.eps:g} breaks more by examples made on"
                f" {names[place.made_on]} than by its own: a sign of gradient masking"
            )


def _radii(rights: Mapping[Place, Rights], names: Sequence[str]) -> Iterator[str]:
    walks: dict[tuple[AttackName, int], list[Place]] = {}
    for place in rights:
        if place.made_on == place.scored_on and place.attack == "pgd":
            walks.setdefault((place.attack, place.made_on), []).append(place)
    for places in walks.values():
        for near, far in itertools.pairwise(sorted(places, key=lambda place: place.eps)):
            if not fewer_by_chance(rights[near], rights[far]):
                yield (
                    f"{names[near.made_on]}: {near.attack} breaks less at ε = {far.eps:g} than at {near.eps:g}: a sign"
                    " of gradient masking, or of too few --steps"
                )
