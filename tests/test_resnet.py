"""The ResNet: its definition, and that its export computes the same and is as plain as the ViT's."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from package_sources import ROOT

from rankfold.models.export import export_network
from rankfold.models.resnet import ResNet, ResNetShape
from rankfold.models.training_run import measure_norms
from rankfold.models.vit import ViT, ViTShape

TINY = ResNetShape(widths=(4, 8), depths=(1, 2))

# The same float32 sums in another order, a few layers deep, the norms folded into the weights before: a few dozen
# roundings of 6e-8 on logits near 1.
ROUNDING = 5e-6


@pytest.fixture(scope="module")
def network() -> ResNet:
    """Return a network whose parameters and statistics are all different, so that none can stand for another."""
    torch.manual_seed(0)
    network = ResNet(TINY)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    measure_norms(network, torch.rand(32, 1, 28, 28))  # so that no layer blows up or fades
    return network.eval()


@pytest.fixture(scope="module")
def exported(network: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "resnet.onnx"
    export_network(network, TINY, path)
    return path


def test_resnet_maps_images_to_one_logit_per_class(network: ResNet) -> None:
    assert network(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    colour = ResNetShape(image_size=32, in_channels=3, widths=(4, 8, 16), depths=(1, 1, 1), classes=7)
    assert ResNet(colour)(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_the_shipped_size_fits_in_the_wheel() -> None:
    assert sum(parameter.numel() for parameter in ResNet(ResNetShape()).parameters()) == 372_058


def test_each_stage_but_the_first_halves_the_image(network: ResNet) -> None:
    seen: list[tuple[int, ...]] = []
    hooks = [
        stage.register_forward_hook(lambda _module, _given, made: seen.append(tuple(made.shape)))
        for stage in network.stages
    ]
    network(torch.rand(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    assert seen == [(1, 4, 28, 28), (1, 8, 14, 14)]


def test_a_new_block_is_its_shortcut() -> None:
    block = ResNet(TINY).stages[0][0]
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(block(x), x)


def test_depths_of_another_number_than_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ResNet(ResNetShape(widths=(4, 8), depths=(1,)))


def test_norms_are_measured_on_the_images_alone(network: ResNet) -> None:
    measured = copy.deepcopy(network)
    images = torch.rand(1000, 1, 28, 28) * 0.5
    measure_norms(measured, images)
    assert not measured.training
    with torch.no_grad():
        made = torch.nn.functional.conv2d(images, measured.stem.weight, padding=1)
    # Batches of 500, each counted the same: sums of 784,000 float32 numbers in another order.
    torch.testing.assert_close(measured.stem.norm.running_mean, made.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-6)
    again = copy.deepcopy(measured)
    measure_norms(again, images)
    assert torch.equal(again.stem.norm.running_var, measured.stem.norm.running_var)
    assert not torch.equal(network.stem.norm.running_var, measured.stem.norm.running_var)


def test_a_network_without_norms_is_left_alone() -> None:
    vit = ViT(ViTShape(patch_size=7, width=16, depth=1, heads=2)).train()
    measure_norms(vit, torch.zeros(0, 1, 28, 28))
    assert vit.training


@pytest.mark.parametrize("batch", [1, 3])
def test_export_computes_what_torch_does(network: ResNet, exported: Path, batch: int) -> None:
    images = torch.rand(batch, 1, 28, 28)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=ROUNDING)
    assert 0.1 < np.abs(expected).max() < 10  # what the tolerance stands on


def test_export_is_one_plain_graph_named_after_the_modules(network: ResNet, exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    convolutions = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)}
    read = {node.name: list(node.input)[1:] for node in model.graph.node if node.op_type == "Conv"}
    assert read == {f"{name}/Conv": [f"{name}.weight", f"{name}.bias"] for name in convolutions}
    kernels = {value.name: tuple(value.dims[2:]) for value in model.graph.initializer if len(value.dims) == 4}
    assert Counter(kernels.values()) == {(3, 3): 7, (1, 1): 1}
    assert kernels["stages.1.0.shortcut.weight"] == (1, 1)
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts == {"Conv": 8, "Relu": 7, "Add": 3, "ReduceMean": 1, "Gemm": 1}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_export_has_a_symbolic_batch(exported: Path) -> None:
    graph = onnx.load(exported).graph
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert axes == {"image": ["batch", 1, 28, 28], "logits": ["batch", 10]}


def test_export_is_repeatable_and_tells_nothing_of_the_machine(network: ResNet, exported: Path, tmp_path: Path) -> None:
    export_network(network, TINY, tmp_path / "again.onnx")
    written = exported.read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == written
    assert not any(word in written for word in (str(ROOT).encode(), b"resnet.py", b"stack_trace", b"aten"))
