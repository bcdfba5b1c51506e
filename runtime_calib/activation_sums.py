"""One pass over batches that sums chosen activations, given out of the graph, as rows and by class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from rankfold.runtime_calib.activation_rows import Array, ClassSums, Pooling, RowSums, Truth, position_rows, sample_rows
from rankfold.runtime_calib.sessions import open_session, run_outputs
from rankfold.values import Feed, Provider

Batch = tuple[Feed, NDArray[np.intp] | None]
"""Inputs of some samples, and the place of each sample's class; None without labels."""


@dataclass(frozen=True)
class RowSetting:
    """How one activation is summed.

    Attributes:
        tensor: Its name.
        feature_axis: Where its features lie.
        features: Values of a row.
        masked: Whether its rows follow the mask: `rows` in its order, `turned` with the tokens first, "" not.
        stride: Every how many rows one is taken, where each position is a row.
        by_class: Whether axis 0 counts samples, so that they can be told by class.
    """

    tensor: str
    feature_axis: int
    features: int
    masked: Literal["", "rows", "turned"] = ""
    stride: int = 1
    by_class: bool = False


@dataclass(frozen=True)
class Summing:
    """What all activations have in common.

    Attributes:
        pooling: `none` makes a row of every position, the others one of every sample.
        mask: Model input that is 0 where a position is padding.
        classes: How many classes the labels have; 0 without labels.
        seed: Of the strides' offsets.
    """

    pooling: Pooling = "none"
    mask: str | None = None
    classes: int = 0
    seed: int = 0

    @property
    def by_sample(self) -> Pooling:
        """Return how a sample becomes one row: as asked for, else by the mean of its positions."""
        return "flatten" if self.pooling == "flatten" else "mean"


@dataclass
class ActivationSums:
    """Sums of one activation, changed in place; `fault` is why there are none."""

    rows: RowSums
    classes: ClassSums | None
    fault: str | None = None


def open_exposed(
    model: Path, tensors: Sequence[str], *, exposed: Sequence[str], provider: Provider = "cpu", lean: bool = False
) -> onnxruntime.InferenceSession:
    """Return a session that also gives out tensors of the main graph; `exposed` are outputs already.

    Raises:
        ModelError: onnxruntime refuses the model, or cannot give out one of the tensors.
    """
    addition = onnx.ModelProto()
    addition.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in exposed)
    return open_session(model, provider=provider, addition=addition.SerializeToString(), lean=lean)


def activations_of(session: onnxruntime.InferenceSession, feed: Feed, tensors: Sequence[str]) -> dict[str, Array]:
    """Return what tensors hold for one batch, inputs among them; what is no array is left out.

    Raises:
        CalibrationDataError: The batch cannot be run.
    """
    made = [name for name in tensors if name not in feed]
    found = run_outputs(session, feed, outputs=made) if made else {}
    given = {name: feed[name] for name in tensors if name in feed}
    return given | {name: array for name, array in found.items() if isinstance(array, np.ndarray)}


def sum_activations(
    session: onnxruntime.InferenceSession,
    batches: Iterable[Batch],
    settings: Sequence[RowSetting],
    *,
    summing: Summing,
) -> dict[str, ActivationSums]:
    """Return the sums of activations over batches, by tensor name; one that holds NaN or infinity has a fault.

    Raises:
        CalibrationDataError: A batch cannot be run.
    """
    sums = {
        setting.tensor: ActivationSums(RowSums(), _by_class(setting, summing) if summing.classes else None)
        for setting in settings
    }
    for number, (feed, places) in enumerate(batches):
        wanted = [setting for setting in settings if sums[setting.tensor].fault is None]
        found = activations_of(session, feed, [setting.tensor for setting in wanted])
        start = int(np.random.default_rng((summing.seed, number)).integers(1 << 31))
        mask = None if summing.mask is None else np.asarray(feed[summing.mask]) != 0
        for setting in wanted:
            _add(sums[setting.tensor], setting, found, (mask, places, start), summing)
    return sums


def _by_class(setting: RowSetting, summing: Summing) -> ClassSums | None:
    return ClassSums.empty(summing.classes) if setting.by_class else None


def _add(
    sums: ActivationSums,
    setting: RowSetting,
    found: Mapping[str, Array],
    beside: tuple[Truth | None, NDArray[np.intp] | None, int],
    summing: Summing,
) -> None:
    """Add one activation of one batch; `beside` are the mask, the samples' classes and a random offset."""
    mask, places, start = beside
    array = found[setting.tensor]
    if not array.size:  # such as what a Compress leaves of a batch: no rows
        return
    if array.ndim < 2:
        sums.fault = f"its shape is {array.shape} in one batch, and rows of features take two axes or more"
        return
    counted = _counted(setting, mask)
    if counted is not None and counted.size * array.shape[setting.feature_axis] != array.size:
        sums.fault = "its rows follow the mask in some batches only"
        return
    for every, there in _rows(setting, array, counted, summing):
        rows = every[start % setting.stride :: setting.stride] if there is None else every
        if rows.shape[1] != setting.features:
            sums.fault = f"its rows have {setting.features} values in one batch and {rows.shape[1]} in another"
        elif not np.isfinite(rows).all():
            sums.fault = "it holds NaN or infinity"
        elif there is None:
            sums.rows.add(rows)
        elif places is not None and len(there) != len(places):
            sums.fault = "its axis 0 counts the samples in some batches only"
        else:
            _add_samples(sums, rows, (there, places), summing)
        if sums.fault is not None:
            return


def _add_samples(
    sums: ActivationSums, rows: Array, samples: tuple[Truth, NDArray[np.intp] | None], summing: Summing
) -> None:
    there, places = samples
    if summing.pooling != "none":
        sums.rows.add(rows)
    if sums.classes is not None and places is not None:
        sums.classes.add(rows, places[there])


def _rows(
    setting: RowSetting, array: Array, counted: Truth | None, summing: Summing
) -> Iterator[tuple[Array, Truth | None]]:
    """Yield the rows of positions (with None) and of samples (with those that have one), as far as they are wanted."""
    if summing.pooling == "none":
        flat = None if counted is None else counted.reshape(-1)
        yield position_rows(array, setting.feature_axis, flat), None
    if summing.pooling != "none" or (summing.classes and setting.by_class):
        yield sample_rows(array, setting.feature_axis, counted, summing.by_sample)


def _counted(setting: RowSetting, mask: Truth | None) -> Truth | None:
    """Return which rows count, in the order of the activation's."""
    if mask is None or not setting.masked:
        return None
    return mask.T if setting.masked == "turned" else mask
