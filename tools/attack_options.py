"""Options of `rankfold attack`: what an attacker may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from rankfold.threat import AttackName, Norm, Threat
from rankfold.tools.options import UsageError, is_not_negative, is_positive

_ATTACK = Group("Attack", sort_key=0)
_READING = Group("What is attacked", sort_key=1)
_NUMBERS = Parameter(consume_multiple=True, negative="", show_default=False)


def _are_radii(_kind: type, values: tuple[float, ...]) -> None:
    for value in values:
        is_not_negative(float, value)


def _are_positive(_kind: type, values: tuple[float, ...]) -> None:
    for value in values:
        is_positive(float, value)


@Parameter(name="*")
@dataclass(frozen=True)
class AttackOptions:
    """What an attacker may do."""

    attacks: Annotated[
        tuple[AttackName, ...], Parameter(group=_ATTACK, name="--attacks", consume_multiple=True, negative="")
    ] = ("fgsm", "pgd")
    """fgsm: one step along the gradient; pgd: several, from a random start, kept within the ball."""
    norm: Annotated[Norm, Parameter(group=_ATTACK)] = "linf"
    """linf: each value changes by at most ε; l2: the length of the whole change is at most ε."""
    eps: Annotated[tuple[float, ...], Parameter(group=_ATTACK), _NUMBERS, Parameter(validator=_are_radii)] = ()
    """Radii, in units of the input (before --mean and --std, where these are given); by default 2, 4, 8 and 16
    255ths of the range of valid values, under l2 times the root of the number of values."""
    steps: Annotated[int, Parameter(group=_ATTACK, validator=is_positive)] = 20
    """Steps of pgd."""
    step_size: Annotated[float | None, Parameter(group=_ATTACK, validator=is_positive)] = None
    """Length of a step of pgd, as a share of ε; by default 2.5 / steps."""
    restarts: Annotated[int, Parameter(group=_ATTACK, validator=is_positive)] = 1
    """Random starts of pgd per sample; the worst for the model counts."""
    seed: Annotated[int, Parameter(group=_ATTACK, validator=is_not_negative)] = 0
    """Seed of the random starts."""
    clip: Annotated[tuple[float, float] | None, Parameter(group=_ATTACK, negative="")] = None
    """LOW HIGH: the valid values, in the unit of ε; by default those that the samples hold."""
    mean: Annotated[tuple[float, ...], Parameter(group=_ATTACK), _NUMBERS] = (0.0,)
    """What was subtracted from the values, one number or one per channel (axis 1)."""
    std: Annotated[tuple[float, ...], Parameter(group=_ATTACK), _NUMBERS, Parameter(validator=_are_positive)] = (1.0,)
    """What they were divided by then: --eps and --clip are in units before both."""
    input: Annotated[str | None, Parameter(group=_READING)] = None
    """The input that is changed; by default the only one of floats."""
    output: Annotated[str | None, Parameter(group=_READING)] = None
    """The output of class scores; by default the only one that looks like that."""
    samples: Annotated[int | None, Parameter(group=_READING, validator=is_positive)] = None
    """Attack the first so many samples; all by default."""


def chosen_threat(options: AttackOptions) -> Threat:
    """Return what an attacker may do.

    Raises:
        UsageError: The bounds are no range.
    """
    if options.clip is not None and not options.clip[0] < options.clip[1]:
        raise UsageError(
            f"--clip is {options.clip[0]:g} {options.clip[1]:g}; expected a lowest value below the highest"
        )
    return Threat(
        attacks=options.attacks,
        norm=options.norm,
        eps=options.eps,
        steps=options.steps,
        step_size=options.step_size,
        restarts=options.restarts,
        clip=options.clip,
        mean=options.mean,
        std=options.std,
        input=options.input,
        output=options.output,
        samples=options.samples,
    )
