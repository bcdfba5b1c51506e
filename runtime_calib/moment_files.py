"""Finished moments on disk: written once, then mapped, so that they take no memory of the process's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.format import write_array

from rankfold.values import Moments
from rankfold.whole_files import whole


def store_moments(moments: Moments, folder: Path, name: str, *, durable: bool) -> Moments:
    """Write moments and return them mapped from the files; `durable` where another run may need them.

    Raises:
        OutputError: The disk is full or gone.
    """
    with whole(folder / f"{name}.total.npy", durable=durable) as file:
        write_array(file, np.append(moments.total, moments.count), allow_pickle=False)
    with whole(folder / f"{name}.gram.npy", durable=durable) as file:  # last: where it is, both are
        write_array(file, moments.gram, allow_pickle=False)
    return mapped_moments(folder, name)


def are_stored(folder: Path, name: str) -> bool:
    """Tell whether moments of this name were written whole."""
    return (folder / f"{name}.gram.npy").is_file()


def mapped_moments(folder: Path, name: str) -> Moments:
    """Return moments that were stored, mapped from their files."""
    total = np.load(folder / f"{name}.total.npy")
    gram = np.asarray(np.load(folder / f"{name}.gram.npy", mmap_mode="r"))
    return Moments(float(total[-1]), total[:-1], gram)
