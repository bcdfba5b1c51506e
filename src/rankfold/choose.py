"""From a share to keep to a plan: searched on held-out samples, or uniform where there is nothing to search on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rankfold.budgets import Tried
from rankfold.lab import ROUND_SAMPLES, Bench, open_lab
from rankfold.memory import runs_lean
from rankfold.options import Options
from rankfold.passes.allocate import Curve
from rankfold.passes.graph_index import onnx_opset
from rankfold.passes.masked import OLDEST_MASKED_OPSET
from rankfold.passes.model_file import Model
from rankfold.passes.plan import check_reachable, dense_plan, with_choices
from rankfold.passes.site import Site
from rankfold.passes.sites import Scan
from rankfold.passes.spectrum import Spectrum
from rankfold.runtime_calib.feeds import spool_samples
from rankfold.runtime_calib.trials import Run
from rankfold.search import Search, Trial, searched
from rankfold.values import FloatArray, Keep, RankPlan

MOST_ROUNDS = 4  # one where the masks do not fit in memory together, and every plan is a model to write
UNIFORM_BECAUSE = "the ranks are a uniform ratio: "
# Whole plans are tried a few times a round, each on more samples than a weight takes: what is left for the weights.
_WEIGHTS_SHARE = 0.8


@dataclass(frozen=True)
class Study:
    """What a plan is chosen from.

    Attributes:
        model, scan: The original and its sites.
        curves: What can be done with each site, at what it loses on the samples that choose; cost in parameters.
        whole: Gives a site's basis with its vectors.
        choosing: The held-out batches to choose on.
        options: How to search.
        predicted: Site name to what the output loses with all of its energy, by gradients; empty where unknown.
    """

    model: Model
    scan: Scan
    curves: tuple[Curve, ...]
    whole: Callable[[Site], Spectrum]
    choosing: Path
    options: Options
    predicted: Mapping[str, float] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Return how many rounds of weights the samples allowed per site pay for, at least one."""
        sites = len(self.curves)
        affordable = _WEIGHTS_SHARE * self.options.forwards * sites / (ROUND_SAMPLES * (sites + 1))
        return max(1, min(MOST_ROUNDS, int(affordable)))


def hindrance(model: Model, choosing: Path) -> str | None:
    """Return why plans cannot be tried, or None."""
    opset = onnx_opset(model.proto)
    if opset < OLDEST_MASKED_OPSET:
        return (
            f"{UNIFORM_BECAUSE}trying plans takes opset {OLDEST_MASKED_OPSET} or newer, and the model uses {opset};"
            " export it for a newer one"
        )
    if spool_samples(choosing) >= 2:
        return None
    return (
        f"{UNIFORM_BECAUSE}there are too few held-out samples to choose a plan on; give more data, or a larger"
        " --holdout"
    )


def search_rounds(study: Study, search: Search) -> int:
    """Return how many rounds may be made: one where every plan has to be written as a model of its own."""
    return study.rounds if search.lab.standing else 1


def announced(study: Study, plans: int, rounds: int, comparing: int) -> None:
    """Say in advance how many samples a search runs at most."""
    sites = len(study.curves)
    samples = rounds * ROUND_SAMPLES * (sites + 1) + plans * comparing
    for _ in study.options.progress((), f"searching plans: about {samples:,} samples are run at most", None):
        pass


@contextmanager
def open_search(study: Study, plan: RankPlan) -> Iterator[Search]:
    """Yield a search on the samples that choose; the plan is the one that folds nothing."""
    run = Run(study.options.provider, runs_lean(study.model, study.options))
    bench = Bench(study.model, study.scan, plan, study.whole, run)
    with open_lab(bench, choosing=study.choosing, options=study.options) as lab:
        yield Search(lab, study.curves, weights=dict(study.predicted), watch=study.options.progress)


def keep_searched(study: Study, budget: Keep) -> tuple[RankPlan, tuple[Tried, ...]]:
    """Return the best plan found that keeps a share of the parameters, and what was tried.

    Raises:
        PlanError: The share cannot be reached.
    """
    empty = dense_plan(study.scan, f"keep {budget.share:g}", model_digest=study.model.digest)
    allowed = budget.share * empty.parameters_before
    if empty.parameters_after <= allowed:
        return empty, ()
    check_reachable(empty, study.curves, budget.share)
    with open_search(study, empty) as search:
        rounds = search_rounds(study, search)
        announced(study, 4 + 2 * rounds, rounds, search.lab.comparing.samples)
        best = searched(search, allowed - empty.fixed_parameters, rounds=rounds)
        return with_choices(empty, best.plan), told(search, empty, best)


def told(search: Search, empty: RankPlan, best: Trial) -> tuple[Tried, ...]:
    """Return the trials as a report gives them."""
    return tuple(
        Tried(
            name=trial.name,
            kept=with_choices(empty, trial.plan).kept,
            loss=search.lab.reading(trial.loss),
            chosen=trial is best,
        )
        for trial in search.trials
    )


def with_tails(curves: Sequence[Curve], tails: Mapping[str, FloatArray]) -> tuple[Curve, ...]:
    """Return curves with other errors: what each rank 0..k of a site loses, by its name."""
    return tuple(
        replace(
            curve,
            choices=tuple(
                choice if choice.rank is None else replace(choice, error=float(tails[curve.site][choice.rank]))
                for choice in curve.choices
            ),
        )
        for curve in curves
    )
