"""The reference networks: their shapes, their export, and what ships of them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fashion_examples import TINY
from package_sources import ROOT

from rankfold.models import demo
from rankfold.models.export import export_network
from rankfold.models.vit import ViT, ViTShape

# The same float32 sums in another order, a few layers deep: a few dozen roundings of 6e-8 on logits near 1.
ROUNDING = 5e-6


def tiny_network(*, fused_qkv: bool) -> ViT:
    """Return a network whose parameters are all different, so that none can stand for another."""
    torch.manual_seed(0)
    network = ViT(TINY, fused_qkv=fused_qkv)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


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
