"""What a caller may set of any stage, and the progress a stage reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from rankfold.values import Provider

Item = TypeVar("Item")


class Progress(Protocol):
    """Wraps an iterable that takes long; it must yield the same items."""

    def __call__(self, items: Iterable[Item], description: str, total: int | None) -> Iterable[Item]:
        """Return the items, watched; `total` is None where their number is not known."""
        ...


def silent(items: Iterable[Item], description: str, total: int | None) -> Iterable[Item]:  # noqa: ARG001
    """Return the items as they are."""
    return items


@dataclass(frozen=True)
class Options:
    """Settings that the stages share; each reads those that concern it.

    Attributes:
        batch_size: Samples per run where the model's batch axis is dynamic.
        holdout: Share of the samples that only report, in (0, 1).
        seed: Of the split, of the row offsets and of the self-check.
        mask: Input of shape (batch, tokens), zero where a token is padding: its rows do not count.
        provider: `cpu` or `cuda`; asked for and not there is an error.
        include: Shell-style patterns of node names, operators or weight names; given any, only what they match is
            folded, and only that counts in a share.
        exclude: Such patterns of what to leave alone; it counts in every share.
        outputs: Outputs to compare; empty for all.
        row_stride: Every how many rows one is summed; None chooses by the number of rows there are.
        latency_rounds: Timed rounds per batch size; 0 leaves timing out.
        held_out_to: Where to keep the held-out batches; None drops them.
        progress: Watches the long loops.
    """

    batch_size: int = 8
    holdout: float = 0.2
    seed: int = 0
    mask: str | None = None
    provider: Provider = "cpu"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    row_stride: int | None = None
    latency_rounds: int = 20
    held_out_to: Path | None = None
    progress: Progress = silent
