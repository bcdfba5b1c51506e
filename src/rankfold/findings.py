"""What a run found out: sizes, errors and times, site by site and output by output; frozen values to report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rankfold.budgets import Answer, Evaluation, Tried
from rankfold.projections import Losses, Projection
from rankfold.values import Form, RankPlan, Skipped


@dataclass(frozen=True)
class OutputDiscrepancy:
    """How far one output of the candidate is from the original's, over all held-out elements.

    Attributes:
        relative_l2: ‖candidate - original‖ / ‖original‖.
        cosine: Cosine of the angle between the two, all elements as one vector.
        max_abs, mean_abs: Absolute error, in the output's own unit.
        max_rel, mean_rel: Absolute error over the original's magnitude, element by element.
        top1_agreement: Share of rows whose largest value stands at the same place; None unless it looks like logits.
        passing_atol: The absolute tolerance (relative 0) with which Polygraphy's comparison passes.
    """

    name: str
    relative_l2: float
    cosine: float
    max_abs: float
    mean_abs: float
    max_rel: float
    mean_rel: float
    top1_agreement: float | None
    passing_atol: float


@dataclass(frozen=True)
class Discrepancy:
    """The comparison of two models over `samples` samples, output by output."""

    samples: int
    outputs: tuple[OutputDiscrepancy, ...]


@dataclass(frozen=True)
class Latency:
    """Times of one batch for the original and the candidate, interleaved in one process, in milliseconds.

    Attributes:
        before_ms, after_ms: Medians.
        before_spread_ms, after_spread_ms: First and third quartiles.
        speedup: Median over rounds of original time / candidate time.
        note: How the models were run, where it was not the usual way.
    """

    provider: str
    batch: int
    before_ms: float
    after_ms: float
    before_spread_ms: tuple[float, float]
    after_spread_ms: tuple[float, float]
    speedup: float
    rounds: int
    note: str | None = None


@dataclass(frozen=True)
class SiteSummary:
    """One foldable site as it stands.

    Attributes:
        uses: Nodes that share the weight.
        break_even_rank: The largest rank at which two factors hold fewer parameters than the weight.
        numerical_rank: Directions of the output above the rounding of the sums; None without data.
        energy_ranks: Share of output energy to the fewest directions that hold it; empty without data.
        rows: Calibration rows seen; 0 without data.
        blocks: How many matrices of that shape are stacked.
    """

    name: str
    op_type: str
    in_features: int
    out_features: int
    uses: int
    break_even_rank: int
    numerical_rank: int | None
    energy_ranks: dict[float, int]
    rows: int
    blocks: int = 1


@dataclass(frozen=True)
class Analysis:
    """What a model holds that can be folded, and what not.

    Attributes:
        folded_before: Pairs an earlier run made.
        foldable_parameters: Parameters of all distinct foldable weights of the original model.
        inlined: Local functions that have to be put in line for it.
    """

    model_digest: str
    sites: tuple[SiteSummary, ...]
    skipped: tuple[Skipped, ...]
    folded_before: int
    foldable_parameters: int
    warnings: tuple[str, ...] = field(default=())
    inlined: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class SiteOutcome:
    """What became of one site.

    Attributes:
        predicted_error: Lost share of output energy on the calibration rows.
        measured_error: The same on held-out rows, through the original's activations.
        damping: λ that was added to the second moment of the input; 0 where rows sufficed.
        rows: Calibration rows the basis stands on.
        centred: True where the mean was taken out and the bias corrected.
        blocks: How many matrices of that shape are stacked.
        form: How the matrix of that rank is stored.
        projection: The directions that projections keep, or would where the site stays dense; None without such.
        losses: What they lose on the calibration rows, each alone and both.
    """

    name: str
    op_type: str
    in_features: int
    out_features: int
    rank: int | None
    parameters_before: int
    parameters_after: int
    predicted_error: float
    measured_error: float
    damping: float
    rows: int
    centred: bool
    blocks: int = 1
    form: Form = "pair"
    projection: Projection | None = None
    losses: Losses | None = None


@dataclass(frozen=True)
class Size:
    """A count before and after."""

    before: int
    after: int


@dataclass(frozen=True)
class HealStep:
    """One step of healing.

    Attributes:
        name: `refit`, `distill` or `finetune`.
        before, after: Relative L2 of the outputs on the held-out samples that choose, root mean square over outputs.
        kept: Whether the step was kept; it is where the error fell, or in tuning on labels the loss that is tuned.
        notes: What a reader should know of it.
    """

    name: str
    before: float
    after: float
    kept: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Healing:
    """What was healed of a compressed model.

    Attributes:
        steps: In order.
        changed: Names of the initializers that took other values.
        others: Those of them that are no factors.
    """

    steps: tuple[HealStep, ...]
    changed: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True)
class SelfCheck:
    """Relative L2 between the model and itself folded at full rank: on held-out data, and on data never seen.

    Attributes:
        checked, folded: Sites folded at full rank, and sites folded by the plan. Where all of them would take too
            much memory, it is some of every kind.
        pivoted: Of the checked sites that are pivoted, the largest relative L2 on random rows between the pivoted form
            at its own rank and the matrix it stands for, in units of what its pivots amplify rounding by; None where
            no site is pivoted.
    """

    held_out: float
    unseen: float
    tolerance: float
    checked: int
    folded: int
    pivoted: float | None = None

    @property
    def largest(self) -> float:
        """Return the largest of what has to be within the tolerance."""
        return max(self.held_out, self.unseen, self.pivoted or 0.0)


@dataclass(frozen=True)
class Report:
    """Everything measured of one compression; `tools` turns it into JSON and Markdown."""

    source: Path
    output: Path
    source_digest: str
    output_digest: str
    versions: dict[str, str]
    settings: dict[str, str | int | float | bool | None]
    changed: bool
    plan: RankPlan
    linear_parameters: Size
    parameters: Size
    size_bytes: Size
    calibration_samples: int
    held_out_samples: int
    discrepancy: Discrepancy
    self_check: SelfCheck | None
    latency: tuple[Latency, ...]
    sites: tuple[SiteOutcome, ...]
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...] = field(default=())
    inlined: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())
    tried: tuple[Tried, ...] = field(default=())
    answer: Answer | None = None
    evaluation: Evaluation | None = None
    healing: Healing | None = None
