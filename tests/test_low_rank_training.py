"""The recipe with a low-rank term: train, resume, export; by function and by command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cifar_examples
import numpy as np
import pytest
import torch
from low_rank_examples import hooks
from torch import Tensor
from train_examples import PLAIN, TINY_MLP, same, some_images

import rankfold
from rankfold.errors import OptionsError
from rankfold.models import train as train_module
from rankfold.models.recipe import Recipe
from rankfold.models.resnet_deep import DeepResNetShape
from rankfold.models.train import Trained, train
from rankfold.models.training_run import Run
from rankfold.training.low_rank import LowRank
from rankfold.training.low_rank_term import LowRankTerm

RESNET = DeepResNetShape(8, 3, (4, 8), (1, 1), form="cifar", classes=2)
LOW = LowRank({"layer1": 2, "layer2": 3}, renew_every=3)


def interrupted(monkeypatch: pytest.MonkeyPatch, folder: Path, recipe: Recipe) -> None:
    """Train until the third epoch begins."""
    whole_epoch = Run.train_epoch

    def until(run: Run, *tensors: Tensor) -> float:
        if run.epoch == 2:
            raise KeyboardInterrupt
        return whole_epoch(run, *tensors)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_epoch", until)
        with pytest.raises(KeyboardInterrupt):
            train(RESNET, recipe, some_images(48), folder)


@pytest.mark.parametrize("low_rank", [LOW, replace(LOW, method="nystrom", rows="samples"), None])
def test_an_interrupted_training_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low_rank: LowRank | None
) -> None:
    decay = {"weight_decay": 0.1, "decay_form": "cosine", "decay_warmup_epochs": 0.5}
    recipe = replace(PLAIN, **decay, low_rank=low_rank)
    whole = train(RESNET, recipe, some_images(48), tmp_path / "whole")
    interrupted(monkeypatch, tmp_path / "parts", recipe)
    resumed = train(RESNET, recipe, some_images(48), tmp_path / "parts")
    assert resumed.history == whole.history
    assert same(resumed.last, whole.last)
    assert same(resumed.network, whole.network)
    assert resumed.outside == whole.outside
    assert hooks(whole.last) == 0
    assert set(whole.outside) == (set() if low_rank is None else {"layer1", "layer2"})
    again = train(RESNET, recipe, some_images(48), tmp_path / "parts")  # done already
    assert again.outside == whole.outside


def test_a_checkpoint_without_a_term_is_not_gone_on_from_with_one(tmp_path: Path) -> None:
    train(TINY_MLP, replace(PLAIN, epochs=1), some_images(48), tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt was made with .*give another --out"):
        train(TINY_MLP, replace(PLAIN, epochs=1, low_rank=LowRank({"layers.0": 2})), some_images(48), tmp_path)


def test_a_checkpoint_of_before_the_new_settings_goes_on(tmp_path: Path) -> None:
    done = train(TINY_MLP, PLAIN, some_images(48), tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for name in ("decay_form", "decay_end", "decay_warmup_epochs", "low_rank"):
        del saved["settings"]["recipe"][name]
    torch.save(saved, tmp_path / "checkpoint.pt")
    assert train(TINY_MLP, PLAIN, some_images(48), tmp_path).history == done.history
    with pytest.raises(ValueError, match="give another --out"):
        train(TINY_MLP, replace(PLAIN, decay_form="linear"), some_images(48), tmp_path)


def test_weight_decay_follows_its_schedule(tmp_path: Path) -> None:
    seen: list[list[float]] = []
    recipe = replace(PLAIN, weight_decay=0.2, decay_form="linear", decay_end=0.5, epochs=3, batch=44)
    train(
        TINY_MLP,
        recipe,
        some_images(48),
        tmp_path,
        told=lambda run, _: seen.append([group["weight_decay"] for group in run.optimizer.param_groups]),
    )
    assert seen == [[pytest.approx(0.2 * factor), 0.0] for factor in (1.0, 0.75, 0.5)]


def with_own_term(folder: Path) -> Trained:
    """Train with a term through the function's own arguments, as anybody may."""
    term = LowRankTerm(LowRank({"layer1": 2}, renew_every=4))
    return train(
        RESNET, PLAIN, some_images(48), folder, extra_loss=lambda _: term.loss(), extra_state=term, prepare=term.attach
    )


def test_a_term_of_ones_own_is_the_recipes_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(PLAIN, low_rank=LowRank({"layer1": 2}, renew_every=4))
    whole = train(RESNET, recipe, some_images(48), tmp_path / "whole")
    assert same(with_own_term(tmp_path / "own").last, whole.last)
    whole_epoch = Run.train_epoch

    def until(run: Run, *tensors: Tensor) -> float:
        if run.epoch == 1:
            raise KeyboardInterrupt
        return whole_epoch(run, *tensors)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_epoch", until)
        with pytest.raises(KeyboardInterrupt):
            with_own_term(tmp_path / "parts")
    assert same(with_own_term(tmp_path / "parts").last, whole.last)


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="no module 'layer3'; near it, or among all, are layer"):
        train(RESNET, replace(PLAIN, low_rank=LowRank({"layer3": 2})), some_images(48), tmp_path)


def command(tmp_path: Path, *more: str) -> None:
    sizes = ("--width", "0.0625", "--depth", "0.5", "--form", "cifar", "--batch", "16", "--epochs", "1")
    folders = ("--data", str(tmp_path), "--out", str(tmp_path / "out"), "--threads", "1")
    train_module.main(["resnet18", "--dataset", "cifar10", *sizes, *folders, *more])


def test_the_command_trains_toward_low_rank_and_what_it_exports_is_compressed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar_examples.write_cifar10(tmp_path, binary=True, each=8)
    said = ("--low-rank", "layer3:4,layer4:2", "--low-rank-weight", "0.5", "--low-rank-method", "exact")
    command(tmp_path, *said, "--no-low-rank-centred", "--low-rank-renew-every", "2")
    captured = capsys.readouterr()
    reached = json.loads(captured.out)
    asked = LowRank({"layer3": 4, "layer4": 2}, weight=0.5, method="exact", centred=False, renew_every=2)
    assert reached["recipe"]["low_rank"] == vars(asked)
    assert set(reached["outside_low_rank"]) == {"layer3", "layer4"}
    assert "  outside layer3 0." in captured.err
    random = np.random.default_rng(0)
    feeds = [{"image": random.random((8, 3, 32, 32), dtype=np.float32)} for _ in range(4)]
    result = rankfold.compress(tmp_path / "out" / "resnet18.onnx", feeds, keep=0.5, output=tmp_path / "smaller.onnx")
    size = result.report.linear_parameters
    assert 0 < size.after <= 0.5 * size.before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--low-rank-weight", "1"], "--low-rank-weight without --low-rank; name the modules"),
        (["--low-rank", "layer9:4"], "no module 'layer9'; near it, or among all, are layer"),
        (["--low-rank", "layer3:0"], "rank 0 of 'layer3'; expected 1 at least"),
        (["--low-rank", "layer3:16"], "rank 16 of module 'layer3', whose activations have 16 features"),
        (["--decay-end", "0.5"], r"end is 0\.5 with a constant form"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, more: list[str], message: str) -> None:
    cifar_examples.write_cifar10(tmp_path, binary=True, each=8)
    with pytest.raises(SystemExit, match=rf"rankfold\.models\.train: .*{message}"):
        command(tmp_path, *more)


@pytest.mark.parametrize("text", ["layer3", "layer3:x", ":3", "a:1,a:2", ""])
def test_ranks_that_cannot_be_read_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit):
        command(tmp_path, "--low-rank", text)
    assert "expected MODULE:RANK, each module once" in capsys.readouterr().err
