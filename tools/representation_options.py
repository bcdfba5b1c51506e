"""The options of `rankfold analyze --activations`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from rankfold.runtime_calib.activation_rows import Pooling
from rankfold.tools.options import UsageError

_ACTIVATIONS = Group("Activations", sort_key=1)
_Patterns = Annotated[
    tuple[str, ...] | None,
    Parameter(group=_ACTIVATIONS, consume_multiple=True, negative="", show_default=False),
]


@Parameter(name="*")
@dataclass(frozen=True)
class ActivationOptions:
    """What is measured of activations."""

    activations: _Patterns = None
    """Measure activations instead of weights: all of them, or those that these patterns (*, ?, [abc]) match by tensor
    name, node name or operator. It takes --data, and all of its samples."""
    pooling: Annotated[Pooling, Parameter(group=_ACTIVATIONS)] = "none"
    """What is a row of the rank measures: `none`: every position; `mean`: a sample, the mean of its positions;
    `flatten`: a sample, all its values."""
    collapse: Annotated[bool | None, Parameter(group=_ACTIVATIONS, show_default=False)] = None
    """Measure how far classes have collapsed, by an array `labels` in the data, and refuse data without; by default it
    is measured where there are labels."""


def check_activation_options(chosen: ActivationOptions, data: Path | None, checkpoint: Path | None) -> None:
    """Check that the options go together.

    Raises:
        UsageError: They do not.
    """
    if chosen.activations is None:
        named = {
            "--pooling": chosen.pooling != "none",
            "--collapse": chosen.collapse is not None,
        }
        alone = [name for name, given in named.items() if given]
        if alone:
            raise UsageError(f"{alone[0]} is of activations; give --activations too")
    elif data is None:
        raise UsageError("--activations runs the model; give --data too")
    elif checkpoint is not None:
        raise UsageError("--checkpoint keeps calibrations, and --activations makes none; leave one of the two out")
