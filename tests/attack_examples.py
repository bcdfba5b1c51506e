"""Classifiers small enough that attacks on them are known, and the published algorithms written out once more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
FEATURES, CLASSES = 6, 3
LINEAR = f"(float[N,{FEATURES}] x) => (float[N,{CLASSES}] y) {{ y = MatMul(x, w) }}"
SOFTMAX = f"(float[N,{FEATURES}] x) => (float[N,{CLASSES}] p) {{ s = MatMul(x, w)  p = Softmax(s) }}"
CURVED = f"(float[N,{FEATURES}] x) => (float[N,{CLASSES}] y) {{ h = MatMul(x, w1)  a = Tanh(h)  y = MatMul(a, w2) }}"


def model_of(text: str, weights: dict[str, Array]) -> ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def linear_weights(seed: int = 0) -> dict[str, Array]:
    return {"w": np.random.default_rng(seed).standard_normal((FEATURES, CLASSES)).astype(np.float32)}


def curved_weights(seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = {"w1": (FEATURES, 16), "w2": (16, CLASSES)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def samples(count: int, *, seed: int = 1) -> tuple[Array, NDArray[np.int64]]:
    """Return rows within [0, 1] and labels."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (count, FEATURES)).astype(np.float32), rng.integers(CLASSES, size=count)


def softmax_gradient(rows: Floats, weight: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return the gradient of the cross-entropy of softmax(x W), (softmax(x W) - onehot) Wᵀ."""
    scores = rows @ weight
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    found: Floats = (shares - np.eye(weight.shape[1])[labels]) @ weight.T
    return found


def by_the_book(
    rows: Floats, weight: Floats, labels: NDArray[np.int64], *, norm: str, eps: float, steps: int, step: float
) -> Floats:
    """Return PGD's last points from the samples themselves on a linear softmax classifier, valid within [0, 1]."""
    found = rows.copy()
    for _ in range(steps):
        gradient = softmax_gradient(found, weight, labels)
        if norm == "linf":
            change = np.clip(found + step * eps * np.sign(gradient) - rows, -eps, eps)
        else:
            change = found + step * eps * gradient / np.linalg.norm(gradient, axis=1, keepdims=True) - rows
            change *= np.minimum(1, eps / np.linalg.norm(change, axis=1, keepdims=True))
        found = np.clip(rows + change, 0, 1)
    return found


def write_case(folder: Path) -> None:
    """Write a curved classifier, another near it, and samples that the first classifies rightly but for a few."""
    weights = curved_weights()
    onnx.save(model_of(CURVED, weights), folder / "model.onnx")
    near = {name: array + np.float32(0.2) * curved_weights(5)[name] for name, array in weights.items()}
    onnx.save(model_of(CURVED, near), folder / "near.onnx")
    rows, labels = samples(60)
    answers = (np.tanh(rows @ weights["w1"]) @ weights["w2"]).argmax(axis=1)
    answers[:5] = labels[:5]
    np.savez(folder / "data.npz", x=rows, labels=answers)
