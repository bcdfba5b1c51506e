"""The group of options by which `compress` heals its result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from rankfold.options import Options
from rankfold.tools.options import is_positive

_HEALING = Group("Healing", sort_key=3)


@Parameter(name="*")
@dataclass(frozen=True)
class HealOptions:
    """What is done to the result before it is measured."""

    heal: Annotated[Literal["none", "refit", "distill", "finetune"], Parameter(group=_HEALING)] = "none"
    """refit: factors and biases in closed form; distill: then trained toward the original's outputs; finetune: then
    trained on `labels` too. The last two need torch."""
    passes: Annotated[int, Parameter(group=_HEALING, validator=is_positive)] = 4
    """Passes over the data while training, at most."""


def with_healing(options: Options, chosen: HealOptions) -> Options:
    """Return the options with what was chosen of healing."""
    return replace(options, heal=chosen.heal, heal_passes=chosen.passes)
