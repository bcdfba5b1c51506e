"""Running a tapped model over batches and summing what its taps give, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.checkpoint import SumKeeper
from rankfold.runtime_calib.sessions import ORT_ERRORS, open_session, run_outputs, unusable_batch
from rankfold.runtime_calib.sums import Sums
from rankfold.values import Feed, Moments, Provider, Request, TapNames, Tapped

_TEXT = "OSU"  # numpy's kinds of text
_OFFSETS = 1 << 31  # offsets are drawn below this and taken modulo each stride in the graph


@dataclass(frozen=True)
class Seen:
    """What a probe saw of one tensor: its shape, its type, and its values."""

    shape: tuple[int, ...]
    dtype: str
    values: NDArray[np.generic]


def probe(
    model: Path,
    tensors: Sequence[str],
    feed: Feed,
    *,
    exposed: Sequence[str],
    provider: Provider = "cpu",
    lean: bool = False,
) -> dict[str, Seen]:
    """Run one small batch and return what each named tensor was.

    Args:
        model: The model file.
        tensors: Names anywhere in the main graph.
        feed: The batch.
        exposed: The tensors that are outputs of the model already.
        provider: Where to run.
        lean: Without onnxruntime's own copies of the weights.

    Raises:
        ModelError: onnxruntime refuses the model, or cannot give out one of the tensors.
        CalibrationDataError: It cannot run the batch.
    """
    addition = onnx.ModelProto()
    addition.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in exposed)
    session = open_session(model, provider=provider, addition=addition.SerializeToString(), lean=lean)
    found = run_outputs(session, feed, outputs=list(tensors))
    return {name: Seen(array.shape, array.dtype.name, array) for name, array in found.items()}


def _in_memory(_request: Request, moments: Moments) -> Moments:
    return moments


class Collector:
    """Sums over batches of one tapped model, kept in place.

    The sums are the one thing here that changes: a value per batch would copy every (d, d) matrix once more. What a
    batch gives is written into arrays that are made once, since new ones cost more than the sums themselves.
    """

    def __init__(self, tapped: Tapped, *, seed: int, provider: Provider = "cpu", lean: bool = False) -> None:
        self._tapped = tapped
        self._session = open_session(tapped.source, provider=provider, addition=tapped.addition, lean=lean)
        self._seed = seed
        self._found = {name: array for taps in tapped.taps.values() for name, array in _arrays(taps).items()}

    def collect(
        self,
        batches: Iterable[Feed],
        *,
        side: int = 0,
        keeper: SumKeeper | None = None,
        stored: Callable[[Request, Moments], Moments] = _in_memory,
    ) -> dict[Request, Moments]:
        """Return the sums over the rows of all batches.

        Args:
            batches: The data.
            side: A number for this part of the data; the offsets of the strides are drawn for it and each batch anew,
                so that they do not depend on what was collected before.
            keeper: Saves the sums now and then, and gives back those that an earlier run saved.
            stored: Takes finished moments, one after the other, and returns them from where they are kept.

        Raises:
            CalibrationDataError: A batch cannot be run, gives NaN or infinity, or there are no rows.
        """
        sums = {request: Sums.empty(len(taps.pilot)) for request, taps in self._tapped.taps.items()}
        for number, feed in enumerate(batches) if keeper is None else keeper.remaining(batches, sums):
            offset = np.random.default_rng((self._seed, side, number)).integers(_OFFSETS, size=1)
            self._run(feed | {self._tapped.offset_input: offset})
            for request, taps in self._tapped.taps.items():
                sums[request].add(*(self._found[name] for name in (taps.gram, taps.total, taps.count)))
                if not sums[request].finite:
                    raise _not_finite(request, number)
            if keeper is not None:
                keeper.save_if_due(sums)
        pilots = {request: taps.pilot for request, taps in self._tapped.taps.items()}
        return {request: stored(request, sums.pop(request).moments(request, pilots[request])) for request in list(sums)}

    def _run(self, feed: Feed) -> None:
        if any(array.dtype.kind in _TEXT for array in feed.values()):  # cannot be bound
            for name, array in run_outputs(self._session, feed, outputs=list(self._found)).items():
                np.copyto(self._found[name], array)
            return
        binding = self._session.io_binding()
        kept = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        for name, array in self._found.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        try:
            for name, array in kept.items():
                binding.bind_cpu_input(name, array)
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except ORT_ERRORS as error:
            raise unusable_batch(feed, error) from error


def _arrays(taps: TapNames) -> dict[str, NDArray[np.floating]]:
    features = len(taps.pilot)
    shapes = {taps.gram: (features, features), taps.total: (1, features), taps.count: (1, 1)}
    return {name: np.zeros(shape, taps.pilot.dtype) for name, shape in shapes.items()}


def _not_finite(request: Request, number: int) -> CalibrationDataError:
    return CalibrationDataError(
        f"activation {request.tensor!r} is NaN or infinite, or its squares overflow, in batch {number} of the data;"
        " check that batch, or leave the node that reads it alone with --exclude"
    )
