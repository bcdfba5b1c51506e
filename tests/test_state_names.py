"""Checkpoints of timm's and torchvision's naming on the networks here, whole and with planted faults."""

from __future__ import annotations

from pathlib import Path

import network_examples as published
import numpy as np
import pytest
import torch
from network_examples import Entries, State, random_state

from rankfold.models import state_names
from rankfold.models.networks import STANDARD, Shape, build
from rankfold.models.resnet_deep import DeepResNetShape
from rankfold.models.sizes import Sizes, sized
from rankfold.models.vgg import VGGShape
from rankfold.models.vit_class_token import ClassTokenViTShape

FILE = Path("weights.pt")
VIT = ClassTokenViTShape(8, 4, 3, width=16, depth=2, heads=4, classes=6)
RESNET = DeepResNetShape(32, 3, (4, 8), (1, 1), form="cifar", classes=10)
RESNET_ENTRIES = published.resnet((1, 1), bottleneck=False, first=4, stem=3, classes=10)
BEFORE = ("mlp.linear_1", "mlp.linear_2")

# Two blocks in float32, in another order of sums: a few dozen roundings of 6e-8 on numbers below 10.
ROUNDING = 1e-5


def torchvision_vit(**how: object) -> Entries:
    return published.vit_torchvision(16, 2, tokens=5, patch=4, classes=6, **how)


def timm_vit() -> Entries:
    return published.vit_timm(16, 2, tokens=5, patch=4, classes=6)


@pytest.mark.parametrize("before", [False, True])
def test_torchvision_names_are_mapped_and_compute_what_torchvision_does(before: bool) -> None:
    state = random_state(torchvision_vit())
    images = torch.rand(2, 3, 8, 8)
    network = build(VIT).eval()
    given = state
    if before:
        old = [name.replace("mlp.0", BEFORE[0]).replace("mlp.3", BEFORE[1]) for name in state]
        assert dict(zip(old, (tuple(value.shape) for value in state.values()), strict=True)) == torchvision_vit(
            mlp=BEFORE
        )
        given = dict(zip(old, state.values(), strict=True))
    naming = state_names.load(network, given, FILE)
    assert naming.library == ("torchvision before 0.13" if before else "torchvision")
    with torch.no_grad():
        expected = published.vit_torchvision_forward(state, 4, images).numpy()
        np.testing.assert_allclose(network(images).numpy(), expected, rtol=0, atol=ROUNDING)
    assert 0.1 < np.abs(expected).max() < 10


def test_timm_names_are_mapped_and_compute_what_timm_does() -> None:
    state = random_state(timm_vit())
    images = torch.rand(2, 3, 8, 8)
    network = build(VIT).eval()
    assert state_names.load(network, state, FILE).library == "timm"
    with torch.no_grad():
        expected = published.vit_timm_forward(state, 4, images).numpy()
        np.testing.assert_allclose(network(images).numpy(), expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("vit_s_16", published.vit_torchvision(384, 12)),
        ("vit_b_16", published.vit_torchvision(768, 12)),
        ("vit_b_16", published.vit_torchvision(768, 12, mlp=BEFORE)),
        ("vit_l_16", published.vit_torchvision(1024, 24)),
        ("vit_l_16", published.vit_timm(1024, 24)),
        ("resnet18", published.resnet((2, 2, 2, 2), bottleneck=False)),
        ("resnet50", published.resnet((3, 4, 6, 3), bottleneck=True)),
    ],
)
def test_published_checkpoints_fit_entry_by_entry(name: str, entries: Entries) -> None:
    with torch.device("meta"):
        network = build(STANDARD[name].shape)
        weights = {key: torch.zeros(shape) for key, shape in entries.items()}
    state_names.load(network, weights, FILE)


def test_all_numbers_arrive_and_halves_are_widened() -> None:
    state = random_state(RESNET_ENTRIES)
    network = build(RESNET)
    state_names.load(network, state, FILE)
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    for name, value in network.state_dict().items():
        assert name in counters or torch.equal(value, state[name]), name
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    state_names.load(network, halves, FILE)
    for name, value in network.state_dict().items():
        assert name in counters or torch.equal(value, halves[name].float()), name
    state_names.load(network, {name: value for name, value in state.items() if name not in counters}, FILE)


def with_entry(name: str, value: torch.Tensor | None) -> State:
    """Return a ResNet's numbers with one entry changed, or without it."""
    state = {**random_state(RESNET_ENTRIES), name: value}
    return {key: entry for key, entry in state.items() if entry is not None}


FAULTS = [
    (with_entry("layer1.0.bn2.bias", None), r"1 missing: 'layer1\.0\.bn2\.bias' \(4,\)\. Give a checkpoint of this"),
    (with_entry("layer9.0", torch.ones(2, 3)), r"1 not expected: 'layer9\.0' \(2, 3\)\. Give a checkpoint"),
    (
        with_entry("fc.weight", torch.ones(7, 8)),
        r"'fc\.weight' is \(7, 8\), expected \(10, 8\)\. Set classes=7 \(--classes 7\)",
    ),
    (
        with_entry("conv1.weight", torch.ones(4, 3, 7, 7)),
        r"expected \(4, 3, 3, 3\)\. Set form='imagenet' \(--form imagenet\)",
    ),
    (
        with_entry("conv1.weight", torch.ones(4, 1, 3, 3)),
        r"expected \(4, 3, 3, 3\)\. Set in_channels=1 \(--channels 1\)",
    ),
    (
        with_entry("fc.bias", torch.ones(10, dtype=torch.float64)),
        r"1 not float32, float16 or bfloat16: 'fc\.bias' is float64",
    ),
    (
        with_entry("bn1.weight", torch.tensor([1, 2, torch.nan, 4])),
        r"1 with numbers that are not finite: 'bn1\.weight'",
    ),
    (with_entry("bn1.weight", torch.ones(5)), r"1 of another shape: 'bn1\.weight' is \(5,\), expected \(4,\)\. Give a"),
]


@pytest.mark.parametrize(("state", "message"), FAULTS)
def test_a_fault_is_named_with_what_was_expected_and_what_to_do(state: State, message: str) -> None:
    network = build(RESNET)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=rf"^weights\.pt does not fit: .*{message}"):
        state_names.load(network, state, FILE)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_faults_of_a_renamed_checkpoint_come_in_its_own_names_and_all_in_one_message() -> None:
    state = random_state(torchvision_vit())
    del state["encoder.layers.encoder_layer_1.self_attention.in_proj_bias"]
    del state["encoder.ln.bias"]
    state["heads.pre_logits.weight"] = torch.ones(16, 16)
    state["encoder.pos_embedding"] = torch.ones(1, 10, 16)
    with pytest.raises(ValueError, match="does not fit") as caught:
        state_names.load(build(VIT), state, FILE)
    assert str(caught.value) == (
        "weights.pt does not fit: 2 missing: 'encoder.layers.encoder_layer_1.self_attention.in_proj_bias' (48,), "
        "'encoder.ln.bias' (16,); 1 not expected: 'heads.pre_logits.weight' (16, 16); 1 of another shape: "
        "'encoder.pos_embedding' is (1, 10, 16), expected (1, 5, 16). Set image_size or patch_size to what the "
        "checkpoint was trained with (--image-size, --patch-size)"
    )


def test_the_setting_that_an_entry_tells_of_is_named() -> None:
    other: list[tuple[Shape, Entries, str]] = [
        (VIT, published.vit_timm(16, 2, tokens=5, patch=8, classes=6), r"Set patch_size=8 \(--patch-size 8\)"),
        (VIT, published.vit_timm(16, 2, tokens=5, patch=4, classes=9), r"Set classes=9 \(--classes 9\)"),
        (VIT, published.vit_timm(16, 3, tokens=5, patch=4, classes=6), r"12 not expected: .* and 9 more\. Give a"),
        (
            VGGShape(8, 3, (8,), (1,), form="cifar", classes=10),
            published.vgg_features((8, "M")) | published.linear("classifier.0", 8 * 49, 8),
            r"Set form to the other of cifar and imagenet \(--form\)",
        ),
        (
            VGGShape(8, 3, (8,), (1,), form="cifar", classes=10),
            published.vgg_features((8, "M")) | published.linear("classifier", 8, 4),
            r"Set classes=4 \(--classes 4\)",
        ),
    ]
    for shape, entries, message in other:
        with pytest.raises(ValueError, match=message):
            state_names.load(build(shape), random_state(entries), FILE)


def test_a_checkpoint_of_another_depth_is_not_taken_for_another_input() -> None:
    with torch.device("meta"):
        network = build(sized(STANDARD["resnet18"].shape, Sizes()))
        entries = published.resnet((3, 4, 6, 3), bottleneck=True)
        weights = {key: torch.zeros(shape) for key, shape in entries.items()}
    with pytest.raises(
        ValueError, match=r"not expected: .*; 24 of another shape: .* Give a checkpoint of this network"
    ):
        state_names.load(network, weights, FILE)


def test_a_checkpoint_of_quite_another_naming_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"none of its 1 entries, such as 'stem\.0', is one .* such as 'cls_token', 'class_token'"
    ):
        state_names.load(build(VIT), {"stem.0": torch.ones(2)}, FILE)
