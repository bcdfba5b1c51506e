"""`python -m rankfold.models.train`: what it trains and writes, and what it says is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cifar_examples
import onnx
import pytest

from rankfold.models import train as train_module
from rankfold.models.networks import STANDARD
from rankfold.models.resnet_deep import DeepResNetShape
from rankfold.models.train_options import asked


def run_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--threads", "1", "--epochs", "1"]
    train_module.main([*more, *arguments])
    return json.loads(capsys.readouterr().out)


def test_the_command_trains_on_cifar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar_examples.write_cifar10(tmp_path, binary=True, each=8)
    sizes = ("--width", "0.0625", "--depth", "0.5", "--form", "cifar")
    recipe = ("--batch", "16", "--weight-decay", "0.01", "--seed", "3", "--learning-rate", "0.02")
    reached = run_command(tmp_path, capsys, "resnet18", "--dataset", "cifar10", *sizes, *recipe)
    assert reached["classes"] == list(cifar_examples.TEN)
    narrow = DeepResNetShape(32, 3, (4, 8, 16, 32), (1, 1, 1, 1), form="cifar", classes=10)
    assert reached["shape"] == json.loads(json.dumps(vars(narrow)))
    asked = replace(STANDARD["resnet18"].recipe, epochs=1, batch=16, weight_decay=0.01, seed=3, learning_rate=0.02)
    assert reached["recipe"] == vars(asked)
    graph = onnx.load(tmp_path / "out" / "resnet18.onnx").graph
    assert [axis.dim_param or axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        32,
        32,
    ]


def test_another_optimizer_has_a_rate_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar_examples.write_cifar100(tmp_path, binary=False, train=24)
    monkeypatch.setattr(train_module, "export_network", lambda *_: None)
    command = ("mlp", "--dataset", "cifar100", "--width", "0.02", "--depth", "0.4", "--batch", "8")
    reached = run_command(tmp_path, capsys, *command, "--optimizer", "adamw")
    assert (reached["recipe"]["optimizer"], reached["recipe"]["learning_rate"]) == ("adamw", 1e-3)
    assert (reached["shape"]["width"], reached["shape"]["depth"], reached["shape"]["classes"]) == (10, 2, 100)
    message = r"checkpoint\.pt was made with .*'optimizer': 'adamw'.*give another --out"
    with pytest.raises(SystemExit, match=message):
        run_command(tmp_path, capsys, *command, "--optimizer", "sgd")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["vit-fashion", "--dataset", "cifar10"],
            "vit-fashion has one size and is for fashion-mnist; leave out --dataset",
        ),
        (["resnet18", "--dataset", "cifar10", "--patch-size", "4"], "only transformers have patches"),
        (["mlp", "--dataset", "cifar10", "--image-size", "16"], "cifar10 has images of one size"),
        (["mlp", "--dataset", "cifar10", "--batch", "0"], "batch is 0, expected 1 at least"),
        (
            ["mlp", "--dataset", "cifar10", "--weight-decay", "-1"],
            r"weight_decay is -1\.0, expected a number from 0 on",
        ),
        (["mlp", "--dataset", "folder"], "train: no such folder"),
        (["mlp", "--dataset", "cifar100"], "no CIFAR-100 there"),
        (["mlp", "--dataset", "cifar10"], "19 training images; one batch takes 128; set a smaller batch"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    cifar_examples.write_cifar10(tmp_path, binary=False)
    with pytest.raises(SystemExit, match=rf"rankfold\.models\.train: .*{message}"):
        run_command(tmp_path, capsys, *more)


def test_networks_that_ship_keep_their_size(tmp_path: Path) -> None:
    arguments = ["vit-fashion", "--data", str(tmp_path), "--out", str(tmp_path), "--width", "2", "--patch-size", "7"]
    options = train_module._parser().parse_args(arguments)
    with pytest.raises(ValueError, match="leave out --width, --patch-size, or choose one of resnet18, "):
        asked(options, None)
