"""What published checkpoints hold, names and shapes, written out from the definitions; and what they compute."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Entries = dict[str, tuple[int, ...]]
State = dict[str, Tensor]


def norm(name: str, channels: int) -> Entries:
    """Return the entries of a batch normalisation."""
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in vectors} | {f"{name}.num_batches_tracked": ()}


def linear(name: str, given: int, made: int) -> Entries:
    return {f"{name}.weight": (made, given), f"{name}.bias": (made,)}


def resnet(
    blocks: tuple[int, ...], *, bottleneck: bool, first: int = 64, stem: int = 7, classes: int = 1000
) -> Entries:
    """Return torchvision's and timm's entries of a ResNet."""
    entries: Entries = {"conv1.weight": (first, 3, stem, stem), **norm("bn1", first)}
    channels = first
    for stage, count in enumerate(blocks):
        width = first * 2**stage
        kernels = ((1, width), (3, width), (1, 4 * width)) if bottleneck else ((3, width), (3, width))
        for block in range(count):
            place, entering = f"layer{stage + 1}.{block}", channels
            for number, (kernel, made) in enumerate(kernels, start=1):
                entries[f"{place}.conv{number}.weight"] = (made, channels, kernel, kernel)
                entries |= norm(f"{place}.bn{number}", made)
                channels = made
            if block == 0 and (stage > 0 or entering != channels):
                entries[f"{place}.downsample.0.weight"] = (channels, entering, 1, 1)
                entries |= norm(f"{place}.downsample.1", channels)
    return entries | linear("fc", channels, classes)


VGG19 = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M")


def vgg_features(plan: tuple[int | str, ...]) -> Entries:
    """Return the entries of torchvision's `features` with batch normalisation: convolution, norm, ReLU, or a pool."""
    entries: Entries = {}
    channels, place = 3, 0
    for step in plan:
        if isinstance(step, str):
            place += 1
            continue
        entries |= {f"features.{place}.weight": (step, channels, 3, 3), f"features.{place}.bias": (step,)}
        entries |= norm(f"features.{place + 1}", step)
        channels, place = step, place + 3
    return entries


def vit_timm(width: int, depth: int, *, tokens: int = 197, patch: int = 16, classes: int = 1000) -> Entries:
    """Return timm's entries of a ViT."""
    entries: Entries = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for number in range(depth):
        block = f"blocks.{number}"
        entries |= {f"{block}.norm{which}.{part}": (width,) for which in (1, 2) for part in ("weight", "bias")}
        entries |= linear(f"{block}.attn.qkv", width, 3 * width) | linear(f"{block}.attn.proj", width, width)
        entries |= linear(f"{block}.mlp.fc1", width, 4 * width) | linear(f"{block}.mlp.fc2", 4 * width, width)
    return entries | {"norm.weight": (width,), "norm.bias": (width,)} | linear("head", width, classes)


def vit_torchvision(
    width: int,
    depth: int,
    *,
    tokens: int = 197,
    patch: int = 16,
    classes: int = 1000,
    mlp: tuple[str, str] = ("mlp.0", "mlp.3"),
) -> Entries:
    """Return torchvision's entries of a ViT; `mlp` are the hidden layers' names, which 0.13 changed."""
    entries: Entries = {
        "class_token": (1, 1, width),
        "conv_proj.weight": (width, 3, patch, patch),
        "conv_proj.bias": (width,),
        "encoder.pos_embedding": (1, tokens, width),
    }
    for number in range(depth):
        layer = f"encoder.layers.encoder_layer_{number}"
        entries |= {f"{layer}.ln_{which}.{part}": (width,) for which in (1, 2) for part in ("weight", "bias")}
        entries |= {
            f"{layer}.self_attention.in_proj_weight": (3 * width, width),
            f"{layer}.self_attention.in_proj_bias": (3 * width,),
            **linear(f"{layer}.self_attention.out_proj", width, width),
            **linear(f"{layer}.{mlp[0]}", width, 4 * width),
            **linear(f"{layer}.{mlp[1]}", 4 * width, width),
        }
    return entries | {"encoder.ln.weight": (width,), "encoder.ln.bias": (width,)} | linear("heads.head", width, classes)


def random_state(entries: Entries, seed: int = 0) -> State:
    """Return numbers for all entries, all different: products keep the size of their input, variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in entries.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 and name.endswith("weight") else 25
            state[name] = torch.randn(shape, generator=generator) * (1.5 / fan_in) ** 0.5
            if len(shape) == 1 and name.endswith("weight"):  # a norm's scale
                state[name] += 1
    return state


def normed(state: State, conv: str, bn: str, x: Tensor, **how: int) -> Tensor:
    """Return a convolution and its batch normalisation as their definitions say."""
    x = functional.conv2d(x, state[f"{conv}.weight"], state.get(f"{conv}.bias"), **how)
    scale, shift, mean, variance = (
        state[f"{bn}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def resnet_forward(state: State, blocks: tuple[int, ...], x: Tensor, *, bottleneck: bool, small: bool) -> Tensor:
    """Return the logits of a ResNet; of a bottleneck, the 3×3 convolution has the stride."""
    x = normed(state, "conv1", "bn1", x, stride=1 if small else 2, padding=1 if small else 3).relu()
    x = x if small else functional.max_pool2d(x, 3, 2, 1)
    kernels = (1, 3, 1) if bottleneck else (3, 3)
    strided = 1 if bottleneck else 0  # the convolution of a block that has its stride
    for stage, count in enumerate(blocks):
        for block in range(count):
            place, stride = f"layer{stage + 1}.{block}", 2 if stage > 0 and block == 0 else 1
            made = x
            for number, kernel in enumerate(kernels):
                step, pad = stride if number == strided else 1, kernel // 2
                name = f"{place}.conv{number + 1}", f"{place}.bn{number + 1}"
                made = normed(state, *name, made, stride=step, padding=pad)
                made = made if number == len(kernels) - 1 else made.relu()
            if f"{place}.downsample.0.weight" in state:
                x = normed(state, f"{place}.downsample.0", f"{place}.downsample.1", x, stride=stride)
            x = (x + made).relu()
    return functional.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def vgg_forward(state: State, plan: tuple[int | str, ...], x: Tensor) -> Tensor:
    """Return the features of a VGG network, one row per image."""
    place = 0
    for step in plan:
        if isinstance(step, str):
            x, place = functional.max_pool2d(x, 2), place + 1
        else:
            x, place = normed(state, f"features.{place}", f"features.{place + 1}", x, padding=1).relu(), place + 3
    return x.flatten(1)


def vit_timm_forward(state: State, heads: int, x: Tensor) -> Tensor:
    """Return the logits of a ViT as timm computes them: qkv is cut as (3, heads, features of a head)."""

    def dense(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def normal(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    kernel = state["patch_embed.proj.weight"]
    x = functional.conv2d(x, kernel, state["patch_embed.proj.bias"], stride=kernel.shape[-1])
    count, width = x.shape[:2]
    x = torch.cat([state["cls_token"].repeat(count, 1, 1), x.flatten(2).mT], 1) + state["pos_embed"]
    for number in range(sum(name.endswith("attn.qkv.bias") for name in state)):
        block = f"blocks.{number}"
        qkv = dense(f"{block}.attn.qkv", normal(f"{block}.norm1", x))
        query, key, value = qkv.reshape(count, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).permute(0, 2, 1, 3).flatten(2)
        x = x + dense(f"{block}.attn.proj", mixed)
        hidden = functional.gelu(dense(f"{block}.mlp.fc1", normal(f"{block}.norm2", x)))
        x = x + dense(f"{block}.mlp.fc2", hidden)
    return dense("head", normal("norm", x)[:, 0])


def vit_torchvision_forward(state: State, heads: int, x: Tensor) -> Tensor:
    """Return the logits of a ViT as torchvision computes them, its attention torch's own MultiheadAttention."""
    kernel = state["conv_proj.weight"]
    x = functional.conv2d(x, kernel, state["conv_proj.bias"], stride=kernel.shape[-1]).flatten(2).mT
    width = x.shape[-1]
    x = torch.cat([state["class_token"].expand(len(x), -1, -1), x], 1) + state["encoder.pos_embedding"]
    for number in range(sum(name.endswith("in_proj_bias") for name in state)):
        place = f"encoder.layers.encoder_layer_{number}."
        part = {name.removeprefix(place): value for name, value in state.items() if name.startswith(place)}
        attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        own = {n.removeprefix("self_attention."): v for n, v in part.items() if n.startswith("self_attention.")}
        attention.load_state_dict(own)
        rows = functional.layer_norm(x, (width,), part["ln_1.weight"], part["ln_1.bias"], 1e-6)
        x = x + attention(rows, rows, rows, need_weights=False)[0]
        rows = functional.layer_norm(x, (width,), part["ln_2.weight"], part["ln_2.bias"], 1e-6)
        hidden = functional.gelu(functional.linear(rows, part["mlp.0.weight"], part["mlp.0.bias"]))
        x = x + functional.linear(hidden, part["mlp.3.weight"], part["mlp.3.bias"])
    x = functional.layer_norm(x, (width,), state["encoder.ln.weight"], state["encoder.ln.bias"], 1e-6)[:, 0]
    return functional.linear(x, state["heads.head.weight"], state["heads.head.bias"])
