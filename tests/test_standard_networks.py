"""The networks of the literature: published counts, names and shapes; what they compute; their other sizes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import network_examples as published
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from network_examples import Entries, State, random_state

from rankfold.models.export import export_network
from rankfold.models.mlp import MLPShape
from rankfold.models.networks import STANDARD, Shape, build
from rankfold.models.recipe import Recipe, build_optimizer
from rankfold.models.resnet_deep import DeepResNetShape
from rankfold.models.sizes import Sizes, sized
from rankfold.models.vgg import VGGShape
from rankfold.models.vit_class_token import ClassTokenViTShape

# As torchvision's and timm's tables of models say for 1000 classes; the MLP's are counted by hand: 784 to five times
# 512 to 10, with biases.
COUNTS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vgg19_bn": 143_678_248,
    "vit_s_16": 22_050_664,
    "vit_b_16": 86_567_656,
    "vit_l_16": 304_326_632,
    "mlp": 785 * 512 + 4 * 513 * 512 + 513 * 10,
}
VGG_HEAD = {
    **published.linear("classifier.0", 512 * 7 * 7, 4096),
    **published.linear("classifier.3", 4096, 4096),
    **published.linear("classifier.6", 4096, 1000),
}
ENTRIES: dict[str, Entries] = {
    "resnet18": published.resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": published.resnet((3, 4, 6, 3), bottleneck=True),
    "vgg19_bn": published.vgg_features(published.VGG19) | VGG_HEAD,
    "vit_s_16": published.vit_timm(384, 12),
    "vit_b_16": published.vit_timm(768, 12),
    "vit_l_16": published.vit_timm(1024, 24),
    "mlp": {
        **published.linear("layers.0", 784, 512),
        **{name: shape for n in range(1, 5) for name, shape in published.linear(f"layers.{n}", 512, 512).items()},
        **published.linear("head", 512, 10),
    },
}
SMALL_PLAN = (8, 8, "M", 16, "M", 16, 16, "M")

# Some twenty layers in float32, the norms folded into the weights before: hundreds of roundings of 6e-8 on numbers
# that the examples keep near 1, and at most near 30.
ROUNDING = 5e-5


def on_meta(shape: Shape) -> torch.nn.Module:
    """Return a network that has shapes but no numbers."""
    with torch.device("meta"):
        return build(shape)


@pytest.mark.parametrize("name", list(STANDARD))
def test_published_networks_have_the_published_parameters(name: str) -> None:
    network = on_meta(STANDARD[name].shape)
    assert sum(parameter.numel() for parameter in network.parameters()) == COUNTS[name]
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == ENTRIES[name]


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 11_173_962), ("resnet50", 23_520_842), ("vgg19_bn", 20_040_522)]
)
def test_their_form_for_cifar_has_the_usual_parameters(name: str, count: int) -> None:
    """The counts are those of the networks that CIFAR papers train, with 10 classes."""
    network = on_meta(sized(STANDARD[name].shape, Sizes(32, 3, 10)))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def small(kind: str) -> tuple[Shape, State]:
    """Return a small network of each kind and numbers for it."""
    if kind == "resnet18":
        shape: Shape = DeepResNetShape(32, 3, (8, 16, 32, 64), form="cifar", classes=10)
        return shape, random_state(published.resnet((2, 2, 2, 2), bottleneck=False, first=8, stem=3, classes=10))
    if kind == "resnet50":
        shape = DeepResNetShape(64, 3, (4, 8, 16, 32), (1, 2, 1, 1), bottleneck=True, classes=7)
        return shape, random_state(published.resnet((1, 2, 1, 1), bottleneck=True, first=4, classes=7))
    if kind == "vgg":
        shape = VGGShape(8, 3, (8, 16, 16), (2, 1, 2), form="cifar", classes=10)
        return shape, random_state(published.vgg_features(SMALL_PLAN) | published.linear("classifier", 16, 10))
    if kind == "vit":
        shape = ClassTokenViTShape(8, 4, 3, width=16, depth=2, heads=4, classes=6)
        return shape, random_state(published.vit_timm(16, 2, tokens=5, patch=4, classes=6))
    mlp = MLPShape(4, 2, width=9, depth=2, classes=5)
    entries = published.linear("layers.0", 32, 9) | published.linear("layers.1", 9, 9) | published.linear("head", 9, 5)
    return mlp, random_state(entries)


def expected(kind: str, state: State, images: torch.Tensor) -> torch.Tensor:
    """Return the logits by the definitions."""
    if kind == "resnet18":
        return published.resnet_forward(state, (2, 2, 2, 2), images, bottleneck=False, small=True)
    if kind == "resnet50":
        return published.resnet_forward(state, (1, 2, 1, 1), images, bottleneck=True, small=False)
    if kind == "vgg":
        rows = published.vgg_forward(state, SMALL_PLAN, images)
        return torch.nn.functional.linear(rows, state["classifier.weight"], state["classifier.bias"])
    if kind == "vit":
        return published.vit_timm_forward(state, 4, images)
    x = images.flatten(1)
    for layer in ("layers.0", "layers.1"):
        x = (x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]).relu()
    return x @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize("kind", ["resnet18", "resnet50", "vgg", "vit", "mlp"])
def test_torch_and_the_export_follow_the_definition(kind: str, tmp_path: Path) -> None:
    shape, state = small(kind)
    network = build(shape)
    network.load_state_dict(state)
    images = torch.rand(3, shape.in_channels, shape.image_size, shape.image_size)
    with torch.no_grad():
        logits = expected(kind, state, images).numpy()
        found = network.eval()(images).numpy()
    assert 0.1 < np.abs(logits).max() < 30  # what the tolerance stands on
    np.testing.assert_allclose(found, logits, rtol=0, atol=ROUNDING)
    path = tmp_path / "network.onnx"
    export_network(network, shape, path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (run,) = session.run(["logits"], {"image": images[:count].numpy()})
        np.testing.assert_allclose(run, logits[:count], rtol=0, atol=ROUNDING)
    check_weights(onnx.load(path), network)


def check_weights(model: onnx.ModelProto, network: torch.nn.Module) -> None:
    """Every weight has its bytes: a MatMul's is turned, a normed convolution's multiplied by the norm's scale."""
    written = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
    turned = {node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    scales = _norm_scales(network)
    for name, value in network.named_parameters():
        if value.ndim < 2:
            continue
        weight = value.detach().numpy()
        if name in scales:
            weight = weight * scales[name].reshape(-1, 1, 1, 1)
        elif name in turned:
            weight = weight.T
        assert written[name].tobytes() == np.ascontiguousarray(weight).tobytes(), name


def _norm_scales(network: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return weight over deviation, in float32, of the norm that follows each convolution in the network's modules."""
    modules = list(network.named_modules())
    scales = {}
    for (name, module), (_, after) in pairwise(modules):
        if isinstance(module, torch.nn.Conv2d) and isinstance(after, torch.nn.BatchNorm2d):
            scale, variance = after.weight.detach().numpy(), after.running_var.numpy()
            scales[f"{name}.weight"] = scale / np.sqrt(variance + np.float32(after.eps))
    return scales


def test_vgg_halves_odd_sizes_too_and_pools_for_its_large_head() -> None:
    shape = sized(STANDARD["vgg19_bn"].shape, Sizes(28, 1, 10, width=1 / 16, depth=0.5))
    assert (shape.widths, shape.depths) == ((4, 8, 16, 32, 32), (1, 1, 2, 2, 2))
    assert build(shape).eval()(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    large = VGGShape(96, 3, (2, 2), (1, 1), hidden=8, classes=6)  # 24 × 24 features become 7 × 7
    assert build(large).eval()(torch.rand(2, 3, 96, 96)).shape == (2, 6)


def test_sizes_are_factors_of_the_published_ones() -> None:
    assert sized(STANDARD["resnet50"].shape, Sizes(32, 3, 100, width=0.25, depth=0.5)) == DeepResNetShape(
        32, 3, (16, 32, 64, 128), (2, 2, 3, 2), bottleneck=True, form="cifar", classes=100
    )
    assert sized(STANDARD["vit_s_16"].shape, Sizes(32, 3, 10, width=0.5, depth=0.5)) == ClassTokenViTShape(
        32, 4, 3, width=192, depth=6, heads=3, classes=10
    )
    assert sized(STANDARD["vit_b_16"].shape, Sizes(384)).tokens == 577
    assert sized(STANDARD["mlp"].shape, Sizes(28, 1, 10, width=2, depth=0.1)) == MLPShape(width=1024, depth=1)
    assert sized(STANDARD["resnet18"].shape, Sizes()) == STANDARD["resnet18"].shape
    assert sized(STANDARD["resnet18"].shape, Sizes(32, form="imagenet")).form == "imagenet"
    assert sized(STANDARD["vgg19_bn"].shape, Sizes(width=0.5)).hidden == 2048


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("resnet18", Sizes(width=0.0), "width is 0.0, expected a positive number"),
        ("resnet18", Sizes(depth=float("nan")), "depth is nan"),
        ("resnet18", Sizes(width=float("inf")), "width is inf"),
        ("mlp", Sizes(classes=-1), "classes is -1"),
        ("mlp", Sizes(form="cifar"), "only ResNets and VGG have forms"),
        ("resnet50", Sizes(patch_size=8), "only transformers have patches"),
        ("vit_s_16", Sizes(30), "images of 30 pixels do not divide into patches of 4"),
        ("vit_s_16", Sizes(patch_size=15), "images of 224 pixels do not divide into patches of 15"),
    ],
)
def test_sizes_without_sense_are_refused(name: str, sizes: Sizes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sized(STANDARD[name].shape, sizes)


def test_branches_of_the_class_token_vit_are_dropped_while_training_only() -> None:
    shape = ClassTokenViTShape(8, 4, 3, width=16, depth=2, heads=4, classes=6)
    network = build(shape, drop_path=0.9)
    images = torch.rand(16, 3, 8, 8)
    assert torch.equal(network.eval()(images), network(images))
    assert not torch.equal(network.train()(images), network(images))


def test_a_new_deep_resnet_block_is_its_shortcut() -> None:
    network = build(DeepResNetShape(32, 3, (4, 8), (2, 1), bottleneck=True, form="cifar", classes=2))
    x = torch.rand(2, 16, 5, 5)
    assert torch.equal(network.layer1[1](x), x)


def test_narrow_resnets_keep_the_layout_that_is_safe() -> None:
    for widths, last in (((8, 16), False), ((16, 32), True)):
        network = build(DeepResNetShape(32, 3, widths, (1, 1), form="cifar", classes=2))
        assert network.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last) is last


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_matrices_and_kernels_alone_decay(kind: str) -> None:
    shape = ClassTokenViTShape(8, 4, 3, width=16, depth=1, heads=4, classes=6)
    network = build(shape)
    optimizer = build_optimizer(network, Recipe(optimizer=kind, weight_decay=0.3, momentum=0.7))
    assert isinstance(optimizer, torch.optim.SGD if kind == "sgd" else torch.optim.AdamW)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    layers = ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2")
    assert decayed == {f"{layer}.weight" for layer in (*layers, "head")}
    assert {"cls_token", "pos_embed"} < free
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    if kind == "sgd":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.7}
