"""A working directory for command lines: a model of two layers, and data whose rows lie near a subspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from rankfold.tools.cli import main

SAMPLES, FEATURES, HIDDEN, CLASSES = 200, 32, 48, 24
GRAPH = f"""<ir_version: 8, opset_import: ["" : 17]>
g (float[N,{FEATURES}] x) => (float[N,{CLASSES}] y)
<float[{FEATURES},{HIDDEN}] w1, float[{HIDDEN}] b1, float[{HIDDEN},{CLASSES}] w2> {{
    [fc1] h = MatMul(x, w1)
    [bias] a = Add(h, b1)
    [act] r = Relu(a)
    [fc2] y = MatMul(r, w2)
    }}"""
COMPRESS = ("compress", "model.onnx", "--data", "data.npz", "-o", "out.onnx")


def fill_folder(folder: Path) -> None:
    """Write model.onnx, and data.npz with rows near a subspace of 8 dimensions."""
    save_model(folder / "model.onnx", seed=0)
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((SAMPLES, 8)) @ rng.standard_normal((8, FEATURES))
    np.savez(folder / "data.npz", x=(rows + 0.01 * rng.standard_normal(rows.shape)).astype(np.float32))


def save_model(path: Path, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(GRAPH)
    for name, shape in {"w1": (FEATURES, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES)}.items():
        weight = rng.standard_normal(shape).astype(np.float32) / np.float32(6)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    onnx.save(model, path)


def run(*words: str, code: int = 0) -> None:
    assert main(words) == code


def parsed(text: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(text)
    return result
