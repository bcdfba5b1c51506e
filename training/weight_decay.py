"""How weight decay changes while training, for any torch optimizer, and which parameters decay."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from rankfold.errors import OptionsError

Form = Literal["constant", "linear", "cosine"]
_BASE = "initial_weight_decay"  # beside torch's own "initial_lr": kept in the group, and in the optimizer's state


@dataclass(frozen=True)
class DecaySchedule:
    """How weight decay changes from step to step, as a factor of what each parameter group begins with.

    Attributes:
        form: What comes after the warm-up: `constant`, 1 throughout; `linear`; `cosine`, half a wave.
        end: The factor at the last step, above or below 1; for `linear` and `cosine` alone.
        warmup_steps: Steps over which the factor rises to 1 in equal parts.
    """

    form: Form = "constant"
    end: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise OptionsError(f"weight decay: form is {self.form!r}; expected one of {', '.join(get_args(Form))}")
        if not 0 <= self.end < math.inf:
            raise OptionsError(f"weight decay: end is {self.end}; expected a factor from 0 on")
        if self.form == "constant" and self.end:
            raise OptionsError(f"weight decay: end is {self.end} with a constant form; choose linear or cosine")
        if self.warmup_steps < 0:
            raise OptionsError(f"weight decay: warmup_steps is {self.warmup_steps}; expected 0 or more")


def decay_factor(schedule: DecaySchedule, step: int, steps: int) -> float:
    """Return the factor at a step, counted from 0, of `steps` in all.

    With w warm-up steps it is `(t+1)/w` before step w; then, with `s = (t-w)/(steps-1-w)` from 0 to 1 at the last step,
    1, `1 + (end-1) s`, or `end + (1-end) (1 + cos π s)/2`.

    Raises:
        OptionsError: There is no such step.
    """
    if not 0 <= step < steps:
        raise OptionsError(f"weight decay: step {step} of {steps}; expected 0 to {steps - 1}")
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    share = (step - schedule.warmup_steps) / max(1, steps - 1 - schedule.warmup_steps)
    if schedule.form == "linear":
        return 1 + (schedule.end - 1) * share
    if schedule.form == "cosine":
        return schedule.end + (1 - schedule.end) * (1 + math.cos(math.pi * share)) / 2
    return 1.0


def set_weight_decay(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each parameter group's weight decay to a factor of what it began with: groups without decay stay so.

    What a group began with is kept in the group, so that the optimizer's state brings it back.
    """
    for group in optimizer.param_groups:
        group["weight_decay"] = group.setdefault(_BASE, group["weight_decay"]) * factor


def parameter_groups(
    model: nn.Module, weight_decay: float, *, free: Collection[str] = frozenset()
) -> list[dict[str, Any]]:
    """Return two parameter groups: matrices and kernels, which decay, and all parameters of fewer axes, which do not.

    Args:
        model: Its parameters are taken as `named_parameters()` gives them.
        weight_decay: That of the first group.
        free: Names of parameters with several axes that are no matrices, and do not decay either.
    """
    named = list(model.named_parameters())
    decayed = [value for name, value in named if value.ndim >= 2 and name not in free]
    others = [value for name, value in named if value.ndim < 2 or name in free]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
