"""Training at several weight decays and seeds, and the ranks of what comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cifar_examples
import numpy as np
import pytest
import torch

from rankfold.models import sweep as sweep_module
from rankfold.models.labelled_images import LabelledImages, Splits
from rankfold.models.mlp import MLPShape
from rankfold.models.networks import STANDARD, Reference
from rankfold.models.sweep import SUMMARY, run_name, sweep, table
from rankfold.models.training_run import Run
from rankfold.models.weight_ranks import weight_ranks

RECIPE = replace(STANDARD["mlp"].recipe, epochs=2, batch=8, warmup_epochs=0.0, average=0.5)
TINY = Reference(MLPShape(image_size=4, in_channels=1, width=8, depth=1, classes=2), RECIPE, "mlp.onnx")


def images(count: int, seed: int = 0) -> LabelledImages:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    pixels = random.integers(0, 100, (count, 1, 4, 4)) + 100 * labels[:, None, None, None]
    return LabelledImages(pixels.astype(np.uint8), labels, ("dark", "bright"))


SPLITS = Splits(images(36), images(20, 1))


def test_ranks_are_those_of_the_singular_values() -> None:
    """A kernel whose singular values are 3, 2 and 1: squares 9, 4 and 1 of 14."""
    random = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(5, 3, generator=random, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(8, 3, generator=random, dtype=torch.float64)).Q
    kernel = (left * torch.tensor([3.0, 2.0, 1.0]) @ right.T).reshape(5, 2, 2, 2)
    state = {"conv.weight": kernel, "conv.bias": torch.ones(5), "norm.weight": torch.ones(5)}
    (found,) = weight_ranks(state, classes=2)
    shares = np.array([3, 2, 1]) / 6
    assert (found.layer, found.out_features, found.in_features, found.share_rank) == ("conv", 5, 8, 3)
    # Singular values are rounded by some units of 2.2e-16 of the largest.
    assert found.stable_rank == pytest.approx(14 / 9, rel=1e-13)
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-12)
    assert found.distance_to_classes == pytest.approx((1 / 14) ** 0.5, rel=1e-13)
    (empty,) = weight_ranks({"head.weight": torch.zeros(2, 3)}, classes=1)
    assert (empty.stable_rank, empty.share_rank, empty.distance_to_classes) == (0.0, 0, 0.0)


def test_a_sweep_is_resumed_and_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sweep(SPLITS, tmp_path / "whole", TINY, weight_decays=[0.0, 0.1], seeds=[0, 1], threads=1)
    epochs: list[int] = []
    train_epoch = Run.train_epoch

    def counted(run: Run, *tensors: torch.Tensor) -> float:
        if len(epochs) == 3:
            raise KeyboardInterrupt  # in the second epoch of the second run
        epochs.append(run.epoch)
        return train_epoch(run, *tensors)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_epoch", counted)
        with pytest.raises(KeyboardInterrupt):
            sweep(SPLITS, tmp_path / "parts", TINY, weight_decays=[0.0], seeds=[0, 1], threads=1)
    assert [run["seed"] for run in json.loads((tmp_path / "parts" / SUMMARY).read_text())["runs"]] == [0]
    assert epochs == [0, 1, 0]
    epochs.clear()

    def only_what_is_left(run: Run, *tensors: torch.Tensor) -> float:
        epochs.append(run.epoch)
        return train_epoch(run, *tensors)

    monkeypatch.setattr(Run, "train_epoch", only_what_is_left)
    sweep(SPLITS, tmp_path / "parts", TINY, weight_decays=[0.0], seeds=[0, 1], threads=1)
    assert epochs == [1]
    grown = sweep(SPLITS, tmp_path / "parts", TINY, weight_decays=[0.1], seeds=[0, 1], threads=1)
    assert epochs == [1, 0, 1, 0, 1]
    assert grown == whole == json.loads((tmp_path / "parts" / SUMMARY).read_text())
    again = sweep(SPLITS, tmp_path / "parts", TINY, weight_decays=[0.0, 0.1], seeds=[0, 1], threads=1)
    assert again == whole
    assert len(epochs) == 5


def test_the_summary_is_of_what_lies_in_the_runs(tmp_path: Path) -> None:
    summary = sweep(SPLITS, tmp_path, TINY, weight_decays=[0.5], seeds=[3], threads=1)
    (run,) = summary["runs"]
    folder = tmp_path / run_name(0.5, 3)
    reached = json.loads((folder / "reached.json").read_text())
    assert (reached["recipe"]["weight_decay"], reached["recipe"]["seed"]) == (0.5, 3)
    assert run["test_accuracy"] == reached["test_accuracy"]
    best = torch.load(folder / "best.pt", weights_only=True)
    assert [layer["layer"] for layer in run["layers"]] == ["layers.0", "head"]
    weight = best["layers.0.weight"].double()
    stable = float(weight.square().sum() / torch.linalg.matrix_norm(weight, 2) ** 2)
    assert run["layers"][0]["stable_rank"] == pytest.approx(stable, rel=1e-12)
    assert run["layers"][1]["distance_to_classes"] == 0.0  # a head of two classes has rank 2
    assert run["layers"] != run["layers_last"]
    assert table(summary).splitlines()[2].startswith(f"| 0.5 | 1 | {run['test_accuracy']:.4f} |")


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    sweep(SPLITS, tmp_path, TINY, weight_decays=[0.5], seeds=[3], threads=1)
    other = replace(TINY, recipe=replace(RECIPE, epochs=1))
    with pytest.raises(ValueError, match=r"sweep\.json is of a sweep with other settings: recipe was .*another --out"):
        sweep(SPLITS, tmp_path, other, weight_decays=[0.5], seeds=[3], threads=1)
    with pytest.raises(ValueError, match="other settings: images was"):
        sweep(Splits(images(36, 5), SPLITS.test), tmp_path, TINY, weight_decays=[0.5], seeds=[3], threads=1)
    with pytest.raises(ValueError, match=r"weight_decay is -1\.0, expected a number from 0 on"):
        sweep(SPLITS, tmp_path / "new", TINY, weight_decays=[0.5, -1.0], seeds=[3], threads=1)
    assert not (tmp_path / "new").exists()


def test_the_command_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar_examples.write_cifar10(tmp_path, binary=True, each=8)
    sizes = ("--width", "0.02", "--depth", "0.2", "--batch", "16", "--epochs", "1", "--threads", "1")
    folders = ("--data", str(tmp_path), "--out", str(tmp_path / "out"))
    swept = ("--weight-decays", "1e-2,1e-4", "--seeds", "1")
    sweep_module.main(["mlp", "--dataset", "cifar10", *sizes, *folders, *swept, "--decay-form", "linear"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 0.0001", "| 0.01"]
    summary = json.loads((tmp_path / "out" / SUMMARY).read_text())
    assert summary["settings"]["recipe"]["decay_form"] == "linear"
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {
        "decay-0.0001-seed-1",
        "decay-0.01-seed-1",
    }
    with pytest.raises(SystemExit, match=r"rankfold\.models\.sweep: .*sweep with other settings"):
        sweep_module.main(["mlp", "--dataset", "cifar10", *sizes, *folders, *swept, "--decay-form", "cosine"])


@pytest.mark.parametrize("option", [("--weight-decays", "a,b"), ("--seeds", "1.5")])
def test_lists_that_cannot_be_read_are_refused(capsys: pytest.CaptureFixture[str], option: tuple[str, str]) -> None:
    given = ["mlp", "--data", "x", "--out", "y", "--weight-decays", "1", *option]
    with pytest.raises(SystemExit):
        sweep_module.main(given)
    assert "numbers with commas between" in capsys.readouterr().err
