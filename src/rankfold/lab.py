"""Trying rank plans on held-out samples: one session with masks, and what each plan loses there."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankfold.errors import CalibrationDataError, OptionsError
from rankfold.options import Options
from rankfold.passes.allocate import Choice
from rankfold.passes.masked import Mask, full_rank_bytes, masked
from rankfold.passes.model_file import Model, input_specs, numeric_outputs
from rankfold.passes.plan import with_choices
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.passes.write_model import write_referring
from rankfold.runtime_calib.distance import Losses, Metric
from rankfold.runtime_calib.feeds import Unit, batched, open_source, sample_count
from rankfold.runtime_calib.sessions import run_outputs
from rankfold.runtime_calib.trials import Outputs, Rows, Run, Session, open_trial, reference_rows, seen_from, tried
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
class Stand:
    """A session in which some sites have masks; the others are as one plan has them.

    Attributes:
        session: Of the model with masks.
        masks: Site name to mask.
    """

    session: Session
    masks: Mapping[str, Mask]

    def masks_of(self, plan: Plan) -> Feed:
        """Return the inputs that set the masks to a plan."""
        return {mask.name: mask.of_rank(plan[site].rank) for site, mask in self.masks.items()}

    def losses(self, plan: Plan, rows: Rows) -> dict[str, Losses]:
        """Return what a plan loses of each output, sample by sample."""
        return tried(self.session, rows, self.masks_of(plan))

    def seen_from(self, plan: Plan, rows: Rows) -> Rows:
        """Return the rows with the plan's own outputs in the place of the original's, to be judged by."""
        return seen_from(self.session, rows, self.masks_of(plan))


@dataclass(frozen=True)
class Bench:
    """What masked models are made of.

    Attributes:
        model, scan: The original and its sites.
        dense: The plan that folds nothing.
        whole: Gives a site's basis with its vectors.
        run: How models are run.
    """

    model: Model
    scan: Scan
    dense: RankPlan
    whole: Callable[[Site], Spectrum]
    run: Run

    @contextmanager
    def stand(self, plan: Plan, sites: Collection[str]) -> Iterator[Stand]:
        """Yield a session with masks for some sites, and the others as a plan has them."""
        made = masked(self.model, self.scan, with_choices(self.dense, plan), self.whole, sites=sites)
        if made is None:
            yield Stand(open_trial(self.model.path, run=self.run), {})
            return
        with tempfile.TemporaryDirectory(prefix="rankfold-") as folder:
            path = Path(folder) / "masked.onnx"
            write_referring(made.rewritten, self.model, path)
            session = open_trial(path, run=self.run, weights_folder=self.model.path.resolve().parent)
            yield Stand(session, made.masks)


@dataclass(frozen=True)
class Lab:
    """What plans are tried with.

    Attributes:
        bench: Makes masked models.
        groups: Sites that have masks together: all of them where the memory allows it.
        standing: The session with masks for all, if there is one.
        sensing: Samples for sensitivities, a few for each round.
        comparing: Other samples, by which whole plans are compared.
        weights: Output name to its weight in the judgement.
    """

    bench: Bench
    groups: tuple[tuple[str, ...], ...]
    standing: Stand | None
    sensing: tuple[Rows, ...]
    comparing: Rows
    weights: Mapping[str, float]

    @contextmanager
    def stand(self, plan: Plan, sites: Collection[str] = ()) -> Iterator[Stand]:
        """Yield a session with masks for these sites at least; the others are as the plan has them."""
        if self.standing is not None:
            yield self.standing
            return
        with self.bench.stand(plan, sites) as stand:
            yield stand

    def losses(self, plan: Plan, rows: Rows) -> dict[str, Losses]:
        """Return what a plan loses of each output, sample by sample."""
        with self.stand(plan) as stand:
            return stand.losses(plan, rows)

    def loss(self, plan: Plan, rows: Rows) -> float:
        """Return what a plan loses in all."""
        return self.weighed(self.losses(plan, rows))

    def weighed(self, losses: Mapping[str, Losses]) -> float:
        """Return losses as one number, the outputs by their weights: of one relative L2 its square."""
        return sum(self.weights[name] * found.mean for name, found in losses.items()) / sum(self.weights.values())

    def outputs(self, plan: Plan, feed: Feed) -> Outputs:
        """Return all outputs that a plan makes of a batch."""
        with self.stand(plan) as stand:
            return run_outputs(stand.session, feed | stand.masks_of(plan))

    def reading(self, loss: float) -> float:
        """Return a loss as people read it: a relative L2, not its square."""
        return float(np.sqrt(loss)) if set(self.comparing.metrics.values()) == {"relative_l2"} else loss


@contextmanager
def open_lab(bench: Bench, *, choosing: Path, options: Options) -> Iterator[Lab]:
    """Yield a lab on the held-out samples that choose.

    Args:
        bench: Makes masked models.
        choosing: The held-out batches to choose on.
        options: Metric, weights, outputs, mask, batch size and memory.

    Raises:
        CalibrationDataError: There are fewer than two samples to choose on.
        OptionsError: A weight names no output.
    """
    model = bench.model
    metrics, weights = _judgement(options.outputs or numeric_outputs(model), options)
    sensing, comparing = _parted(list(open_source(choosing, input_specs(model)).units))
    *first, last = (
        reference_rows(model.given.path, feeds, metrics=metrics, padding=options.mask, run=bench.run)
        for feeds in (*_rounds(sensing), list(batched(comparing, options.batch_size)))
    )
    groups = mask_groups(bench.scan, options.memory_bytes)
    with ExitStack() as stack:
        dense = {line.site: Choice(None, line.dense_parameters, 0.0) for line in bench.dense.sites}
        standing = stack.enter_context(bench.stand(dense, groups[0])) if len(groups) == 1 else None
        yield Lab(bench, groups, standing, tuple(first), last, weights)


def mask_groups(scan: Scan, memory_bytes: int) -> tuple[tuple[str, ...], ...]:
    """Return the sites in groups whose factors at full rank fit in the memory twice: in the file and in the session."""
    groups: list[list[str]] = [[]]
    used = 0
    for site in scan.sites:
        needed = 2 * full_rank_bytes(site)
        if groups[-1] and used + needed > memory_bytes:
            groups.append([])
            used = 0
        groups[-1].append(site.name)
        used += needed
    return tuple(map(tuple, groups))


def _judgement(outputs: tuple[str, ...], options: Options) -> tuple[dict[str, Metric], dict[str, float]]:
    unknown = [name for name in options.weights if name not in outputs]
    if unknown:
        raise OptionsError(
            f"a weight is given for {unknown[0]!r}, which is no output that is compared; those are {', '.join(outputs)}"
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
