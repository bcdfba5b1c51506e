"""Trying rank plans on held-out samples: one session with masks, and what each plan loses there."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from rankfold.errors import CalibrationDataError, OptionsError
from rankfold.memory import runs_lean
from rankfold.options import Options
from rankfold.passes.allocate import Choice
from rankfold.passes.masked import Mask, full_rank_bytes, masked
from rankfold.passes.model_file import Model, input_specs, numeric_outputs
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.passes.write_model import write_referring
from rankfold.runtime_calib.distance import Losses, Metric
from rankfold.runtime_calib.feeds import Unit, batched, open_source, sample_count
from rankfold.runtime_calib.sessions import run_outputs
from rankfold.runtime_calib.trials import Outputs, Rows, Run, open_trial, reference_rows, seen_from, tried
from rankfold.values import Feed, RankPlan

Plan = Mapping[str, Choice]
"""A choice for every site, by its name."""

# Sensitivities spread over two orders of magnitude from site to site, and few samples show that; the samples change
# from round to round. Choosing among whole plans takes finer measurement, on samples of its own.
ROUND_SAMPLES = 8
_SENSING_SHARE = 0.5  # of the samples that choose
_MOST_SENSING = 32
_MOST_COMPARING = 64


@dataclass(frozen=True)
class Lab:
    """What plans are tried with.

    Attributes:
        session: The model with masks.
        masks: Site name to mask.
        sensing: Samples for sensitivities, a few for each round.
        comparing: Other samples, by which whole plans are compared.
        weights: Output name to its weight in the judgement.
    """

    session: onnxruntime.InferenceSession
    masks: Mapping[str, Mask]
    sensing: tuple[Rows, ...]
    comparing: Rows
    weights: Mapping[str, float]

    def losses(self, plan: Plan, rows: Rows) -> dict[str, Losses]:
        """Return what a plan loses of each output, sample by sample."""
        return tried(self.session, rows, self._feed(plan))

    def loss(self, plan: Plan, rows: Rows) -> float:
        """Return what a plan loses, the outputs by their weights: of one relative L2 its square."""
        found = self.losses(plan, rows)
        return sum(self.weights[name] * losses.mean for name, losses in found.items()) / sum(self.weights.values())

    def seen_from(self, plan: Plan, rows: Rows) -> Rows:
        """Return the rows with the plan's own outputs in the place of the original's, to be judged by."""
        return seen_from(self.session, rows, self._feed(plan))

    def outputs(self, plan: Plan, feed: Feed) -> Outputs:
        """Return all outputs that a plan makes of a batch."""
        return run_outputs(self.session, feed | self._feed(plan))

    def reading(self, loss: float) -> float:
        """Return a loss as people read it: a relative L2, not its square."""
        return float(np.sqrt(loss)) if set(self.comparing.metrics.values()) == {"relative_l2"} else loss

    def _feed(self, plan: Plan) -> Feed:
        return {mask.name: mask.of_rank(plan[site].rank) for site, mask in self.masks.items()}


def fits(scan: Scan, options: Options) -> bool:
    """Tell whether all sites at full rank fit in the memory, twice: in the file and in the session's own copies."""
    return 2 * sum(map(full_rank_bytes, scan.sites)) <= options.memory_bytes


@contextmanager
def open_lab(
    model: Model,
    scan: Scan,
    plan: RankPlan,
    whole: Callable[[Site], Spectrum],
    *,
    choosing: Path,
    options: Options,
) -> Iterator[Lab]:
    """Yield a lab on the held-out samples that choose.

    Args:
        model: The original.
        scan: Its sites.
        plan: Names the sites that may be folded.
        whole: Gives a site's basis with its vectors.
        choosing: The held-out batches to choose on.
        options: Metric, weights, outputs, mask, batch size and provider.

    Raises:
        CalibrationDataError: There are fewer than two samples to choose on.
        OptionsError: A weight names no output.
    """
    metrics, weights = _judgement(options.outputs or numeric_outputs(model), options)
    run = Run(options.provider, runs_lean(model, options))
    sensing, comparing = _parted(list(open_source(choosing, input_specs(model)).units))
    rows = [
        reference_rows(model.given.path, feeds, metrics=metrics, padding=options.mask, run=run)
        for feeds in (*_rounds(sensing), list(batched(comparing, options.batch_size)))
    ]
    with tempfile.TemporaryDirectory(prefix="rankfold-") as folder:
        made = masked(model, scan, plan, whole)
        path = Path(folder) / "masked.onnx"
        write_referring(made.rewritten, model, path)
        session = open_trial(path, run=run, weights_folder=model.path.resolve().parent)
        yield Lab(session, made.masks, tuple(rows[:-1]), rows[-1], weights)


def _judgement(outputs: tuple[str, ...], options: Options) -> tuple[dict[str, Metric], dict[str, float]]:
    unknown = [name for name in options.weights if name not in outputs]
    if unknown:
        raise OptionsError(
            f"a weight is given for {unknown[0]!r}, which is no output that is compared; those are"
            f" {', '.join(outputs)}"
        )
    weights = {name: float(options.weights.get(name, 1.0)) for name in outputs}
    weights = {name: weight for name, weight in weights.items() if weight > 0}
    if not weights:
        raise OptionsError("every output weighs 0; give at least one a weight above 0")
    return dict.fromkeys(weights, options.metric), weights


def _parted(units: Sequence[Unit]) -> tuple[list[Unit], list[Unit]]:
    """Return the units for sensitivities and those for comparing plans, both in the order of the data."""
    if len(units) < 2:
        raise CalibrationDataError(
            f"{len(units)} held-out samples are there to choose a plan on, expected at least 2; give more data, or"
            " --allocation uniform"
        )
    counts = list(itertools.accumulate(sample_count(unit.feed) for unit in units))
    most = min(_MOST_SENSING, counts[-1] * _SENSING_SHARE)
    first = max(1, sum(count <= most for count in counts))
    rest = units[first:]
    last = max(1, sum(count - counts[first - 1] <= _MOST_COMPARING for count in counts[first:]))
    return list(units[:first]), list(rest[:last])


def _rounds(units: Sequence[Unit]) -> Iterator[list[Feed]]:
    """Yield the samples of each round, as one batch where they may be joined."""
    chunk: list[Unit] = []
    for unit in units:
        chunk.append(unit)
        if sum(sample_count(part.feed) for part in chunk) >= ROUND_SAMPLES:
            yield list(batched(chunk, ROUND_SAMPLES))
            chunk = []
    if chunk:
        yield list(batched(chunk, ROUND_SAMPLES))
