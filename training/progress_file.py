"""How far a training is, and keeping that in a file that is whole whenever the run is killed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankfold.errors import CalibrationDataError, OutputError

# What torch raises of a file that is not whole, or not a training's.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError)


@dataclass
class Progress:
    """How far a training is; what changes with each step and look.

    Attributes:
        rate: The rate that was chosen.
        before: The held-out loss before the first step.
        loss, best: The smallest held-out loss so far, and the tensors it was found with.
        step: Steps taken.
        since: Looks since the last gain.
        looks: Step and loss of each look.
        resumed: What a saved training is taken up from, as it was given to `kept`; None at the beginning.
    """

    rate: float
    before: float
    loss: float
    best: dict[str, Tensor]
    step: int = 0
    since: int = 0
    looks: list[tuple[int, float]] = field(default_factory=list)
    resumed: Mapping[str, Any] | None = None

    def looked(self, loss: float, state: dict[str, Tensor]) -> None:
        """Take note of a look at the held-out samples."""
        self.looks.append((self.step, loss))
        self.since += 1
        if loss < self.loss:
            self.loss, self.best, self.since = loss, state, 0


def kept(file: Path | None, progress: Progress, resumed: Mapping[str, Any]) -> None:
    """Save a training with what it is taken up from; a file that is there already stays whole until the new one is.

    Raises:
        OutputError: It cannot be written.
    """
    if file is None:
        return
    content = {name: getattr(progress, name) for name in ("rate", "before", "loss", "best", "step", "since", "looks")}
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as opened:
            torch.save({**content, "resumed": dict(resumed)}, opened)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror or error}); give a folder with room") from error
    finally:
        partial.unlink(missing_ok=True)


def restored(file: Path | None) -> Progress | None:
    """Return a saved training, None where there is none.

    Raises:
        CalibrationDataError: The file is damaged.
    """
    if file is None or not file.is_file():
        return None
    try:
        return Progress(**torch.load(file, weights_only=True))
    except _DAMAGE as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise CalibrationDataError(
            f"{file}: the checkpoint cannot be read ({said}); remove its folder and begin anew"
        ) from error
