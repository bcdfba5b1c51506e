"""Scores on labelled data: accuracy, macro F1, Spearman's correlation, and the cosine to label vectors, in percent."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rankfold.errors import CalibrationDataError, OptionsError
from rankfold.evaluation import Evaluate, Predict, Score
from rankfold.passes.model_file import input_specs, load_model
from rankfold.runtime_calib.feeds import batched, open_source
from rankfold.values import FloatArray, InputSpec

ScoreName = Literal["accuracy", "f1", "spearman", "cosine"]
SCORES: tuple[ScoreName, ...] = get_args(ScoreName)
_PERCENT = 100.0


def labelled_evaluate(
    model: str | os.PathLike[str],
    labelled: str | os.PathLike[str],
    *,
    score: ScoreName,
    output: str | None = None,
    batch_size: int = 8,
) -> Evaluate:
    """Return the function that scores a model on labelled data.

    Args:
        model: The ONNX file, for its inputs.
        labelled: An `.npz` of inputs and `labels`, one per sample: whole numbers for `accuracy` and `f1`, numbers for
            `spearman`, vectors for `cosine`. It should hold nothing of the calibration data.
        score: `accuracy`: share of samples whose largest value stands at the label; `f1`: the mean over classes of
            F1; `spearman`: of an output of one column; `cosine`: mean over samples. All in percent.
        output: The output that is scored; the first by default.
        batch_size: Samples per run where the model's batch axis is free.

    Raises:
        CalibrationDataError: The file cannot be read or has no labels.
        OptionsError: The score is unknown.
    """
    if score not in SCORES:
        raise OptionsError(f"the score is {score!r}; expected one of {', '.join(SCORES)}")
    path = Path(labelled)
    return _Labelled(path, input_specs(load_model(model)), _labels(path), score, (output, batch_size))


@dataclass(frozen=True)
class _Labelled:
    path: Path
    specs: tuple[InputSpec, ...]
    labels: NDArray[np.generic]
    score: ScoreName
    reading: tuple[str | None, int]

    def __call__(self, predict: Predict) -> Score:
        """Return the score of a model."""
        output, batch_size = self.reading
        parts = []
        for feed in batched(open_source(self.path, self.specs).units, batch_size):
            outputs = predict(feed)
            if output is not None and output not in outputs:
                raise OptionsError(f"there is no output {output!r} to score; the outputs are {', '.join(outputs)}")
            parts.append(outputs[output] if output else next(iter(outputs.values())))
        found = np.concatenate(parts)
        left_out = len(self.labels) - len(found)  # what does not fill a batch of a fixed size, at the end
        if not 0 <= left_out < self._fixed_batch():
            raise CalibrationDataError(
                f"{self.path}: has {len(self.labels)} labels for {len(found)} samples; give one for each"
            )
        of_rows = self._measure(found)
        return Score(of_rows(np.arange(len(found))), len(found), of_rows)

    def _measure(self, found: NDArray[np.generic]) -> Callable[[NDArray[np.intp]], float]:
        labels = self.labels[: len(found)]
        if self.score in ("accuracy", "f1"):
            self._check(labels.ndim == 1 and labels.dtype.kind in "iu" and found.ndim == 2, found, "(samples, classes)")
            self._check_classes(labels, found.shape[1])
            answers = found.argmax(axis=1)
            if self.score == "accuracy":
                right = answers == labels
                return lambda rows: _PERCENT * float(right[rows].mean())
            return lambda rows: _PERCENT * macro_f1(answers[rows], labels[rows])
        if self.score == "spearman":
            self._check(labels.size == found.size == len(found), found, "one number per sample")
            values, wanted = found.reshape(-1), labels.reshape(-1)
            return lambda rows: _PERCENT * spearman(values[rows], wanted[rows])
        self._check(labels.shape == found.shape and found.ndim > 1, found, "the shape of the labels")
        cosines = _cosines(found.astype(np.float64), labels.astype(np.float64))
        return lambda rows: _PERCENT * float(cosines[rows].mean())

    def _fixed_batch(self) -> int:
        """Return how many samples the model takes at a time, 1 where that is free."""
        return max([1, *(axis for spec in self.specs for axis in spec.shape[:1] if isinstance(axis, int))])

    def _check_classes(self, labels: NDArray[np.generic], classes: int) -> None:
        least, most = int(labels.min(initial=0)), int(labels.max(initial=0))
        if least < 0 or most >= classes:
            raise CalibrationDataError(
                f"{self.path}: labels run from {least} to {most}, and the output that is scored has {classes} classes;"
                " number them from 0, and leave out samples without a class"
            )

    def _check(self, fits: bool, found: NDArray[np.generic], expected: str) -> None:
        if not fits:
            raise OptionsError(
                f"{self.path}: {self.score} cannot be told from an output of shape {found.shape} and labels of"
                f" {self.labels.dtype} {self.labels.shape}; expected an output of {expected}, and labels to match"
            )


def macro_f1(answers: NDArray[np.generic], labels: NDArray[np.generic]) -> float:
    """Return the mean over the classes that occur in either of F1, in [0, 1]."""
    classes = np.union1d(answers, labels)
    hit = np.searchsorted(classes, labels[answers == labels])
    counts = [np.bincount(np.searchsorted(classes, part), minlength=len(classes)) for part in (answers, labels)]
    both = np.bincount(hit, minlength=len(classes))
    return float(np.mean(2 * both / (counts[0] + counts[1])))


def spearman(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """Return the correlation of the ranks, ties at their mean; 0 where one side is the same for all."""
    ranks = [stats.rankdata(part) - (len(part) + 1) / 2 for part in (first, second)]
    size = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
    return float(ranks[0] @ ranks[1]) / size if size else 0.0


def _cosines(first: FloatArray, second: FloatArray) -> FloatArray:
    flat, other = first.reshape(len(first), -1), second.reshape(len(second), -1)
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(other, axis=1)
    cosines: FloatArray = np.einsum("ij,ij->i", flat, other) / np.maximum(lengths, np.finfo(float).tiny)
    return cosines


def _labels(path: Path) -> NDArray[np.generic]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive["labels"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise CalibrationDataError(
            f"{path}: no labels can be read ({error}); give an .npz of the model's inputs and 'labels'"
        ) from error
