"""How the benchmark's subjects score a candidate, on small things whose scores are known."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from benchmarks import dinov2, minilm, sentences, subjects
from benchmarks.common import outputs
from benchmarks.plain_svd import fold_plain
from benchmarks.probe import fitted
from benchmarks.sentences import Sentence
from onnx_examples import build, gaussian, mlp, save

from rankfold.models import demo
from rankfold.models import fashion_mnist as fashion
from rankfold.values import RankPlan, SiteRank


def write_images(folder: Path, *, test: int, train: int) -> None:
    """Write files of Fashion-MNIST's form with random images and classes."""
    for seed, (prefix, count) in enumerate((("t10k", test), ("train", train))):
        random = np.random.default_rng(seed)
        images, labels = random.integers(0, 256, (count, 28, 28)), random.integers(0, 10, count)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            path = folder / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_the_ten_nearest_are_those_of_the_largest_cosine() -> None:
    angles = np.array([0.0, 0.1, 0.3, 1.0, 3.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert subjects.nearest(vectors, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1], [3, 2]]


def test_overlap_does_not_care_for_order() -> None:
    first, second = np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([[4, 3, 2, 1], [5, 0, 9, 1]])
    assert subjects.overlap(first, second).tolist() == [1.0, 0.25]


def test_a_probe_tells_classes_apart_and_knows_the_slope_of_its_loss() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 600)
    centres = 6 * np.eye(4, 5)  # six deviations apart: a mistake in some thousand rows
    features = centres[labels] + random.standard_normal((600, 5)) * [1, 1, 1, 1, 0] + 100  # the last one is constant
    probe = fitted(features[:400], labels[:400])
    assert (probe.classes(features[400:]) == labels[400:]).mean() > 0.98
    assert probe.weight.shape == (5, 4)
    assert np.abs(probe.weight[4]).max() == 0  # a feature that says nothing


def dying(path: Path) -> Path:
    """Write a sentence encoder of sorts: the mean of two-dimensional word vectors that are no padding, of length 1."""
    body = """
    g (int64[N,T] input_ids, int64[N,T] attention_mask) => (float[N,6] embedding) {
      rows = Gather(words, input_ids)
      [fc] mixed = MatMul(rows, w)
      m = Cast<to=1>(attention_mask)
      axes = Constant<value_ints=[2]>()
      wide = Unsqueeze(m, axes)
      counted = Mul(mixed, wide)
      one = Constant<value_ints=[1]>()
      pooled = ReduceMean<axes=[1], keepdims=0>(counted)
      norm = ReduceL2<axes=[1], keepdims=1>(pooled)
      embedding = Div(pooled, norm)
    }
    """
    return save(build(body, {"words": gaussian(100, 6, scale=1.0), "w": gaussian(6, 6, seed=1)}), path)


def numbered(texts: list[str], *, length: int = 12) -> minilm.Tokens:
    """Return tokens as a tokeniser would: a token per word, which is its number."""
    ids = np.zeros((len(texts), length), np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        words = [int(word) for word in text.split()]
        ids[row, : len(words)], mask[row, : len(words)] = words, 1
    return {minilm.IDS: ids, minilm.MASK: mask}


def test_embeddings_come_in_the_order_of_their_sentences(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(map(str, random.integers(1, 100, random.integers(1, 13)))) for _ in range(90)]
    tokens = numbered(texts)
    model = dying(tmp_path / "model.onnx")
    found = subjects.embeddings(model, tokens)
    words, weight = gaussian(100, 6, scale=1.0).astype(np.float64), gaussian(6, 6, seed=1).astype(np.float64)
    pooled = np.array([words[ids[mask > 0]].mean(axis=0) for ids, mask in zip(*tokens.values(), strict=True)]) @ weight
    expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # float32 sums of twelve rows, then a division


def test_sentences_are_scored_by_cosine_and_by_neighbours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    drawn = [Sentence(" ".join(map(str, random.integers(1, 100, 5))), str(n // 3)) for n in range(90)]
    monkeypatch.setattr(minilm, "encoder", lambda folder: dying(folder / "minilm.onnx"))
    monkeypatch.setattr(minilm, "tokenised", numbered)
    monkeypatch.setattr(sentences, "written", lambda folder: folder)
    monkeypatch.setattr(sentences, "read", lambda _: {"calibration": drawn[:30], "test": drawn[30:]})
    monkeypatch.setattr(subjects, "_FAST", {"minilm": 20})
    subject = subjects.sentence_encoder(tmp_path)
    same = subject.score(subject.model)
    assert {name: len(measure.above) for name, measure in same.items()} == dict.fromkeys(same, 60)
    # A unit vector's square is one to some roundings of float32.
    assert [measure.value for measure in same.values()] == pytest.approx([1.0, 1.0, 0.0], rel=0, abs=1e-6)
    plan = RankPlan("", "a test", 0, 0, (SiteRank("fc", 6, 6, 2, 0.0),))
    cut = subject.score(fold_plain(subject.model, plan, tmp_path / "cut.onnx"))
    cosine, agreement, distance = (cut[name].value for name in same)
    # Of unit vectors |a - b|² = 2 - 2 cos, so the two figures say the same.
    assert distance == pytest.approx((2 - 2 * cosine) ** 0.5, rel=1e-5)
    assert 0.3 < cosine < 0.999
    assert 10 / 59 < agreement < 0.9  # better than chance
    assert subject.options.mask == minilm.MASK
    with np.load(subject.data) as archive:
        assert archive["group"].tolist() == [sentence.group for sentence in drawn[:30]]
        np.testing.assert_array_equal(
            archive[minilm.IDS], numbered([sentence.text for sentence in drawn[:30]])["input_ids"]
        )
    assert len(subjects.sentence_encoder(tmp_path, fast=True).score(subject.model)["cosine"].above) == 20


def test_the_vit_is_scored_on_all_images_or_on_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_images(tmp_path, test=40, train=1)
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    monkeypatch.setattr(subjects, "_FAST", {"vit": 10})
    work = tmp_path / "work"
    subject = subjects.vit(work)
    scores = subject.score(demo.embedded_model())
    assert scores["relative L2"].value == 0.0
    split = fashion.read(tmp_path, "test")
    right = outputs(demo.embedded_model(), fashion.as_input(split.images), batch=7).argmax(1) == split.labels
    assert scores["accuracy"].above.tolist() == right.tolist()
    fast = subjects.vit(work, fast=True).score(demo.embedded_model())
    assert fast["accuracy"].above.tolist() == right[:10].tolist()
    kept = sorted(work.iterdir())
    assert [path.name.split(".")[:2] for path in kept] == [["vit", "10"], ["vit", "40"]]
    np.save(kept[1], np.ones((40, 10)))  # what is kept is what is compared with
    assert subjects.vit(work).score(demo.embedded_model())["relative L2"].value > 0.1


def test_dinov2_is_scored_on_two_ranges_of_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_images(tmp_path, test=20, train=30)
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    body = """
    g (float[N,3,224,224] input_image) => (float[N,2,6] y) {
      pooled = AveragePool<kernel_shape=[112, 56], strides=[112, 56]>(input_image)
      shape = Constant<value_ints=[0, 2, 12]>()
      rows = Reshape(pooled, shape)
      [fc] y = MatMul(rows, w)
    }
    """
    model = save(build(body, {"w": gaussian(12, 6)}), tmp_path / "backbone.onnx")
    monkeypatch.setattr(dinov2, "backbone", lambda _: model)
    for name, value in {
        "PROTOCOL_IMAGES": 4,
        "PROBED_IMAGES": 15,
        "_PROBE_START": 10,
        "_SLICE": 6,
        "_BATCH": 4,
    }.items():
        monkeypatch.setattr(subjects, name, value)
    subject = subjects.dino(tmp_path)
    plan = RankPlan("", "a test", 0, 0, (SiteRank("fc", 12, 6, 2, 0.0),))
    cut = fold_plain(model, plan, tmp_path / "cut.onnx")
    scores = subject.score(cut)
    assert list(scores) == ["relative L2", "probe accuracy", "relative L2, first 96"]
    assert [len(measure.above) for measure in scores.values()] == [15, 15, 4]
    whole, folded = (outputs(path, dinov2.images("t10k", 19), batch=5)[:, 0] for path in (model, cut))
    away = np.linalg.norm(folded[4:] - whole[4:]) / np.linalg.norm(whole[4:])
    # The same float32 rows, run in other batches: roundings of 6e-8.
    assert scores["relative L2"].value == pytest.approx(float(away), rel=1e-5)
    labels = fashion.read(tmp_path, "train").labels[10:25]
    probe = fitted(outputs(model, dinov2.images("train", 15, start=10), batch=5)[:, 0], labels)
    right = probe.classes(folded[4:]) == fashion.read(tmp_path, "test").labels[4:19]
    assert scores["probe accuracy"].above.tolist() == right.tolist()
    assert list(subjects.dino(tmp_path, fast=True).score(cut)) == ["relative L2, first 96"]


def test_what_another_model_gave_is_not_taken(tmp_path: Path) -> None:
    first, second = mlp(tmp_path / "a.onnx"), mlp(tmp_path / "b.onnx", seed=9)
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.full(3, float(len(calls)))

    found = [subjects._kept(tmp_path, "x", model, compute)[0] for model in (first, second, first)]
    assert found == [1.0, 2.0, 1.0]
