"""Training the reference networks: going on after an interruption, refusals, the commands, and the data they read."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fashion_examples import TINY, write_idx, write_images

from rankfold.models import datasets, fashion_mnist, pack, train
from rankfold.models.networks import REFERENCES, Reference, Shape
from rankfold.models.recipe import Recipe
from rankfold.models.resnet import ResNetShape
from rankfold.models.training_run import Run

TINY_RESNET = ResNetShape(widths=(4, 8), depths=(1, 2))
SHORT = Recipe(epochs=3, batch=16, warmup_epochs=1.0)


@pytest.mark.parametrize("shape", [TINY, TINY_RESNET], ids=["vit", "resnet"])
def test_training_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Shape
) -> None:
    images = datasets.read("fashion-mnist", write_images(tmp_path, train_count=48, test_count=10))
    monkeypatch.setattr(train, "export_network", lambda *_: None)
    reference = Reference(shape, SHORT, "unused.onnx")

    def reached(folder: str) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
        result = train.train_network(images, tmp_path / folder, reference, threads=1)
        return result, torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True)

    result, state = reached("whole")
    whole_epoch = Run.train_epoch

    def interrupted(run: Run, *tensors: torch.Tensor) -> float:
        if run.epoch == 1:
            raise KeyboardInterrupt
        return whole_epoch(run, *tensors)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reached("parts")
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["epoch"] == 1
    resumed, resumed_state = reached("parts")
    assert resumed == result
    for kind in ("model", "average"):
        for name, value in state[kind].items():
            assert torch.equal(resumed_state[kind][name], value), name
    assert not torch.equal(state["model"]["head.weight"], state["average"]["head.weight"])


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    Run(TINY, SHORT, tmp_path).save()
    with pytest.raises(ValueError, match=r"checkpoint\.pt was made with .*'seed': 0.*give another --out"):
        Run(TINY, Recipe(seed=1), tmp_path).resume()


def test_less_than_one_batch_is_refused(tmp_path: Path) -> None:
    run = Run(TINY, SHORT, tmp_path)
    with pytest.raises(ValueError, match="15 training images; one batch takes 16"):
        run.train_epoch(torch.zeros(15, 1, 28, 28), torch.zeros(15, dtype=torch.int64))


@pytest.mark.parametrize("name", list(REFERENCES))
def test_commands_train_and_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    data = write_images(tmp_path, train_count=300, test_count=20)
    out, shipped = tmp_path / "out", tmp_path / "shipped"
    shipped.mkdir()
    train.main([name, "--data", str(data), "--out", str(out), "--epochs", "1", "--threads", "1"])
    said = capsys.readouterr()
    reached = json.loads(said.out)
    assert reached == json.loads((out / "reached.json").read_text())
    assert reached["recipe"] == asdict(replace(REFERENCES[name].recipe, epochs=1))
    assert said.err.startswith("epoch 1/1  loss ")
    write_images(data, train_count=600, test_count=1000)
    pack.main([name, "--data", str(data), "--trained", str(out), "--out", str(shipped)])
    file = REFERENCES[name].file
    assert (shipped / file).read_bytes() == (out / file).read_bytes()
    assert np.load(shipped / "fashion_calibration.npz")["image"].shape == (512, 1, 28, 28)
    assert np.load(shipped / "fashion_test.npz")["labels"].shape == (1000,)


def test_commands_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"rankfold\.models\.train: .*train-images-idx3-ubyte\.gz"):
        train.main(["vit-fashion", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"rankfold\.models\.pack: .*best\.pt"):
        pack.main(["vit-fashion", "--data", str(tmp_path), "--trained", str(tmp_path), "--out", str(tmp_path)])


def test_damaged_data_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, train_count=4, test_count=4)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    write_idx(labels, np.zeros(3))
    with pytest.raises(ValueError, match="4 train images but 3 labels"):
        fashion_mnist.read(tmp_path, "train")
    labels.write_bytes(labels.read_bytes()[:-6])
    with pytest.raises(ValueError, match=r"train-labels.*: damaged or cut short .*fetch it again"):
        fashion_mnist.read(tmp_path, "train")
    labels.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 4) + b"\0"))
    with pytest.raises(ValueError, match=r"1 bytes for shape \(4,\)"):
        fashion_mnist.read(tmp_path, "train")
    labels.write_bytes(gzip.compress(b"\0\0"))
    with pytest.raises(ValueError, match="not an idx file of unsigned bytes with 1 axes"):
        fashion_mnist.read(tmp_path, "train")
