"""What gradients and row weights show of each site, summed over calibration rows in torch.

The gradient is that of `Σ u · f` with `u` standard normal and `f` the model's first output, so that `E[g gᵀ]` is a
site's block of `Jᵀ J`: what a small change of its output does to the model's, by relative L2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.evidence import calibration_batches, counted_rows
from benchmarks.subjects import Subject
from rankfold.passes.model_file import Model, output_names
from rankfold.passes.site import Site, read_bias
from rankfold.passes.sites import Scan
from rankfold.training.executor import build
from rankfold.training.tensors import from_array
from rankfold.values import FloatArray

WAYS = ("even", "by output", "by gradient")
_ROWS_PER_FEATURE = 24  # drawn at random where there are more
_TINY = 1e-30


@dataclass
class RowSums:
    """Weighted sums over the rows of a site's output `z = x W`; they grow with each batch."""

    weight: float = 0.0
    first: FloatArray = field(default_factory=lambda: np.zeros(()))
    second: FloatArray = field(default_factory=lambda: np.zeros(()))

    def add(self, rows: Tensor, weights: Tensor) -> None:
        """Add rows (n, out) with one weight each, (n,)."""
        self.weight += float(weights.sum())
        self.first = self.first + (weights @ rows).double().numpy()
        self.second = self.second + ((rows * weights[:, None]).T @ rows).double().numpy()

    @property
    def mean(self) -> FloatArray:
        """Return the weighted mean, (out,)."""
        return self.first / self.weight

    @property
    def covariance(self) -> FloatArray:
        """Return the second moment about the weighted mean, (out, out)."""
        return self.second / self.weight - np.outer(self.mean, self.mean)


@dataclass
class SiteSums:
    """One site's sums: of its output's rows by each of `WAYS`, of its gradients, and of its input's rows."""

    outputs: dict[str, RowSums] = field(default_factory=lambda: {way: RowSums() for way in WAYS})
    gradient: RowSums = field(default_factory=RowSums)
    inputs: RowSums = field(default_factory=RowSums)


def collect(model: Model, scan: Scan, subject: Subject, *, samples: int) -> dict[str, SiteSums]:
    """Return the sums of every site, over the calibration share of the subject's data.

    Args:
        model, scan: The original and its sites, each with one use whose gradient reaches the output.
        subject: Its data and options.
        samples: How many samples there are, so that rows are drawn evenly from all.
    """
    tensors = list(
        dict.fromkeys(name for site in scan.sites for name in (site.uses[0].activation, site.uses[0].output))
    )
    weights = sorted({site.weight.root for site in scan.sites})
    module = build(onnx.load(model.path), trainable=weights, also=tensors)
    biases = {site.name: _tensor(read_bias(model, scan.index, site, site.uses[0])) for site in scan.sites}
    found = {site.name: SiteSums() for site in scan.sites}
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    for feed in calibration_batches(model, subject.data, subject.options):
        values = module({name: from_array(array) for name, array in feed.items()})
        target = values[output_names(model)[0]]
        outputs = [values[site.uses[0].output] for site in scan.sites]
        gradients = torch.autograd.grad((target * torch.randn_like(target)).sum(), outputs)
        mask = feed.get(subject.options.mask or "")
        share = len(next(iter(feed.values()))) / samples
        for site, output, gradient in zip(scan.sites, outputs, gradients, strict=True):
            read = values[site.uses[0].activation]
            rows = [
                _rows(site, side, array, mask)
                for side, array in (("output", output), ("output", gradient), ("input", read))
            ]
            drawn = _drawn(len(rows[0]), int(_ROWS_PER_FEATURE * site.out_features * share) + 1, random)
            _add(found[site.name], rows[0][drawn] - biases[site.name], rows[1][drawn], rows[2][drawn])
    return found


def _add(sums: SiteSums, outputs: Tensor, gradients: Tensor, inputs: Tensor) -> None:
    ones = torch.ones(len(outputs))
    ways = (ones, 1 / (outputs**2).sum(1).clamp_min(_TINY), (gradients**2).sum(1))
    for way, weights in zip(WAYS, ways, strict=True):
        sums.outputs[way].add(outputs, weights)
    sums.gradient.add(gradients, ones)
    sums.inputs.add(inputs, ones)


def _rows(site: Site, side: str, value: Tensor, mask: NDArray[np.generic] | None) -> Tensor:
    request = site.uses[0].request("input" if side == "input" else "output")
    return _tensor(counted_rows(value.detach().numpy(), request, mask))


def _drawn(rows: int, limit: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(rows) if rows <= limit else np.sort(random.choice(rows, limit, replace=False))


def _tensor(array: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
