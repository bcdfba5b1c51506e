"""What a model's outputs make of small errors inside it: second moments of gradients, tensor by tensor.

With `f` all outputs, each scaled to energy 1, and `u` standard normal, `E[g gᵀ]` of `g = ∂(u · f)/∂z` is the block of
`Jᵀ J` that belongs to `z`: an error `e` in one row of `z` changes the outputs by `eᵀ E[g gᵀ] e` in the mean, as a share
of their energy (the Gauss-Newton approximation; independent rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankfold.training.executor import GraphModule
from rankfold.training.judging import without_padding
from rankfold.training.tensors import from_array
from rankfold.training.widened import widened_array

Array = NDArray[np.generic]
FloatArray = NDArray[np.float64]
_TINY = 1e-30


@dataclass(frozen=True)
class Watched:
    """A tensor whose gradient's moment is summed.

    Attributes:
        tensor: Its name; the module gives it out.
        axis: Where its features lie.
        scale: What its rows were multiplied by since `z`.
        rows: Orthonormal columns (features, k) in whose coordinates the moment is given; None for the features' own.
    """

    tensor: str
    axis: int
    scale: float = 1.0
    rows: Array | None = None


@dataclass(frozen=True)
class Probing:
    """How gradients are drawn.

    Attributes:
        weights: Output name to what it counts; one of whole numbers has no gradient.
        seed: Of the directions `u`.
        probes: Directions drawn per batch.
        padding: Input (samples, tokens) whose zeros say which rows do not count; None where all do.
        threads: What torch may take; None leaves it as it is.
    """

    weights: Mapping[str, float]
    seed: int = 0
    probes: int = 1
    padding: str | None = None
    threads: int | None = None


def gradient_moments(
    module: GraphModule, feeds: Iterable[Mapping[str, Array]], watched: Sequence[Watched], probing: Probing
) -> list[FloatArray]:
    """Return each tensor's `E[g gᵀ]` summed over a sample's rows, (k, k); zeros where no output depends on it.

    Args:
        module: Gives all outputs and the watched tensors, and has parameters that these depend on.
        feeds: Batches; the fewer samples in one, the less memory is taken.
        watched: The tensors.
        probing: How gradients are drawn.
    """
    if probing.threads is not None:
        torch.set_num_threads(probing.threads)
    random = torch.Generator().manual_seed(probing.seed)
    sums = [torch.zeros(()) for _ in watched]
    samples = sum(_add(module, feed, watched, probing, (random, sums)) for feed in feeds)
    return [_square(total, part) / max(samples * probing.probes, 1) for total, part in zip(sums, watched, strict=True)]


def _add(
    module: GraphModule,
    feed: Mapping[str, Array],
    watched: Sequence[Watched],
    probing: Probing,
    drawn: tuple[torch.Generator, list[Tensor]],
) -> int:
    """Add what one batch gives to the sums and return its samples; nothing of the batch is held beyond the call."""
    random, sums = drawn
    placed = {name: from_array(widened_array(array)) for name, array in feed.items()}
    counted = None if probing.padding is None else placed[probing.padding] != 0
    values = module(placed)
    for gradients in _gradients(values, counted, watched, probing, random):
        for place, gradient in enumerate(gradients):
            if gradient is not None:
                sums[place] = sums[place] + _moment(gradient, watched[place], counted)
    return _samples(values, probing)


def _samples(values: Mapping[str, Tensor], probing: Probing) -> int:
    shape = values[next(iter(probing.weights))].shape
    return shape[0] if shape else 1


def _gradients(
    values: Mapping[str, Tensor],
    counted: Tensor | None,
    watched: Sequence[Watched],
    probing: Probing,
    random: torch.Generator,
) -> Iterator[tuple[Tensor | None, ...]]:
    """Yield the gradients of each probe; what the outputs do not reach, and what no parameter reaches, has none."""
    real = {name: values[name] for name in probing.weights if values[name].is_floating_point()}
    outputs = without_padding(real, counted)
    tensors = [values[part.tensor] for part in watched]
    reached = [place for place, tensor in enumerate(tensors) if tensor.requires_grad]
    for number in range(probing.probes):
        parts = []
        for name, output in outputs.items():
            weight = probing.weights[name]
            size = output.detach().square().sum().clamp_min(_TINY) / max(len(output) if output.ndim else 1, 1)
            drawn = torch.randn(output.shape, generator=random, dtype=output.dtype)
            parts.append((output * drawn).sum() * (weight / size) ** 0.5)
        total = torch.stack(parts).sum() if parts else torch.zeros(())
        if not total.requires_grad:
            return
        again = number + 1 < probing.probes
        found = torch.autograd.grad(total, [tensors[place] for place in reached], retain_graph=again, allow_unused=True)
        gradients: list[Tensor | None] = [None] * len(tensors)
        for place, gradient in zip(reached, found, strict=True):
            gradients[place] = gradient
        yield tuple(gradients)


def _moment(gradient: Tensor, watched: Watched, counted: Tensor | None) -> Tensor:
    turned = gradient.movedim(watched.axis, -1)
    if counted is not None and turned.shape[:-1] == counted.shape:
        turned = turned[counted]
    rows = turned.reshape(-1, turned.shape[-1]) * watched.scale
    if watched.rows is not None:
        rows = rows @ from_array(watched.rows).to(rows.dtype)
    return rows.T @ rows


def _square(total: Tensor, watched: Watched) -> FloatArray:
    """Return a sum as an array, zeros where nothing was added."""
    if total.ndim:
        return np.asarray(total.double().numpy())
    size = 0 if watched.rows is None else watched.rows.shape[1]
    return np.zeros((size, size))
