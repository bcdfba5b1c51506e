"""The values that travel between rankfold's rooms: frozen, with read-only arrays, no behaviour but their own sums.

One matrix convention: a linear site computes `y = x @ W + b` over rows `x`, with `W` of shape
(in_features, out_features). A row is one sample, one token or one spatial position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankfold.budgets import Energy as Energy
from rankfold.budgets import Keep as Keep
from rankfold.projections import Projection as Projection
from rankfold.windows import Window

FloatArray = NDArray[np.float64]
Feed = dict[str, NDArray[np.generic]]
"""One batch: input name to array."""

FeatureAxis = Literal[-1, -2, 1]
Provider = Literal["cpu", "cuda"]
Form = Literal["pair", "pivoted"]


def folded_parameters(in_features: int, out_features: int, rank: int, form: Form) -> int:
    """Return the elements of both factors; in the pivoted form rank² of them are the identity, and not stored."""
    return rank * (in_features + out_features - (rank if form == "pivoted" else 0))


def read_only(array: FloatArray) -> FloatArray:
    """Return the array itself, closed for writing."""
    array.setflags(write=False)
    return array


@dataclass(frozen=True)
class InputSpec:
    """One model input: its numpy dtype name and its axes, an int where fixed and a name (or None) where dynamic."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Request:
    """Ask for the second moment and mean of the rows of a tensor.

    Attributes:
        tensor: Its name.
        feature_axis: Where its features lie; 1 for the channels of a convolution.
        block: Of a stack of matrices along the axis before the last two, the one that is meant; None for all rows.
        window: Of a convolution's input, what the kernel covers; its rows are those, and the axis that of the channels.
    """

    tensor: str
    feature_axis: FeatureAxis = -1
    block: int | None = None
    window: Window | None = None


@dataclass(frozen=True)
class Moments:
    """Sums over rows of d features, in float64.

    Attributes:
        count: Number of rows summed.
        total: Sum of the rows, (d,).
        gram: Sum of the rows' outer products, (d, d).
    """

    count: float
    total: FloatArray
    gram: FloatArray

    def __post_init__(self) -> None:
        read_only(self.total)
        read_only(self.gram)

    @property
    def features(self) -> int:
        """Return d."""
        return len(self.total)

    @property
    def mean(self) -> FloatArray:
        """Return E[x], (d,)."""
        return self.total / self.count

    @property
    def second(self) -> FloatArray:
        """Return E[x xᵀ], (d, d)."""
        return self.gram / self.count

    @property
    def covariance(self) -> FloatArray:
        """Return the population covariance E[x xᵀ] - E[x] E[x]ᵀ, (d, d)."""
        return self.second - np.outer(self.mean, self.mean)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.gram + other.gram)


@dataclass(frozen=True)
class TapNames:
    """Graph outputs of a tapped model that hold one request's sums over one batch.

    Attributes:
        gram, total, count: Of shapes (features, features), (1, features) and (1, 1).
        pilot: The row that was taken off every row first, (features,), in the type the sums are made in.
    """

    gram: str
    total: str
    count: str
    pilot: NDArray[np.floating]


@dataclass(frozen=True)
class Tapped:
    """A model whose graph also sums the rows of chosen tensors.

    Attributes:
        source: The untouched model file.
        addition: Serialized `ModelProto` to be appended to the file's bytes: protobuf merges the two.
        taps: Where each request's sums come out.
        offset_input: Graph input of one int64, the row at which each stride starts (any value of 0 or more).
    """

    source: Path
    addition: bytes
    taps: dict[Request, TapNames]
    offset_input: str


@dataclass(frozen=True)
class Skipped:
    """A node that is left as it is, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Calibration:
    """What one run over the data collected, on the rows that decide and on the rows that only report.

    Attributes:
        model_digest: sha256 of the model it was collected on.
        moments: Sums over the calibration rows.
        held_out: Sums over the held-out rows that decide nothing.
        choosing: Sums over the held-out rows that something is chosen on; empty where nothing is.
        samples, held_out_samples: Samples seen of each.
        row_strides: Every how many rows one was summed, per request.
        settings: Batch size, seed and the like, for the report.
    """

    model_digest: str
    moments: dict[Request, Moments]
    held_out: dict[Request, Moments]
    samples: int
    held_out_samples: int
    row_strides: dict[Request, int]
    settings: dict[str, str | int | float | bool | None]
    choosing: dict[Request, Moments] = field(default_factory=dict)


@dataclass(frozen=True)
class SiteRank:
    """One line of a rank plan: `rank` None keeps the site dense.

    Attributes:
        predicted_error: Share of the site's output energy lost on the calibration rows, in [0, 1].
        blocks: How many matrices of that shape are stacked; they have one rank.
        form: How the matrix of that rank is stored.
        projection: What gives the rank, where that is no best approximation.
    """

    site: str
    in_features: int
    out_features: int
    rank: int | None
    predicted_error: float
    blocks: int = 1
    form: Form = "pair"
    projection: Projection | None = None

    @property
    def dense_parameters(self) -> int:
        """Return the weight's parameters before."""
        return self.blocks * self.in_features * self.out_features

    @property
    def parameters(self) -> int:
        """Return the parameters that the site keeps."""
        if self.rank is None:
            return self.dense_parameters
        return self.blocks * folded_parameters(self.in_features, self.out_features, self.rank, self.form)


@dataclass(frozen=True)
class RankPlan:
    """Which rank every site gets.

    Attributes:
        model_digest: sha256 of the model the plan was made for.
        made_by: The request it answers, such as `keep 0.5`.
        fixed_parameters: Parameters of foldable weights the plan may not touch (excluded, or folded before), as now.
        fixed_dense_parameters: The same, as in the original model.
        sites: One line per site, in graph order.
    """

    model_digest: str
    made_by: str
    fixed_parameters: int
    fixed_dense_parameters: int
    sites: tuple[SiteRank, ...]

    @property
    def parameters_before(self) -> int:
        """Return the parameters of all distinct foldable weights of the original model."""
        return self.fixed_dense_parameters + sum(line.dense_parameters for line in self.sites)

    @property
    def parameters_after(self) -> int:
        """Return what the plan keeps of them."""
        return self.fixed_parameters + sum(line.parameters for line in self.sites)

    @property
    def kept(self) -> float:
        """Return the kept share, in (0, 1]; 1 for a model without foldable weights."""
        return self.parameters_after / self.parameters_before if self.parameters_before else 1.0

    @property
    def folded(self) -> tuple[SiteRank, ...]:
        """Return the lines that change something."""
        return tuple(line for line in self.sites if line.rank is not None)
