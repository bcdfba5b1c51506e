"""What the quality benchmark compresses, and how it scores a candidate: three transformers behind one interface.

Scores come term by term (`benchmarks.intervals.Measure`), so that two candidates can be compared on the same samples.
What the original model says of them is computed once and kept in the work folder. Only MatMul and Gemm weights count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import rankfold
from benchmarks import dinov2, minilm, sentences
from benchmarks.common import fashion_mnist, outputs
from benchmarks.intervals import Measure, mean_of, relative_l2
from benchmarks.probe import Probe, fitted
from rankfold.models import demo
from rankfold.models import fashion_mnist as fashion
from rankfold.passes.model_file import load_model
from rankfold.runtime_calib.sessions import open_session
from rankfold.values import FloatArray

MATRICES = ("MatMul", "Gemm")
NEIGHBOURS = 10
PROTOCOL_IMAGES = 96  # DINOv2's short score, the first test images; the long one is on the 2,000 after them
PROBED_IMAGES = 2000
_PROBE_START = 256  # the probe is fitted on training images behind those that calibrate
_FAST = {"vit": 1000, "minilm": 500}
_BATCH = 8
_SLICE = 100  # DINOv2's images are 0.6 MB each: this many are made at a time

Scores = dict[str, Measure]


@dataclass(frozen=True)
class Subject:
    """A model to compress, and its judge.

    Attributes:
        name: Short, for file names.
        model, data: The original and its calibration data.
        options: What `compress` is called with.
        score: Gives a candidate's scores by name; the first is the one that counts.
    """

    name: str
    model: Path
    data: Path
    options: rankfold.Options
    score: Callable[[Path], Scores]


def vit(work: Path, *, fast: bool = False) -> Subject:
    """Return the embedded ViT: the logits' relative L2 and the accuracy on all test images, or on the first 1,000."""
    split = fashion.read(fashion_mnist(), "test")
    count = _FAST["vit"] if fast else len(split.labels)
    inputs, labels = fashion.as_input(split.images[:count]), split.labels[:count]
    model = demo.embedded_model()
    reference = _kept(work, f"vit.{count}", model, lambda: outputs(model, inputs, batch=250))

    def score(candidate: Path) -> Scores:
        logits = outputs(candidate, inputs, batch=250)
        return {"relative L2": relative_l2(logits, reference), "accuracy": mean_of(logits.argmax(1) == labels)}

    return Subject("vit", model, demo.calibration_data(), _options(), score)


def dino(work: Path, *, fast: bool = False) -> Subject:
    """Return the DINOv2 backbone: relative L2 of the CLS row, on the first 96 test images and on the 2,000 after them.

    The 2,000 are also classified by a probe that was fitted on the original's CLS rows; `fast` leaves them out.
    """
    model = dinov2.backbone(work)
    count = PROTOCOL_IMAGES + (0 if fast else PROBED_IMAGES)
    reference = _kept(work, f"dinov2.{count}", model, lambda: cls_rows(model, "t10k", 0, count))
    probe = None if fast else _probe(work, model)
    labels = fashion.read(fashion_mnist(), "test").labels[PROTOCOL_IMAGES:count]

    def score(candidate: Path) -> Scores:
        rows = cls_rows(candidate, "t10k", 0, count)
        first, rest = slice(PROTOCOL_IMAGES), slice(PROTOCOL_IMAGES, None)
        protocol = {"relative L2, first 96": relative_l2(rows[first], reference[first])}
        if probe is None:
            return protocol
        right = mean_of(probe.classes(rows[rest]) == labels)
        return {"relative L2": relative_l2(rows[rest], reference[rest]), "probe accuracy": right} | protocol

    return Subject("dinov2", model, dinov2.calibration(work), _options(), score)


def sentence_encoder(work: Path, *, fast: bool = False) -> Subject:
    """Return MiniLM: cosine to the original's embeddings, and how many of the ten nearest sentences stay the same.

    Both on 2,000 test sentences, or on the first 500, which are then also all that are searched.
    """
    model = minilm.encoder(work)
    splits = sentences.read(sentences.written(work))
    chosen = splits["test"][: _FAST["minilm"]] if fast else splits["test"]
    tokens = minilm.tokenised([sentence.text for sentence in chosen])
    reference = _kept(work, f"minilm.{_mark(tokens)}", model, lambda: embeddings(model, tokens))
    near = nearest(reference)

    def score(candidate: Path) -> Scores:
        found = embeddings(candidate, tokens)
        return {
            "cosine": mean_of((found * reference).sum(1)),
            f"agreement at {NEIGHBOURS}": mean_of(overlap(near, nearest(found))),
            "relative L2": relative_l2(found, reference),
        }

    data = sentence_data(work, splits["calibration"], "calibration")
    return Subject("minilm", model, data, _options(mask=minilm.MASK), score)


SUBJECTS: dict[str, Callable[..., Subject]] = {"vit": vit, "dinov2": dino, "minilm": sentence_encoder}


def cls_rows(model: Path, split: str, start: int, count: int) -> FloatArray:
    """Return the CLS rows of a file's images from `start` on, (count, 384)."""
    session = open_session(model)
    parts = [
        session.run(None, {dinov2.INPUT: images[place : place + _BATCH]})[0][:, 0]
        for images in _image_slices(split, start, count)
        for place in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts).astype(np.float64)


def embeddings(model: Path, tokens: minilm.Tokens) -> FloatArray:
    """Return the embeddings of sentences, (count, 384), run in the order of their lengths with no needless padding."""
    session = open_session(model)
    lengths = tokens[minilm.MASK].sum(1)
    order = np.argsort(lengths, kind="stable")
    batches = [order[place : place + 4 * _BATCH] for place in range(0, len(order), 4 * _BATCH)]
    parts = [
        session.run(None, {name: array[batch, : lengths[batch].max()] for name, array in tokens.items()})[0]
        for batch in batches
    ]
    found = np.concatenate(parts).astype(np.float64)
    return found[np.argsort(order)]


def nearest(vectors: FloatArray, count: int = NEIGHBOURS) -> NDArray[np.int64]:
    """Return the places of each unit vector's nearest others by cosine, (vectors, count), the nearest first."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    return np.argsort(-similar, axis=1, kind="stable")[:, :count]


def overlap(first: NDArray[np.int64], second: NDArray[np.int64]) -> FloatArray:
    """Return which share of each row's places are in the other's row too, (rows,)."""
    shared: FloatArray = (first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1)
    return shared


def _options(*, mask: str | None = None) -> rankfold.Options:
    return rankfold.Options(include=MATRICES, mask=mask, latency_rounds=0)


def _image_slices(split: str, start: int, count: int) -> Iterator[NDArray[np.float32]]:
    for place in range(start, start + count, _SLICE):
        yield dinov2.images(split, min(_SLICE, start + count - place), start=place)


def _probe(work: Path, model: Path) -> Probe:
    """Return the classifier of the original's CLS rows, fitted on training images that calibrate nothing."""
    rows = _kept(
        work, f"dinov2.probe.{PROBED_IMAGES}", model, lambda: cls_rows(model, "train", _PROBE_START, PROBED_IMAGES)
    )
    labels = fashion.read(fashion_mnist(), "train").labels[_PROBE_START : _PROBE_START + PROBED_IMAGES]
    return fitted(rows, labels)


def sentence_data(work: Path, chosen: list[sentences.Sentence], use: str) -> Path:
    """Write sentences for a use, their functions as groups, unless they are there, and return the path."""
    tokens = minilm.tokenised([sentence.text for sentence in chosen])
    path = work / f"minilm_{use}.{_mark(tokens)}.npz"
    if not path.exists():
        np.savez(path, **tokens, group=np.array([sentence.group for sentence in chosen]))
    return path


def _mark(tokens: minilm.Tokens) -> str:
    """Return a name for these sentences: their number and the first digits of a digest."""
    ids = tokens[minilm.IDS]
    return f"{len(ids)}.{hashlib.sha256(np.ascontiguousarray(ids).tobytes()).hexdigest()[:8]}"


def _kept(work: Path, name: str, model: Path, compute: Callable[[], FloatArray]) -> FloatArray:
    """Return what the original gives, from the work folder where it was computed before for the same model."""
    path = work / f"{name}.{load_model(model).digest[:12]}.npy"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.save(file, compute())
        partial.replace(path)
    kept: FloatArray = np.load(path)
    return kept
