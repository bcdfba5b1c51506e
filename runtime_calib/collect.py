"""Running a tapped model over batches and summing what its taps give, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.sessions import ORT_ERRORS, open_session, run_outputs, unusable_batch
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
    model: Path, tensors: Sequence[str], feed: Feed, *, exposed: Sequence[str], provider: Provider = "cpu"
) -> dict[str, Seen]:
    """Run one small batch and return what each named tensor was.

    Args:
        model: The model file.
        tensors: Names anywhere in the main graph.
        feed: The batch.
        exposed: The tensors that are outputs of the model already.
        provider: Where to run.

    Raises:
        ModelError: onnxruntime refuses the model, or cannot give out one of the tensors.
        CalibrationDataError: It cannot run the batch.
    """
    addition = onnx.ModelProto()
    addition.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in exposed)
    session = open_session(model, provider=provider, addition=addition.SerializeToString())
    found = run_outputs(session, feed, outputs=list(tensors))
    return {name: Seen(array.shape, array.dtype.name, array) for name, array in found.items()}


class Collector:
    """Sums over batches of one tapped model, kept in place.

    The sums are the one thing here that changes: a value per batch would copy every (d, d) matrix once more. What a
    batch gives is written into arrays that are made once, since new ones cost more than the sums themselves.
    """

    def __init__(self, tapped: Tapped, *, seed: int, provider: Provider = "cpu") -> None:
        self._tapped = tapped
        self._session = open_session(tapped.source, provider=provider, addition=tapped.addition)
        self._random = np.random.default_rng(seed)
        self._found = {name: array for taps in tapped.taps.values() for name, array in _arrays(taps).items()}

    def collect(self, batches: Iterable[Feed]) -> dict[Request, Moments]:
        """Return the sums over the rows of all batches.

        Raises:
            CalibrationDataError: A batch cannot be run, gives NaN or infinity, or there are no rows.
        """
        sums = {request: _Sums.empty(len(taps.pilot)) for request, taps in self._tapped.taps.items()}
        for number, feed in enumerate(batches):
            self._run(feed | {self._tapped.offset_input: self._random.integers(_OFFSETS, size=1)})
            for request, taps in self._tapped.taps.items():
                sums[request].add(*(self._found[name] for name in (taps.gram, taps.total, taps.count)))
                if not sums[request].finite:
                    raise _not_finite(request, number)
        pilots = {request: taps.pilot for request, taps in self._tapped.taps.items()}
        return {request: total.moments(request, pilots[request]) for request, total in sums.items()}

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


@dataclass
class _Sums:
    count: float
    total: NDArray[np.float64]
    gram: NDArray[np.float64]

    @classmethod
    def empty(cls, features: int) -> _Sums:
        return cls(0.0, np.zeros(features), np.zeros((features, features)))

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(np.trace(self.gram)) and np.isfinite(self.total).all())

    def add(self, gram: NDArray[np.floating], total: NDArray[np.floating], count: NDArray[np.floating]) -> None:
        self.count += float(count[0, 0])
        self.total += total[0]
        self.gram += gram

    def moments(self, request: Request, pilot: NDArray[np.floating]) -> Moments:
        """Return the sums about zero; here they are about the pilot row."""
        if not self.count:
            raise CalibrationDataError(
                f"activation {request.tensor!r} has no rows in the whole of the data; check the mask and the inputs"
            )
        row = pilot.astype(np.float64)
        half = self.total + self.count / 2 * row
        self.gram += row[:, None] * half
        self.gram += half[:, None] * row
        self.total += self.count * row
        return Moments(self.count, self.total, self.gram)


def _arrays(taps: TapNames) -> dict[str, NDArray[np.floating]]:
    features = len(taps.pilot)
    shapes = {taps.gram: (features, features), taps.total: (1, features), taps.count: (1, 1)}
    return {name: np.zeros(shape, taps.pilot.dtype) for name, shape in shapes.items()}


def _not_finite(request: Request, number: int) -> CalibrationDataError:
    return CalibrationDataError(
        f"activation {request.tensor!r} is NaN or infinite, or its squares overflow, in batch {number} of the data;"
        " check that batch, or leave the node that reads it alone with --exclude"
    )
