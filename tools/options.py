"""Groups of command-line options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter, Token

from rankfold.options import DEFAULT_MEMORY_BYTES, Options, Progress, silent
from rankfold.values import Energy, Keep, Provider

BUDGET_GROUP = Group("Budget (exactly one)", sort_key=0)
_FILES = Group("Files", sort_key=1)
_SCOPE = Group("What is touched and compared", sort_key=2)
_CALIBRATION = Group("Calibration", sort_key=3)
_LIMITS = Group("Limits (exit 1 when exceeded)", sort_key=4)
_RUN = Group("Running", sort_key=5)
_SHOW = Group("Showing", sort_key=6)


def is_share(_kind: type, value: float | None) -> None:
    """Refuse what is no share of a whole that is kept."""
    if value is not None and not 0 < value <= 1:
        raise ValueError(f"It must lie in (0, 1]; found {value}.")


def _is_part(_kind: type, value: float) -> None:
    """Refuse what leaves nothing for one of two parts."""
    if not 0 < value < 1:
        raise ValueError(f"It must lie between 0 and 1, both excluded; found {value}.")


def is_positive(_kind: type, value: float | None) -> None:
    """Refuse 0, what is below it, and NaN."""
    if value is not None and not value > 0:
        raise ValueError(f"It must be above 0; found {value}.")


def is_not_negative(_kind: type, value: float | None) -> None:
    """Refuse what is below 0, and NaN."""
    if value is not None and not value >= 0:
        raise ValueError(f"It must be 0 or more; found {value}.")


_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def memory_bytes(text: str) -> int:
    """Return the bytes that a text such as 500M or 1.5G names; the suffixes are powers of 1024.

    Raises:
        ValueError: It names no such number, or none above 0.
    """
    found = _MEMORY.fullmatch(text.strip())
    size = int(float(found[1]) * _SIZES[found[2].upper()]) if found else 0
    if size < 1:
        raise ValueError(f"It must be a number of bytes, such as 500M or 2G; found {text!r}.")
    return size


def _shown_memory(size: int) -> str:
    return f"{size / _SIZES['G']:g}G"


def _memory(_kind: type, tokens: Sequence[Token]) -> int:
    return memory_bytes(tokens[0].value)


Share = Annotated[float | None, Parameter(validator=is_share)]


@Parameter(name="*")
@dataclass(frozen=True)
class Budget:
    """What the ranks have to meet."""

    keep: Annotated[Share, Parameter(group=BUDGET_GROUP)] = None
    """Share of the parameters of all distinct foldable weights to keep at most, in (0, 1]."""
    energy: Annotated[Share, Parameter(group=BUDGET_GROUP)] = None
    """Share of every site's output energy to keep at least, in (0, 1]."""


@Parameter(name="*")
@dataclass(frozen=True)
class UtilizedBudget:
    """Utilized rank instead of a budget."""

    utilized: Annotated[Share, Parameter(group=BUDGET_GROUP)] = None
    """Share of the variance of every site's inputs and of its outputs: each weight W becomes P_S W P_T, projected on
    the fewest directions of either that hold it, in (0, 1]."""
    about_zero: Annotated[bool, Parameter(group=BUDGET_GROUP, negative="", show_default=False)] = False
    """With --utilized: take that variance about zero, not about the mean."""


@Parameter(name="*")
@dataclass(frozen=True)
class PlanFile:
    """A rank plan instead of a budget."""

    plan: Annotated[Path | None, Parameter(group=BUDGET_GROUP)] = None
    """A plan.json made before, its ranks edited by hand or not."""


@Parameter(name="*")
@dataclass(frozen=True)
class CompressFiles:
    """What `compress` reads and writes beside the model."""

    data: Annotated[Path, Parameter(group=_FILES)]
    """Calibration data: .npz, folder of .npz, Polygraphy inputs JSON, or a Python script with load_data()."""
    out: Annotated[Path, Parameter(name="-o", group=_FILES)]
    """The compressed model to write."""
    report: Annotated[Path | None, Parameter(group=_FILES)] = None
    """Folder for plan.json, report.json, report.md and the held-out data with a Polygraphy loader script."""


@Parameter(name="*")
@dataclass(frozen=True)
class Selection:
    """Which nodes are folded."""

    include: Annotated[tuple[str, ...], Parameter(group=_SCOPE, negative="", show_default=False)] = ()
    """Fold only what matches this pattern (*, ?, [abc]) by node name, operator or weight name; only that counts in
    --keep. May be given again."""

    exclude: Annotated[tuple[str, ...], Parameter(group=_SCOPE, negative="", show_default=False)] = ()
    """Leave what matches this pattern as it is, by node name, operator or weight name; it still counts in --keep. May
    be given again."""


@Parameter(name="*")
@dataclass(frozen=True)
class OutputChoice:
    """Outputs to compare."""

    output: Annotated[tuple[str, ...], Parameter(group=_SCOPE, negative="", show_default=False)] = ()
    """Name of an output of the model to compare; may be given again; all by default."""


@Parameter(name="*")
@dataclass(frozen=True)
class CalibrationOptions:
    """How the data is used."""

    mask: Annotated[str | None, Parameter(group=_CALIBRATION)] = None
    """Model input that is 0 where a row is padding, such as attention_mask; those rows are not counted."""
    holdout: Annotated[float, Parameter(group=_CALIBRATION, validator=_is_part)] = 0.2
    """Share of the samples that decides nothing and is reported on."""
    seed: Annotated[int, Parameter(group=_CALIBRATION, validator=is_not_negative)] = 0
    """Seed of that draw."""
    checkpoint: Annotated[Path | None, Parameter(group=_CALIBRATION)] = None
    """Folder to keep a long calibration in: after a kill, the same command goes on from there; removed at the end."""


@Parameter(name="*")
@dataclass(frozen=True)
class Limits:
    """Limits of a whole compression."""

    max_error: Annotated[float | None, Parameter(group=_LIMITS, validator=is_not_negative)] = None
    """Largest relative L2 error allowed of any compared output. Without a budget it is the budget: the smallest model
    within it, on held-out samples that choose."""
    min_speedup: Annotated[float | None, Parameter(group=_LIMITS, validator=is_positive)] = None
    """Smallest speed-up allowed at any measured batch size."""


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """How the models are run."""

    batch_size: Annotated[int, Parameter(group=_RUN, validator=is_positive)] = 8
    """Samples per batch, where the model's batch axis is free."""
    provider: Annotated[Provider, Parameter(group=_RUN)] = "cpu"
    """Where to run: asked for and not there is an error."""
    memory: Annotated[int, Parameter(group=_RUN, converter=_memory, show_default=_shown_memory)] = DEFAULT_MEMORY_BYTES
    """What sums may take at a time, such as 500M or 2G: with less, the data is swept several times. Weights beyond it
    are run without the copies that onnxruntime makes of them."""


@Parameter(name="*")
@dataclass(frozen=True)
class ShowOptions:
    """What is shown."""

    json: Annotated[bool, Parameter(group=_SHOW, negative="", show_default=False)] = False
    """Print JSON instead of tables."""
    quiet: Annotated[bool, Parameter(group=_SHOW, negative="", show_default=False)] = False
    """Show no progress."""


class UsageError(ValueError):
    """The options do not fit together."""


def chosen_budget(budget: Budget) -> Keep | Energy:
    """Return the one budget that was stated.

    Raises:
        UsageError: None or both were.
    """
    if budget.keep is not None and budget.energy is None:
        return Keep(budget.keep)
    if budget.energy is not None and budget.keep is None:
        return Energy(budget.energy)
    found = "none" if budget.keep is None else "both"
    raise UsageError(f"give exactly one of --keep and --energy; found {found}")


def stage_options(
    *,
    run: RunOptions,
    calibration: CalibrationOptions | None = None,
    selection: Selection | None = None,
    choice: OutputChoice | None = None,
    progress: Progress = silent,
) -> Options:
    """Return the pipeline's options from the groups that a command has."""
    data = calibration or CalibrationOptions()
    return Options(
        batch_size=run.batch_size,
        provider=run.provider,
        holdout=data.holdout,
        seed=data.seed,
        mask=data.mask,
        checkpoint=data.checkpoint,
        memory_bytes=run.memory,
        include=selection.include if selection else (),
        exclude=selection.exclude if selection else (),
        outputs=choice.output if choice else (),
        progress=progress,
    )
