"""A compressed model on its way to being healed: what it is compared with, and how a change to it is tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankfold.findings import Discrepancy, HealStep
from rankfold.memory import runs_lean
from rankfold.options import Options
from rankfold.passes.carry import Rewritten
from rankfold.passes.model_file import Model
from rankfold.passes.pruned import pruned
from rankfold.passes.replaced import with_values
from rankfold.passes.write_model import write_referring
from rankfold.runtime_calib.shelf import Shelf
from rankfold.runtime_calib.trials import Rows, Run, Session, open_trial, tried
from rankfold.values import Skipped

Array = NDArray[np.generic]
How = Literal["refit", "distill", "finetune"]
Criterion = Literal["relative_l2", "kl", "kl_probabilities"]
HOWS: tuple[How, ...] = ("refit", "distill", "finetune")


@dataclass(frozen=True)
class Healed:
    """What healing reached.

    Attributes:
        path: The model written.
        steps: Each step in order.
        changed: Initializers that changed: factors, and others.
        others: Those of them that are no factors.
        before, after: The candidate and the result beside the original, on held-out samples that decided nothing.
        samples: Samples to heal on, to choose by and to report on.
        skipped: Folds that were not fitted anew, with the reason.
    """

    path: Path
    steps: tuple[HealStep, ...]
    changed: tuple[str, ...]
    others: tuple[str, ...]
    before: Discrepancy
    after: Discrepancy
    samples: tuple[int, int, int]
    skipped: tuple[Skipped, ...] = field(default=())


@dataclass(frozen=True)
class Case:
    """A candidate, the original, and the samples that a change is made and judged on.

    Attributes:
        training: Samples to heal on.
        choosing: Held-out samples that only judge, with the original's outputs.
        labels: Of those samples, batch by batch; None where there are none.
        folder: For what is written on the way.
    """

    base: Model
    candidate: Model
    training: Shelf
    choosing: Rows
    labels: tuple[Array | None, ...]
    folder: Path
    options: Options

    @property
    def run(self) -> Run:
        """Return where and how models are run."""
        return Run(self.options.provider, runs_lean(self.base, self.options))

    def opened(self, values: Mapping[str, Array]) -> Session:
        """Return the candidate with other values."""
        return self._session(self.candidate, with_values(self.candidate, values))

    def part(self, model: Model, values: Mapping[str, Array], tensors: Sequence[str]) -> Session:
        """Return the part of a model, with other values, that some of its tensors need."""
        return self._session(model, pruned(model, dict(values), tensors))

    def error(self, session: Session) -> float:
        """Return how far the outputs are from the original's on the samples that choose."""
        found = tried(session, self.choosing, {})
        return float(np.sqrt(np.mean([losses.mean for losses in found.values()])))

    def _session(self, model: Model, rewritten: Rewritten) -> Session:
        path = self.folder / "trial.onnx"
        write_referring(rewritten, model, path)
        session = open_trial(path, run=self.run, weights_folder=model.path.resolve().parent)
        path.unlink()
        return session


@dataclass(frozen=True)
class Trained:
    """What a training came to; `arrays` are the trained tensors by name, the losses those of held-out samples."""

    arrays: Mapping[str, Array]
    before: float
    after: float
    rate: float
    steps: int
