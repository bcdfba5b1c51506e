"""Keeping an unfinished calibration on disk, so that the same call goes on from there after a kill.

A folder holds `run.json` (which run it is of, and how many samples it read), the spools, the moments of finished sweeps
and `sums.npz`, the running sums of the sweep that is under way. Every file appears under its name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rankfold.errors import CalibrationDataError
from rankfold.runtime_calib.checkpoint_folder import RUN, SUMS, cleared
from rankfold.runtime_calib.sums import Sums
from rankfold.values import Feed, Request
from rankfold.whole_files import readable, whole

SAVE_SECONDS = 60.0
_COST = 20.0
"""Saving may take one part in so many of the time: what takes long is saved more seldom."""

Fingerprint = dict[str, str]


@dataclass(frozen=True)
class Run:
    """The run that a checkpoint is of.

    Attributes:
        folder: Of the checkpoint.
        fingerprint: What decides the sums: the model, the data, the settings and so on, each by name.
    """

    folder: Path
    fingerprint: Fingerprint

    def begin(self) -> int | None:
        """Return how many samples an earlier call read where it read all of them, else None.

        Raises:
            CalibrationDataError: The checkpoint is of another run.
        """
        for left in self.folder.glob(".*.part*"):  # a killed run's half-written files and spools
            if left.is_file():
                left.unlink()
        if not (self.folder / RUN).is_file():
            self._write(None)
            return None
        with readable(self.folder / RUN):
            content = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
            if content.get("finished"):
                cleared(self.folder)
                self._write(None)
                return None
            before, samples = dict(content["fingerprint"]), content["samples"]
        other = sorted(name for name in before | self.fingerprint if before.get(name) != self.fingerprint.get(name))
        if other:
            raise CalibrationDataError(
                f"{self.folder}: is the checkpoint of another run: not the same {', '.join(other)}; repeat that run's"
                " command to finish it, or remove the folder, or give another one"
            )
        return samples if isinstance(samples, int) else None

    def note_samples(self, samples: int) -> None:
        """Note that all data was read, and the spools are whole."""
        self._write(samples)

    def keeper(self, sweep: int, side: int) -> SumKeeper:
        """Return what keeps the sums of one side of one sweep."""
        return SumKeeper(self.folder / SUMS, (sweep, side))

    def _write(self, samples: int | None) -> None:
        content = {"fingerprint": self.fingerprint, "samples": samples}
        with whole(self.folder / RUN) as file:
            file.write(json.dumps(content, indent=1).encode())


@dataclass
class SumKeeper:
    """Saves the running sums of one side of one sweep, now and then, and finds its place in the data again.

    What was read is known by its hash: a call that gives other data is refused.
    """

    path: Path
    place: tuple[int, int]
    clock: Callable[[], float] = time.monotonic
    _digest: Any = field(default_factory=hashlib.sha256)
    _batches: int = 0
    _due: float = 0.0

    def remaining(self, batches: Iterable[Feed], sums: Mapping[Request, Sums]) -> Iterator[tuple[int, Feed]]:
        """Fill the sums with those saved and yield the batches that are not in them, with their numbers.

        Raises:
            CalibrationDataError: The data is not what was read before.
        """
        start, digest = self._restore(sums)
        self._due = self.clock() + SAVE_SECONDS
        for number, feed in enumerate(batches):
            self._read(feed)
            if number + 1 == start and self._digest.hexdigest() != digest:
                raise self._other_data()
            if number >= start:
                yield number, feed
        if self._batches < start:
            raise self._other_data()

    def save_if_due(self, sums: Mapping[Request, Sums]) -> None:
        """Save the sums over all batches so far, if the last time is long enough ago."""
        begun = self.clock()
        if begun < self._due:
            return
        head = {"place": self.place, "batches": self._batches, "digest": self._digest.hexdigest()}
        arrays: dict[str, Any] = {"head": np.array(json.dumps(head))}
        for number, one in enumerate(sums.values()):
            arrays |= {f"{number}/count": one.count, f"{number}/total": one.total, f"{number}/gram": one.gram}
        with whole(self.path) as file:
            np.savez(file, **arrays)
        ended = self.clock()
        self._due = ended + max(SAVE_SECONDS, _COST * (ended - begun))

    def _restore(self, sums: Mapping[Request, Sums]) -> tuple[int, str]:
        if not self.path.is_file():
            return 0, ""
        # Opened by hand: np.load leaves a damaged file open.
        with readable(self.path), self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            head = json.loads(str(archive["head"]))
            if tuple(head["place"]) != self.place:
                return 0, ""
            for number, one in enumerate(sums.values()):
                one.count = float(archive[f"{number}/count"])
                one.total[:] = archive[f"{number}/total"]
                one.gram[:] = archive[f"{number}/gram"]
            return int(head["batches"]), str(head["digest"])

    def _read(self, feed: Feed) -> None:
        for name, array in sorted(feed.items()):
            self._digest.update(f"{name} {array.dtype} {array.shape}".encode())
            self._digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
        self._batches += 1

    def _other_data(self) -> CalibrationDataError:
        return CalibrationDataError(
            f"{self.path.parent}: the data is not what the checkpoint was made of; give the same data, in the same"
            " order, or remove the folder"
        )
