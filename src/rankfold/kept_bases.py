"""Bases on disk, read one at a time: those of all sites together would take more memory than the model."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np

from rankfold.errors import OutputError
from rankfold.passes.spectrum import Spectrum


class KeptBases:
    """Bases by the names of their sites, in a temporary folder that goes with this object.

    Args:
        room_bytes: What they may take together; those beyond it are not kept.
    """

    def __init__(self, room_bytes: float) -> None:
        self.room_bytes = room_bytes
        self._folder = Path(tempfile.mkdtemp(prefix="rankfold-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._places: dict[str, Path] = {}
        self._known: dict[str, Spectrum] = {}

    def keep(self, name: str, basis: Spectrum) -> None:
        """Write the vectors of a site's basis, where there is room for them.

        Raises:
            OutputError: The disk is full or gone.
        """
        self.room_bytes -= basis.vectors.nbytes if basis.skew is None else 2 * basis.vectors.nbytes
        if self.room_bytes < 0:
            return
        place = self._folder / str(len(self._places))
        try:
            np.save(f"{place}.vectors.npy", basis.vectors)
            if basis.skew is not None:
                np.save(f"{place}.skew.npy", basis.skew)
        except OSError as error:
            raise OutputError(
                f"{place.parent}: the bases cannot be kept there ({error.strerror or error}); free some room, or name a"
                " folder with more in the environment variable TMPDIR"
            ) from error
        self._places[name], self._known[name] = place, basis.without_vectors

    @property
    def are_all(self) -> bool:
        """Return whether there was room for every basis so far."""
        return self.room_bytes >= 0

    def read(self, name: str) -> Spectrum | None:
        """Return a site's basis with its vectors; None where it was not kept."""
        if name not in self._places:
            return None
        place, known = self._places[name], self._known[name]
        skew = None if known.skew is None else np.load(f"{place}.skew.npy")
        return replace(known, vectors=np.load(f"{place}.vectors.npy"), skew=skew)
