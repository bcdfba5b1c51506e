"""What a caller may set of any stage, and the progress a stage reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from rankfold.values import Provider

Item = TypeVar("Item")

DEFAULT_MEMORY_BYTES = 1 << 30


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
        exclude: Shell-style patterns of node names to leave alone.
        outputs: Outputs to compare; empty for all.
        row_stride: Every how many rows one is summed; None chooses by the number of rows there are.
        latency_rounds: Timed rounds per batch size; 0 leaves timing out.
        memory_bytes: What may be held at a time of sums, and of vectors; what does not fit is collected in several
            sweeps over the data, kept on disk, or computed again. Weights of more bytes are run without the copies
            that onnxruntime makes of them. One layer's own arithmetic comes on top.
        checkpoint: Folder to keep a long calibration in, so that the same call goes on from there after a kill; it
            is removed at the end. None keeps nothing.
        held_out_to: Where to keep the held-out batches; None drops them.
        progress: Watches the long loops.
    """

    batch_size: int = 8
    holdout: float = 0.2
    seed: int = 0
    mask: str | None = None
    provider: Provider = "cpu"
    exclude: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    row_stride: int | None = None
    latency_rounds: int = 20
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    checkpoint: Path | None = None
    held_out_to: Path | None = None
    progress: Progress = silent
