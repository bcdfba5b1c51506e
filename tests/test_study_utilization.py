"""The study of utilization on made-up images and tiny networks: what is run once, and trainings on equal terms."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import dinov2
from benchmarks.studies import utilization, utilization_networks
from benchmarks.studies.masked_images import MaskedViT
from benchmarks.studies.utilization_figures import ABOUT, SHARES, utilizations
from benchmarks.studies.utilization_networks import Network, Settings, networks, parted, probe_accuracy
from fashion_examples import write_idx
from onnx_examples import build as example
from onnx_examples import gaussian, save

from rankfold.models import demo
from rankfold.models.labelled_images import LabelledImages, as_input
from rankfold.models.networks import build
from rankfold.models.recipe import Recipe
from rankfold.models.train import train
from rankfold.models.training_run import Run
from rankfold.models.vit import ViT, ViTShape

SHAPE = ViTShape(patch_size=7, width=16, depth=2, heads=2)
SMALL = Settings(
    SHAPE,
    Recipe(
        epochs=2,
        batch=16,
        learning_rate=1e-2,
        warmup_epochs=1,
        drop_path=0.0,
        erase=0.0,
        average=0.5,
        precision="float32",
    ),
    images=96,
    measured=30,
    seeds=(0, 1),
)


def made_up(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of 28 × 28 with one bright row each, which is their class."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, count).astype(np.uint8)
    images = random.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    images[np.arange(count), 2 * labels] = 250
    return images, labels


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder where a study finds images and a small stand-in for what exists, and where its results go."""
    images, labels = made_up(120)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    body = "g (float[N,1,28,28] x) => (float[N,1,28,16] y) { h = MatMul(x, w1) y = MatMul(h, w2) }"
    model = example(body, {"w1": gaussian(28, 64), "w2": gaussian(64, 16, seed=1)})
    for node, name in zip(model.graph.node, ("fc1", "fc2"), strict=True):
        node.name = f"/backbone/encoder/layer.0/mlp/{name}/MatMul"
    stand_in = save(model, tmp_path / "stand_in.onnx")
    monkeypatch.setattr(dinov2, "backbone", lambda _: stand_in)
    monkeypatch.setattr(demo, "embedded_model", lambda: stand_in)
    monkeypatch.setattr(dinov2, "images", lambda _, count, *, start=0: as_input(images[start : start + count, None]))
    (tmp_path / "studies.md").write_text("<!-- utilization: begin -->\nold\n<!-- utilization: end -->\n")
    monkeypatch.setattr(utilization, "STUDIES", tmp_path / "studies.md")
    monkeypatch.setattr(utilization, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(utilization, "PICTURES", tmp_path / "pictures")
    return tmp_path


def told_to(epochs: list[tuple[str, int]], *, stop: tuple[str, int] | None = None) -> Callable[..., Any]:
    def after_epochs(network: Network, _: Settings, __: int) -> Callable[[int, float], None]:
        def after(epoch: int, _: float) -> None:
            epochs.append((network.name, epoch))
            if (network.name, epoch) == stop:
                raise KeyboardInterrupt

        return after

    return after_epochs


def test_a_study_that_was_stopped_goes_on_and_computes_nothing_twice(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs: list[tuple[str, int]] = []
    monkeypatch.setattr(utilization, "QUICK", SMALL)
    arguments = ["--work", str(place / "work")]
    with monkeypatch.context() as patch:
        patch.setattr(utilization, "_after_epochs", told_to(epochs, stop=("masked-0", 1)))
        with pytest.raises(KeyboardInterrupt):
            utilization.main(arguments)
    assert epochs == [("supervised-0", 1), ("supervised-0", 2), ("masked-0", 1)]
    done = {path: path.stat().st_mtime_ns for path in (place / "work").glob("*.json")}
    assert {"vit.mean.json", "dinov2.zero.json", "supervised-0.mean.json"} <= {path.name for path in done}
    del done[place / "work" / "settings.json"]
    with monkeypatch.context() as patch:
        patch.setattr(utilization, "_after_epochs", told_to(epochs))
        utilization.main(arguments)
    assert epochs[3:] == [
        ("masked-0", 2),
        *((f"{kind}-1", epoch) for kind in ("supervised", "masked") for epoch in (1, 2)),
    ]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    page = (place / "studies.md").read_text()
    check_results(json.loads((place / "results/studies/utilization.json").read_text()), page)
    check_pictures(place / "pictures")

    for module, name in (
        (utilization, "utilization"),
        (utilization_networks, "train"),
        (utilization_networks, "pretrain"),
    ):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("computed twice"))
    utilization.main(arguments)
    assert (place / "studies.md").read_text() == page
    drawn = (place / "pictures" / "utilization-depth.svg").read_bytes()
    (place / "pictures" / "utilization-depth.svg").unlink()
    (place / "studies.md").write_text("<!-- utilization: begin -->\nold\n<!-- utilization: end -->\n")
    utilization.main(["--redraw"])
    assert (place / "studies.md").read_text() == page
    assert (place / "pictures" / "utilization-depth.svg").read_bytes() == drawn
    with pytest.raises(SystemExit, match="give another --work"):
        utilization.main([*arguments, "--full"])
    capsys.readouterr()


def check_results(results: dict[str, Any], page: str) -> None:
    rows = results["networks"]
    assert [(row["kind"], row["seed"], row["about"]) for row in rows] == [
        (network.kind, network.seed, about) for network in networks(SMALL) for about in ABOUT
    ]
    assert {(row["kind"], len(row["layers"])) for row in rows} == {
        ("vit", 2), ("dinov2", 2), ("untrained", 8), ("supervised", 8), ("masked", 8),
    }  # fmt: skip
    for row in rows:
        means = [np.mean(utilizations(row["layers"], index)) for index in range(len(SHARES))]
        np.testing.assert_allclose(row["mlu"], means, rtol=1e-12)  # sums of 20 numbers in another order
        assert all(first <= second for first, second in zip(row["mlu"], row["mlu"][1:], strict=False))
        assert 0 < row["stable"] <= row["effective"] <= 1
    assert (
        len({tuple(row["mlu"]) for row in rows if row["about"] == "mean"}) == len(networks(SMALL)) - 1
    )  # the stand-in is there twice
    trained = {(row["kind"], row["seed"]): row["trained"] for row in rows}
    assert trained["vit", None] is None
    assert len(trained["supervised", 1]["losses"]) == len(trained["masked", 0]["losses"]) == 2
    assert "losses" not in trained["untrained", 0]
    assert page.startswith("<!-- utilization: begin -->\nOn the first 30 training images. ")
    assert "| DINOv2 ViT-S/14, self-supervised | zero | " in page
    assert "| self-supervised is | mean | " in page
    assert "![Mean layer utilization against the share](pictures/utilization-shares.svg)" in page


def check_pictures(folder: Path) -> None:
    depth, shares = ((folder / f"utilization-{name}.svg").read_text() for name in ("depth", "shares"))
    # matplotlib notes each text as a comment beside its outlines.
    for label in ("attention in", "attention out", "fc1", "fc2", "mean (MLU)", "block"):
        assert f"<!-- {label} -->" in depth
    for label in ("embedded ViT, supervised", "one ViT, before training", "one ViT, self-supervised", "99.9 %"):
        assert f"<!-- {label} -->" in shares
    assert "<!-- variance about zero -->" in shares


def test_both_trainings_see_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = made_up(60)
    seen: list[torch.Tensor] = []

    def train_epoch(_: Run, used: torch.Tensor, __: torch.Tensor) -> float:
        seen.append(used)
        return 0.0

    monkeypatch.setattr(Run, "train_epoch", train_epoch)
    given = LabelledImages(images[:, None], labels.astype(np.int64), tuple("abcdefghij"))
    train(SHAPE, replace(SMALL.recipe, epochs=1, seed=3), given, tmp_path)
    used, held = parted(60, 3)
    np.testing.assert_array_equal(seen[0].numpy(), given.images[used])
    assert sorted([*used, *held]) == list(range(60))


def test_both_trainings_begin_with_the_weights_before_training(tmp_path: Path) -> None:
    torch.manual_seed(5)
    first = build(SHAPE).state_dict()
    torch.manual_seed(5)
    masked = MaskedViT(SHAPE).encoder.state_dict()
    supervised = Run(SHAPE, replace(SMALL.recipe, seed=5), tmp_path).model.state_dict()
    for name, value in first.items():
        assert torch.equal(value, masked[name]), name
        assert torch.equal(value, supervised[name]), name


def test_labels_are_read_off_features_that_hold_them() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 480)
    pixels = (random.integers(0, 100, (480, 1, 28, 28)) + 100 * labels[:, None, None, None]).astype(np.uint8)
    network = build(SHAPE)
    assert isinstance(network, ViT)
    assert probe_accuracy(network.eval(), LabelledImages(pixels, labels, ("dark", "bright")), 0) == 1.0
    # Of 40 images with coins for labels, 36 right come up once in ten million draws.
    coins = LabelledImages(pixels, random.integers(0, 2, 480), ("heads", "tails"))
    assert probe_accuracy(network, coins, 0) < 0.9


def test_a_folder_for_the_runs_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        utilization.main([])
    assert "--work says where" in capsys.readouterr().err
