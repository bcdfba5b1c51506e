"""The reference networks: their shapes, their export, their training, and what ships of them."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from package_sources import ROOT

from rankfold.models import datasets, demo, fashion_mnist, pack, train
from rankfold.models.export import export_network
from rankfold.models.networks import REFERENCES, Reference, Shape
from rankfold.models.recipe import Recipe
from rankfold.models.resnet import ResNetShape
from rankfold.models.training_run import Run
from rankfold.models.vit import ViT, ViTShape

TINY = ViTShape(patch_size=7, width=16, depth=2, heads=2)
TINY_RESNET = ResNetShape(widths=(4, 8), depths=(1, 2))
SHORT = Recipe(epochs=3, batch=16, warmup_epochs=1.0)

# The same float32 sums in another order, a few layers deep: a few dozen roundings of 6e-8 on logits near 1.
ROUNDING = 5e-6


def tiny_network(*, fused_qkv: bool) -> ViT:
    """Return a network whose parameters are all different, so that none can stand for another."""
    torch.manual_seed(0)
    network = ViT(TINY, fused_qkv=fused_qkv)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes(), compresslevel=1))


def write_images(folder: Path, *, train_count: int, test_count: int) -> Path:
    random = np.random.default_rng(0)
    for prefix, count in (("train", train_count), ("t10k", test_count)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", random.integers(0, 10, count))
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["fused qkv", "separate q, k, v"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ViT, Path]:
    network = tiny_network(fused_qkv=request.param)
    path = tmp_path_factory.mktemp("export") / "vit.onnx"
    export_network(network, TINY, path)
    return network, path


def test_vit_maps_images_to_one_logit_per_class() -> None:
    images = torch.rand(3, 1, 28, 28)
    assert tiny_network(fused_qkv=True)(images).shape == (3, 10)
    assert tiny_network(fused_qkv=False)(images).shape == (3, 10)
    assert TINY.tokens == 16
    assert sum(parameter.numel() for parameter in ViT(ViTShape()).parameters()) == 2_239_306


def test_separate_projections_are_the_fused_one_cut_in_three() -> None:
    fused, separate = tiny_network(fused_qkv=True), tiny_network(fused_qkv=False)
    state = {name: value for name, value in fused.state_dict().items() if ".projections." not in name}
    for name, value in fused.state_dict().items():
        if ".projections.0." in name:
            parts = enumerate(value.chunk(3))
            state |= {name.replace("projections.0", f"projections.{index}"): part for index, part in parts}
    separate.load_state_dict(state)
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(separate(images), fused(images), rtol=0, atol=ROUNDING)


def test_branches_are_dropped_while_training_only() -> None:
    network = ViT(TINY, drop_path=0.5)
    images = torch.rand(8, 1, 28, 28)
    assert torch.equal(network.eval()(images), network(images))
    assert not torch.equal(network.train()(images), network(images))


@pytest.mark.parametrize("batch", [1, 3])
def test_export_computes_what_torch_does(exported: tuple[ViT, Path], batch: int) -> None:
    network, path = exported
    images = torch.rand(batch, 1, 28, 28)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, network(images).numpy(), rtol=0, atol=ROUNDING)


def test_export_is_one_plain_graph_named_after_the_modules(exported: tuple[ViT, Path]) -> None:
    network, path = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    weights = {value.name for value in model.graph.initializer if value.name.endswith(".weight")}
    assert weights == {name for name in network.state_dict() if name.endswith(".weight")}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert len(model.functions) == 0
    per_block = (4 if len(network.blocks[0].attention.projections) == 1 else 6) + 2  # weights, and the attention's own
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["MatMul"] == per_block * TINY.depth
    assert (counts["Conv"], counts["Gemm"], counts["Gelu"]) == (1, 1, TINY.depth)
    assert set(counts).isdisjoint({"Shape", "Identity", "Constant", "Cast", "Einsum"})
    linear = {node.name: list(node.input) for node in model.graph.node}
    assert linear["blocks.1.fc2/MatMul"][1] == "blocks.1.fc2.weight"
    assert linear["blocks.1.fc2/Add"] == ["blocks.1.fc2/MatMul", "blocks.1.fc2.bias"]
    assert len(linear) == len(model.graph.node)


def test_export_has_a_symbolic_batch(exported: tuple[ViT, Path]) -> None:
    graph = onnx.load(exported[1]).graph
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert axes == {"image": ["batch", 1, 28, 28], "logits": ["batch", 10]}


def test_export_is_repeatable_and_tells_nothing_of_the_machine(exported: tuple[ViT, Path], tmp_path: Path) -> None:
    network, path = exported
    export_network(network, TINY, tmp_path / "again.onnx")
    written = path.read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == written
    assert [file.name for file in tmp_path.iterdir()] == ["again.onnx"]
    assert not any(word in written for word in (str(ROOT).encode(), b"vit.py", b"stack_trace", b"aten"))


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


def test_the_shipped_files_load_without_torch() -> None:
    command = (
        "import sys; sys.modules['torch'] = None\n"
        "import rankfold.models, rankfold.models.datasets\n"
        "from rankfold.models import demo\n"
        "shipped = (demo.embedded_model, demo.embedded_resnet, demo.calibration_data, demo.test_data)\n"
        "assert all(path().is_file() for path in shipped)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_shipped_images_are_what_the_model_takes() -> None:
    calibration, test = np.load(demo.calibration_data()), np.load(demo.test_data())
    assert (calibration.files, test.files) == (["image"], ["image", "labels"])
    for images, count in ((calibration["image"], 512), (test["image"], 1000)):
        assert (images.shape, images.dtype) == ((count, 1, 28, 28), np.float32)
        assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(test["labels"], minlength=10).min() > 80


@pytest.mark.parametrize("model", [demo.embedded_model, demo.embedded_resnet])
def test_the_shipped_networks_know_nine_images_in_ten(model: Callable[[], Path]) -> None:
    test = np.load(demo.test_data())
    session = onnxruntime.InferenceSession(model(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": test["image"]})
    assert (logits.argmax(1) == test["labels"]).mean() >= 0.9
