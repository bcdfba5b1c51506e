"""How far a training is, and keeping that in a file that is whole whenever the run is killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankfold.whole_files import readable, whole


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
    with whole(file) as opened:
        torch.save({**content, "resumed": dict(resumed)}, opened)


def restored(file: Path | None) -> Progress | None:
    """Return a saved training, None where there is none.

    Raises:
        CalibrationDataError: The file is damaged.
    """
    if file is None or not file.is_file():
        return None
    with readable(file):
        return Progress(**torch.load(file, weights_only=True))
