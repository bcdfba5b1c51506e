"""Utilized rank: what of a weight its inputs and outputs use, and what is lost by keeping only that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Projection:
    """A weight between two projections, `P_S W P_T`, instead of its best approximation of a rank.

    Attributes:
        inputs, outputs: How many leading directions of the inputs' and of the outputs' variance the two keep.
        centred: Whether that is the variance about the mean, which then passes through the whole weight.
    """

    inputs: int
    outputs: int
    centred: bool

    @property
    def rank(self) -> int:
        """Return the rank of the two factors that hold it."""
        return min(self.inputs, self.outputs)


@dataclass(frozen=True)
class Losses:
    """Shares of the output energy that are lost, in [0, 1]: by `P_S W`, by `W P_T` and by `P_S W P_T` for `W`."""

    inputs: float
    outputs: float
    both: float


@dataclass(frozen=True)
class WeightRanks:
    """How full of rank a weight looks without data.

    Attributes:
        numerical: Singular values above the rounding of the type it is stored in.
        stable: ‖W‖_F² / ‖W‖_2².
        effective: exp(H(σ / Σσ)), the effective or entropy rank.
    """

    numerical: int
    stable: float
    effective: float


@dataclass(frozen=True)
class UtilizedRank:
    """What a weight uses at one share of the variance.

    Attributes:
        share: Of the variance, in (0, 1].
        inputs, outputs: The fewest directions that hold it: `k_S` of the inputs, `k_T` of the outputs.
        rank: The smaller of the two, the utilized rank.
        utilization: That over the smaller side of the weight, in [0, 1].
        losses: Of the calibration rows, by keeping only those directions.
        held_out: The same by both projections on rows that decided nothing.
    """

    share: float
    inputs: int
    outputs: int
    rank: int
    utilization: float
    losses: Losses
    held_out: float


@dataclass(frozen=True)
class SiteUtilization:
    """One weight beside its data.

    Attributes:
        depth: Place of its first node among all nodes, in topological order.
        rows: Calibration rows seen.
        centred: Whether variances are about the mean.
        weight: How full of rank it looks alone.
        shares: What it uses, per share of the variance, as they were asked for.
        weight_spectrum: Squared singular values of the weight over their sum, falling.
        input_spectrum, output_spectrum: Variance of the inputs and of the outputs along their directions over the
            whole, falling; what does not stand above the rounding of the sums is 0.
    """

    name: str
    op_type: str
    in_features: int
    out_features: int
    depth: int
    rows: int
    centred: bool
    weight: WeightRanks
    shares: tuple[UtilizedRank, ...]
    weight_spectrum: tuple[float, ...]
    input_spectrum: tuple[float, ...]
    output_spectrum: tuple[float, ...]
