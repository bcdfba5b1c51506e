"""A user's own checkpoint as ONNX, by the command."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import network_examples as published
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from network_examples import random_state

from rankfold.models import export_checkpoint
from rankfold.models.sizes import Sizes

VIT = ["--image-size", "16", "--patch-size", "8", "--classes", "6", "--width", "0.17", "--depth", "0.17"]
ENTRIES = published.vit_torchvision(
    64, 2, tokens=5, patch=8, classes=6
)  # one head of ViT-S's six, two blocks of twelve
KINDS = ("pth", "safetensors")

# Two blocks in float32, in another order of sums: a few dozen roundings of 6e-8 on numbers below 10.
ROUNDING = 1e-5


def write_safetensors(state: dict[str, torch.Tensor], path: Path) -> None:
    entries, body = {}, b""
    for name, value in state.items():
        raw = value.numpy().tobytes()
        place = [len(body), len(body) + len(raw)]
        entries[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": place}
        body += raw
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)


def test_a_checkpoint_becomes_onnx_with_its_own_bytes(tmp_path: Path) -> None:
    state = random_state(ENTRIES)
    torch.save({"epoch": 90, "model": state}, tmp_path / "vit.pth")
    write_safetensors(state, tmp_path / "vit.safetensors")
    out = tmp_path / "vit.onnx"
    export_checkpoint.main(["vit_s_16", "--weights", str(tmp_path / "vit.pth"), "-o", str(out), *VIT])
    sizes = Sizes(16, classes=6, width=0.17, depth=0.17, patch_size=8)
    networks = [export_checkpoint.load_checkpoint("vit_s_16", tmp_path / f"vit.{kind}", sizes)[0] for kind in KINDS]
    for name, value in networks[0].state_dict().items():
        assert torch.equal(networks[1].state_dict()[name], value), name
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    images = torch.rand(2, 3, 16, 16)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images.numpy()})
    expected = published.vit_torchvision_forward(state, 1, images).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=ROUNDING)
    held = {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}
    layer = "encoder.layers.encoder_layer_1."
    for ours, theirs in {
        "blocks.1.attn.qkv": f"{layer}self_attention.in_proj_",
        "blocks.1.mlp.fc2": f"{layer}mlp.3.",
        "blocks.0.mlp.fc1": "encoder.layers.encoder_layer_0.mlp.0.",
    }.items():
        turned = np.ascontiguousarray(state[f"{theirs}weight"].numpy().T)
        assert held[f"{ours}.weight"].tobytes() == turned.tobytes()
        assert held[f"{ours}.bias"].tobytes() == state[f"{theirs}bias"].numpy().tobytes()
    for ours, theirs in {"patch_embed.proj": "conv_proj", "head": "heads.head"}.items():
        assert held[f"{ours}.weight"].tobytes() == state[f"{theirs}.weight"].numpy().tobytes()


def test_faults_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    out, weights = tmp_path / "out.onnx", tmp_path / "weights.pt"
    arguments = ["vit_s_16", "--weights", str(weights), "-o", str(out)]
    with pytest.raises(SystemExit, match=r"rankfold\.models\.export_checkpoint: .*No such file.*weights\.pt"):
        export_checkpoint.main(arguments)
    torch.save(random_state(ENTRIES), weights)
    classes = VIT[:4] + VIT[6:]  # 1000
    with pytest.raises(SystemExit, match=r"weights\.pt does not fit: 2 of another shape: 'heads.*Set classes=6 \("):
        export_checkpoint.main([*arguments, *classes])
    with pytest.raises(SystemExit, match="images of 16 pixels do not divide into patches of 5"):
        export_checkpoint.main([*arguments, "--image-size", "16", "--patch-size", "5"])
    with pytest.raises(SystemExit, match=r"width is 0\.0"):
        export_checkpoint.main([*arguments, "--width", "0"])
    weights.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(SystemExit, match=r"weights\.pt: not a readable file of tensors alone"):
        export_checkpoint.main(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_networks_without_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no network 'resnet34'; expected one of resnet18, resnet50, vgg19_bn"):
        export_checkpoint.load_checkpoint("resnet34", tmp_path / "x.pt", Sizes())
