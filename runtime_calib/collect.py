"""Running a tapped model over batches and summing what its taps give, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.sessions import open_session, run_outputs
from rankfold.values import Feed, Moments, Provider, Request, TapNames, Tapped

_OFFSETS = 1 << 31  # offsets are drawn below this and taken modulo each stride in the graph


@dataclass(frozen=True)
class Seen:
    """What a probe saw of one tensor."""

    shape: tuple[int, ...]
    dtype: str


def probe(
    model: Path, tensors: Sequence[str], feed: Feed, *, exposed: Sequence[str], provider: Provider = "cpu"
) -> dict[str, Seen]:
    """Run one small batch and return the shape and type of each named tensor.

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
    return {name: Seen(array.shape, array.dtype.name) for name, array in found.items()}


class Collector:
    """Sums over batches of one tapped model, kept in place.

    The sums are the one thing here that changes: a value per batch would copy every (d, d) matrix once more.
    """

    def __init__(self, tapped: Tapped, *, seed: int, provider: Provider = "cpu") -> None:
        self._tapped = tapped
        self._session = open_session(tapped.source, provider=provider, addition=tapped.addition)
        self._random = np.random.default_rng(seed)
        self._names = [name for taps in tapped.taps.values() for name in (taps.gram, taps.total, taps.count)]

    def collect(self, batches: Iterable[Feed]) -> dict[Request, Moments]:
        """Return the sums over the rows of all batches.

        Raises:
            CalibrationDataError: A batch cannot be run, gives NaN or infinity, or there are no rows.
        """
        sums: dict[Request, _Sums] = {}
        for number, feed in enumerate(batches):
            offset = self._random.integers(_OFFSETS, size=1)
            found = run_outputs(self._session, feed | {self._tapped.offset_input: offset}, outputs=self._names)
            for request, taps in self._tapped.taps.items():
                _add(sums, request, taps, found, number)
        return {request: total.moments(request) for request, total in sums.items()}


@dataclass
class _Sums:
    count: float
    total: NDArray[np.float64]
    gram: NDArray[np.float64]

    def moments(self, request: Request) -> Moments:
        if not self.count:
            raise CalibrationDataError(
                f"activation {request.tensor!r} has no rows in the whole of the data; check the mask and the inputs"
            )
        return Moments(self.count, self.total, self.gram)


def _add(
    sums: dict[Request, _Sums], request: Request, taps: TapNames, found: dict[str, NDArray[np.generic]], number: int
) -> None:
    gram, total, count = (np.asarray(found[name], np.float64) for name in (taps.gram, taps.total, taps.count))
    if not (np.isfinite(np.trace(gram)) and np.isfinite(total).all()):
        raise CalibrationDataError(
            f"activation {request.tensor!r} is NaN or infinite, or its squares overflow, in batch {number} of the data;"
            " check that batch, or leave the node that reads it alone with --exclude"
        )
    if request not in sums:
        sums[request] = _Sums(0.0, np.zeros(len(total)), np.zeros(gram.shape))
    running = sums[request]
    running.count += float(count[0, 0])
    running.total += total[:, 0]
    running.gram += gram
