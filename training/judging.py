"""How far a trained model is from what it is trained toward, in torch, with gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Criterion = Literal["relative_l2", "kl", "kl_probabilities"]
_TINY = 1e-12  # below the energy of any output that matters, above what divides to infinity in float32


def distance(criterion: Criterion, reference: Tensor, found: Tensor) -> Tensor:
    """Return how far one output is from the original's, 0 where they agree.

    Args:
        criterion: `relative_l2`: the squared distance as a share of the original's square; `kl`: KL(original ‖ found)
            in nats over the last axis of logits, `kl_probabilities` of probabilities.
        reference, found: Of one shape.
    """
    if criterion == "relative_l2":
        return squared_distance(reference, found) / (reference**2).sum().clamp_min(_TINY)
    if criterion == "kl":
        logs = torch.log_softmax(reference, -1), torch.log_softmax(found, -1)
    else:
        logs = reference.clamp_min(_TINY).log(), found.clamp_min(_TINY).log()
    return (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()


def squared_distance(reference: Tensor, found: Tensor) -> Tensor:
    """Return the sum of the squared differences."""
    return ((found - reference) ** 2).sum()


def without_padding(values: Mapping[str, Tensor], counted: Tensor | None) -> dict[str, Tensor]:
    """Return values with zeros at the tokens that do not count; `counted` is (samples, tokens)."""
    if counted is None:
        return dict(values)
    return {
        name: value * counted.reshape(*counted.shape, *(1,) * (value.ndim - 2))
        if value.ndim > 1 and value.shape[:2] == counted.shape
        else value
        for name, value in values.items()
    }


def mean_distance(
    criteria: Mapping[str, Criterion], wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> Tensor:
    """Return the mean distance of several outputs."""
    parts = [distance(criterion, wanted[name], found[name]) for name, criterion in criteria.items()]
    return torch.stack(parts).mean()


def label_loss(scores: Tensor, labels: Tensor, *, probabilities: bool) -> Tensor:
    """Return the cross-entropy of scores (samples, classes) for class numbers (samples,)."""
    logs = scores.clamp_min(_TINY).log() if probabilities else torch.log_softmax(scores, -1)
    return functional.nll_loss(logs, labels)
