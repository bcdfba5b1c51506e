"""What a caller may set of any stage, and the progress a stage reports."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, SupportsIndex, TypeVar, get_args

from rankfold.errors import OptionsError
from rankfold.runtime_calib.distance import METRICS, Metric
from rankfold.values import Provider

Item = TypeVar("Item")
Allocation = Literal["searched", "uniform"]
Basis = Literal["auto", "loss", "data"]

HEALINGS = ("none", "refit", "distill", "finetune")
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
        include: Shell-style patterns of node names, operators or weight names; given any, only what they match is
            folded, and only that counts in a share.
        exclude: Such patterns of what to leave alone; it counts in every share.
        outputs: Outputs to compare; empty for all.
        row_stride: Every how many rows one is summed; None chooses by the number of rows there are.
        latency_rounds: Timed rounds per batch size; 0 leaves timing out.
        memory_bytes: What may be held at a time of sums, and of vectors; what does not fit is collected in several
            sweeps over the data, kept on disk, or computed again. Weights of more bytes are run without the copies
            that onnxruntime makes of them. One layer's own arithmetic comes on top.
        checkpoint: Folder to keep a long calibration in, so that the same call goes on from there after a kill; it
            is removed at the end. None keeps nothing.
        allocation: How `keep` and the targets share ranks among layers: `searched` tries plans on held-out samples,
            `uniform` gives all layers the same ratio and runs nothing.
        basis: What an error in a layer's output counts by: `loss`: by what the model's output makes of it, which takes
            torch; `data`: by its size alone; `auto`: by the loss where gradients can be taken, else by the data.
        metric: How outputs are judged while searching: `auto` (KL where an output looks like logits, else relative
            L2), `relative_l2`, `kl`, `cosine`, or a function of the original's output and the candidate's, (samples,
            ...) each, that gives a loss per sample.
        weights: Output name to its weight in that judgement; those it leaves out weigh 1, and 0 leaves one out.
        forwards: Samples that a search runs per layer at most.
        centred: Whether utilized rank is of variances about the mean; else about zero.
        heal: What `compress` does to the result: `none`, `refit`, `distill` or `finetune`, as `heal` does.
        heal_passes: Over the data while training, at most.
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
    memory_bytes: int = DEFAULT_MEMORY_BYTES
    checkpoint: Path | None = None
    allocation: Allocation = "searched"
    basis: Basis = "auto"
    metric: Metric = "auto"
    weights: Mapping[str, float] = field(default_factory=dict)
    forwards: int = 100
    centred: bool = True
    heal: Literal["none", "refit", "distill", "finetune"] = "none"
    heal_passes: int = 4
    held_out_to: Path | None = None
    progress: Progress = silent


def check_options(options: Options) -> None:
    """Check the settings by themselves, before any work.

    Raises:
        OptionsError: One makes no sense.
    """
    counts = {"batch_size": 1, "seed": 0, "latency_rounds": 0, "forwards": 1, "row_stride": 1, "heal_passes": 1}
    for name, least in counts.items():
        value = getattr(options, name)
        if not (name == "row_stride" and value is None) and not _is_count(value, least):
            raise _senseless(name, value, f"a whole number from {least} on")
    if not is_number(options.holdout) or not 0 < options.holdout < 1:
        raise _senseless("holdout", options.holdout, "a number above 0 and below 1, such as 0.2")
    named = {"provider": Provider, "allocation": Allocation, "basis": Basis}
    for name, allowed in {**{name: get_args(kind) for name, kind in named.items()}, "heal": HEALINGS}.items():
        if getattr(options, name) not in allowed:
            raise _senseless(name, getattr(options, name), " or ".join(map(repr, allowed)))
    for name in ("include", "exclude", "outputs"):
        value = getattr(options, name)
        if not isinstance(value, tuple | list) or not all(isinstance(part, str) for part in value):
            raise _senseless(name, value, "a tuple of texts, such as ('fc1',)")
    if options.mask is not None and not isinstance(options.mask, str):
        raise _senseless("mask", options.mask, "the name of a model input")
    if options.held_out_to is not None and not isinstance(options.held_out_to, Path):
        raise _senseless("held_out_to", options.held_out_to, "a pathlib.Path")
    _check_judgement(options)


def _check_judgement(options: Options) -> None:
    if not callable(options.metric) and options.metric not in METRICS:
        raise _senseless("metric", options.metric, f"{', '.join(map(repr, METRICS))} or a function")
    if not all(is_number(weight) and 0 <= weight < math.inf for weight in options.weights.values()):
        raise _senseless("weights", options.weights, "output names with numbers of 0 or more")


def is_number(value: object) -> bool:
    """Return whether a value is a real number, numpy's included; True and False are none here."""
    return hasattr(value, "__float__") and hasattr(value, "__le__") and not isinstance(value, bool)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool) and operator.index(value) >= least


def _senseless(name: str, value: object, expected: str) -> OptionsError:
    return OptionsError(f"option {name} is {value!r}; expected {expected}")
