"""Candidates of one subject, each scored once: a size, a basis and an allocation, kept as files in the work folder.

`NAME.json` says what the candidate is and what it scored, `NAME.npz` holds the scores sample by sample, and the JSON,
written last, is what tells that a candidate is done. After a change of the code that made them, take a new folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import rankfold
from benchmarks.allocations import Ground, normalised_energy_plan, uniform_plan
from benchmarks.common import write_whole
from benchmarks.evidence import Evidence, collect_evidence
from benchmarks.folding import fold_with
from benchmarks.intervals import Measure
from benchmarks.rivals import RIVALS, rival_bases
from benchmarks.subjects import Scores, Subject
from rankfold import RankPlan
from rankfold.opening import open_model
from rankfold.passes.plan_file import plan_from_json, plan_to_json
from rankfold.passes.spectrum import Spectrum
from rankfold.values import FloatArray

OURS = "rankfold"
UNIFORM, ENERGY = "uniform", "normalised energy"
ALLOCATIONS = (UNIFORM, ENERGY, OURS)


@dataclass(frozen=True)
class Candidate:
    """What is to be scored: `keep` 1 and basis `original` for the model itself."""

    subject: str
    keep: float
    basis: str
    allocation: str

    @property
    def stem(self) -> str:
        """Return its name among the files."""
        return re.sub(r"[^a-z0-9.]+", "_", f"{self.subject}.{self.keep:g}.{self.basis}.{self.allocation}".lower())


@dataclass(frozen=True)
class Scored:
    """A candidate with what came out: the share it kept, its size, its scores term by term."""

    candidate: Candidate
    kept: float
    size_bytes: int
    scores: Scores


class Bench:
    """One subject's candidates; the evidence and the bases are made when the first candidate needs them.

    Args:
        subject: What is compressed.
        work: The folder.
        fast: Whether the subject's short scores are taken; they are kept apart from the long ones.
    """

    def __init__(self, subject: Subject, work: Path, *, fast: bool) -> None:
        self.subject = subject
        self.folder = work / ("candidates.fast" if fast else "candidates")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._model, self._scan = open_model(subject.model, subject.options)
        self._evidence: dict[str, Evidence] | None = None
        self._bases: dict[str, dict[str, Spectrum]] = {}

    def original(self) -> Scored:
        """Return the scores of the original."""
        candidate = Candidate(self.subject.name, 1.0, "original", "none")
        return self._once(candidate, lambda _: (self.subject.model, 1.0))

    def ours(self, keep: float) -> Scored:
        """Return the scores of `rankfold.compress(keep=...)`; its plan is kept for `plan(keep, OURS)`."""

        def make(path: Path) -> tuple[Path, float]:
            result = rankfold.compress(
                self.subject.model, self.subject.data, keep=keep, output=path, options=self.subject.options
            )
            write_whole(self._plan_file(keep), plan_to_json(result.plan))
            return path, result.plan.kept

        return self._once(Candidate(self.subject.name, keep, OURS, OURS), make)

    def rival(self, keep: float, basis: str, allocation: str) -> Scored:
        """Return the scores of one of `RIVALS` at the ranks of one of `ALLOCATIONS`."""

        def make(path: Path) -> tuple[Path, float]:
            plan, include = self.plan(keep, allocation), self.subject.options.include
            return fold_with(self.subject.model, plan, self.bases(basis), path, include=include), plan.kept

        return self._once(Candidate(self.subject.name, keep, basis, allocation), make)

    def plan(self, keep: float, allocation: str) -> RankPlan:
        """Return the ranks of an allocation; rankfold's own, with their forms, are those that `ours` wrote."""
        ground = Ground(self._model, self._scan, keep)
        if allocation == OURS:
            self.ours(keep)
            return plan_from_json(self._plan_file(keep).read_text())
        if allocation == ENERGY:  # AFM's values are output energies, about the mean
            return normalised_energy_plan(ground, self._spectra("AFM"))
        return uniform_plan(ground)

    def bases(self, basis: str) -> dict[str, Spectrum]:
        """Return a rival's basis of every site."""
        return self._spectra(basis)

    def _spectra(self, basis: str) -> dict[str, Spectrum]:
        if self._evidence is None:
            self._evidence = collect_evidence(self._model, self._scan, self.subject.data, self.subject.options)
        if basis not in self._bases:
            self._bases[basis] = rival_bases(self._model, self._scan, self._evidence, RIVALS[basis])
        return self._bases[basis]

    def _plan_file(self, keep: float) -> Path:
        return self.folder / f"{Candidate(self.subject.name, keep, OURS, OURS).stem}.plan.json"

    def _once(self, candidate: Candidate, make: Callable[[Path], tuple[Path, float]]) -> Scored:
        """Return what the folder holds of a candidate, or make it, score it and write that down; its model goes."""
        found = self.folder / f"{candidate.stem}.json"
        if found.exists():
            return read(found)
        path = self.folder / f"{candidate.stem}.onnx"
        try:
            made, kept = make(path)
            scored = Scored(candidate, kept, made.stat().st_size, self.subject.score(made))
        finally:
            path.unlink(missing_ok=True)
        write(scored, found)
        return scored


def write(scored: Scored, path: Path) -> None:
    """Write a candidate's scores: first the terms, then the JSON."""
    terms = {
        f"{number}.{part}": getattr(measure, part).astype(np.float32)  # a sum of thousands is off by 1e-7 at most
        for number, measure in enumerate(scored.scores.values())
        for part in ("above", "below")
    }
    partial = path.with_suffix(".npz.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **terms)
    os.replace(partial, path.with_suffix(".npz"))
    content = {
        **asdict(scored.candidate),
        "kept": scored.kept,
        "size_bytes": scored.size_bytes,
        "scores": {name: {"value": m.value, "root": m.root} for name, m in scored.scores.items()},
    }
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read(path: Path) -> Scored:
    """Return what `write` wrote, its terms to float32."""
    content = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as terms:
        scores = {
            name: Measure(_wide(terms[f"{number}.above"]), _wide(terms[f"{number}.below"]), entry["root"])
            for number, (name, entry) in enumerate(content["scores"].items())
        }
    candidate = Candidate(*(content[name] for name in ("subject", "keep", "basis", "allocation")))
    return Scored(candidate, content["kept"], content["size_bytes"], scores)


def _wide(terms: NDArray[np.float32]) -> FloatArray:
    return terms.astype(np.float64)
