"""Options of utilized rank in `analyze`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from rankfold.measures import ENERGY_SHARES
from rankfold.tools.options import UsageError

_UTILIZATION = Group("Utilized rank", sort_key=2)


@Parameter(name="*")
@dataclass(frozen=True)
class UtilizationOptions:
    """Whether and how utilized ranks are looked for."""

    utilization: Annotated[bool, Parameter(group=_UTILIZATION, negative="", show_default=False)] = False
    """With --data: how many directions of inputs and outputs each weight uses, and what keeping only those loses."""
    shares: Annotated[tuple[float, ...], Parameter(group=_UTILIZATION, consume_multiple=True, negative="")] = (
        ENERGY_SHARES
    )
    """Shares of the variance that the directions hold, in (0, 1]."""
    about_zero: Annotated[bool, Parameter(group=_UTILIZATION, negative="", show_default=False)] = False
    """Take variances about zero, not about the mean."""


def check_utilization(options: UtilizationOptions, data: Path | None) -> None:
    """Check that the options go together.

    Raises:
        UsageError: There is no data, a share is none, or an option lacks --utilization.
    """
    if not options.utilization:
        defaults = UtilizationOptions()
        for name in ("shares", "about_zero"):
            if getattr(options, name) != getattr(defaults, name):
                raise UsageError(f"--{name.replace('_', '-')} goes with --utilization")
        return
    if data is None:
        raise UsageError("--utilization needs --data: it is about what the inputs of each weight are")
    wrong = [share for share in options.shares if not 0 < share <= 1]
    if wrong or not options.shares:
        raise UsageError(f"--shares is {' '.join(map(str, options.shares))}; expected numbers above 0 and at most 1")
