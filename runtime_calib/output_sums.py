"""How far two arrays are apart, as sums that add up over batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from polygraphy.comparator import IterationResult, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from rankfold.findings import OutputDiscrepancy
from rankfold.values import FloatArray

# Elements compared at a time: bounds the float64 copies that Polygraphy's statistics make to some 10 x 4 MB.
_CHUNK = 2**19

# Part of `passing_atol` above the largest error seen: another run with other threads rounds otherwise. The
# second term, for outputs that hardly differ, is in units of float32's epsilon at the largest magnitude.
_ATOL_MARGIN = 1.02
_ATOL_ROUNDINGS = 4.0

_ANY = np.float64(np.inf)  # a tolerance that everything passes: only the statistics are wanted

_UNIT_ROW = 1e-3  # how far from 1 the length of a normalised row may be, also in half precision


@dataclass(frozen=True)
class OutputSums:
    """Sums over the elements of one output, in float64; r is the reference, c the candidate.

    Attributes:
        elements, nonzero: Elements in all, and those where r is not 0.
        rr, cc, dd, rc: Sums of r², c², (c - r)² and r c.
        absolute, relative: Sums of |c - r|, and of |c - r| / |r| where r is not 0.
        max_absolute, max_relative, max_magnitude: The largest of both, and of |r|.
        rows, agreeing: Rows with one score per class, and those of them with the same largest element.
        embedding: True while every row so far has length 1 without being a distribution.
    """

    elements: int = 0
    nonzero: int = 0
    rr: float = 0.0
    cc: float = 0.0
    dd: float = 0.0
    rc: float = 0.0
    absolute: float = 0.0
    relative: float = 0.0
    max_absolute: float = 0.0
    max_relative: float = 0.0
    max_magnitude: float = 0.0
    rows: int = 0
    agreeing: int = 0
    embedding: bool = True

    def __add__(self, other: OutputSums) -> OutputSums:
        merged = {
            name: getattr(self, name) + getattr(other, name)
            for name in (field.name for field in fields(self))
            if not name.startswith("max_") and name != "embedding"
        }
        return OutputSums(
            **merged,
            max_absolute=max(self.max_absolute, other.max_absolute),
            max_relative=max(self.max_relative, other.max_relative),
            max_magnitude=max(self.max_magnitude, other.max_magnitude),
            embedding=self.embedding and other.embedding,
        )


def sum_output(reference: NDArray[np.generic], candidate: NDArray[np.generic]) -> OutputSums:
    """Return the sums over two finite numeric arrays of one shape."""
    sums = _sum_rows(reference, candidate)
    for r, c in zip(_chunks(reference), _chunks(candidate), strict=True):
        sums += _sum_chunk(r, c)
    return sums


def summarize(name: str, sums: OutputSums) -> OutputDiscrepancy:
    """Return the figures of one output; where the reference is all 0, relative ones are 0 or infinite."""
    relative = sums.nonzero > 0
    undefined = 0.0 if sums.max_absolute == 0 else math.inf
    return OutputDiscrepancy(
        name=name,
        relative_l2=math.sqrt(sums.dd) / math.sqrt(sums.rr) if relative else undefined,
        cosine=_cosine(sums),
        max_abs=sums.max_absolute,
        mean_abs=sums.absolute / max(1, sums.elements),
        max_rel=sums.max_relative if relative else undefined,
        mean_rel=sums.relative / sums.nonzero if relative else undefined,
        top1_agreement=sums.agreeing / sums.rows if sums.rows and not sums.embedding else None,
        passing_atol=_passing_atol(sums),
    )


def _cosine(sums: OutputSums) -> float:
    if sums.rr == 0 or sums.cc == 0:
        return 1.0 if sums.rr == sums.cc else 0.0
    return max(-1.0, min(1.0, sums.rc / (math.sqrt(sums.rr) * math.sqrt(sums.cc))))


def _passing_atol(sums: OutputSums) -> float:
    """Return a tolerance just above the largest error, to three digits, so that it can be read and typed."""
    rounding = _ATOL_ROUNDINGS * float(np.finfo(np.float32).eps) * sums.max_magnitude
    return float(f"{_ATOL_MARGIN * sums.max_absolute + rounding:.2e}")


def _chunks(array: NDArray[np.generic]) -> Iterator[FloatArray]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].astype(np.float64)


def _sum_chunk(reference: FloatArray, candidate: FloatArray) -> OutputSums:
    nonzero = reference != 0
    r, c = (reference, candidate) if nonzero.all() else (reference[nonzero], candidate[nonzero])
    difference = np.abs(candidate - reference)
    max_absolute, max_relative = _polygraphy_maxima({"all": (reference, candidate), "nonzero": (r, c)})
    return OutputSums(
        elements=reference.size,
        nonzero=r.size,
        rr=float(reference @ reference),
        cc=float(candidate @ candidate),
        dd=float(difference @ difference),
        rc=float(reference @ candidate),
        absolute=float(difference.sum()),
        relative=float((np.abs(c - r) / np.abs(r)).sum()),
        max_absolute=max_absolute,
        max_relative=max_relative,
        max_magnitude=float(np.abs(reference).max()),
    )


def _polygraphy_maxima(pairs: dict[str, tuple[FloatArray, FloatArray]]) -> tuple[float, float]:
    """Return what Polygraphy's comparison calls the minimum required tolerances: absolute, relative.

    Its relative error divides by 2e-16 where the reference is 0, so that one such element would decide; the
    relative one is therefore taken of the others. Its means are of single precision, so they are not used.
    """
    # Arrays set one by one, and a tolerance that is numpy's: given arrays in the constructor, or a plain float, it
    # imports torch where that is installed, which takes a second and 190 MB.
    reference, candidate = IterationResult(), IterationResult()
    same = pairs["all"][0] is pairs["nonzero"][0]
    for name, (r, c) in pairs.items():
        if r.size and not (same and name == "nonzero"):
            reference[name], candidate[name] = r, c
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        # The relative error is taken of the second argument.
        matches = SimpleCompareFunc(atol=_ANY, rtol=_ANY)(candidate, reference)
    of_nonzero = matches["all" if same else "nonzero"].max_reldiff if pairs["nonzero"][0].size else 0.0
    return float(matches["all"].max_absdiff), float(of_nonzero)


def _sum_rows(reference: NDArray[np.generic], candidate: NDArray[np.generic]) -> OutputSums:
    """Return the agreement of rows that look like one score per class.

    That is, of real numbers shaped (batch, classes), two classes or more. Rows of length 1 with a negative
    element, or not summing to 1, are embeddings: `embedding` stays True and no agreement is reported.
    """
    if reference.ndim != 2 or reference.shape[1] < 2 or reference.dtype.kind != "f" or not len(reference):
        return OutputSums()
    rows = reference.astype(np.float64)
    unit = np.abs(np.linalg.norm(rows, axis=1) - 1) < _UNIT_ROW
    distribution = (rows >= 0).all(axis=1) & (np.abs(rows.sum(axis=1) - 1) < _UNIT_ROW)
    return OutputSums(
        rows=len(rows),
        agreeing=int((reference.argmax(axis=1) == candidate.argmax(axis=1)).sum()),
        embedding=bool((unit & ~distribution).all()),
    )
