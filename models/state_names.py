"""A checkpoint of timm's or torchvision's naming on the networks here: recognised, compared entry by entry, loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

_COUNTER = ".num_batches_tracked"  # of batch normalisations; says nothing once they are trained
_WIDENED = (torch.float32, torch.float16, torch.bfloat16)  # the types that go into float32 unchanged
_SHOWN = 3  # entries that a message lists of each kind
_FIRST = frozenset({"conv1.weight", "features.0.weight", "patch_embed.proj.weight"})  # what reads the image
_LAST = frozenset({"fc.weight", "head.weight", "classifier.weight", "classifier.6.weight"})  # what gives the logits

_LAYER = r"encoder.layers.encoder_layer_\1."
_VIT_TORCHVISION = (
    (r"^cls_token$", "class_token"),
    (r"^pos_embed$", "encoder.pos_embedding"),
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^blocks\.(\d+)\.norm(\d)\.", _LAYER + r"ln_\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", _LAYER + "self_attention.in_proj_"),
    (r"^blocks\.(\d+)\.attn\.proj\.", _LAYER + "self_attention.out_proj."),
    (r"^norm\.", "encoder.ln."),
    (r"^head\.", "heads.head."),
)
_MLP = ((r"^blocks\.(\d+)\.mlp\.fc1\.", _LAYER + "mlp.0."), (r"^blocks\.(\d+)\.mlp\.fc2\.", _LAYER + "mlp.3."))
_MLP_BEFORE = (
    (r"^blocks\.(\d+)\.mlp\.fc1\.", _LAYER + "mlp.linear_1."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", _LAYER + "mlp.linear_2."),
)


@dataclass(frozen=True)
class Naming:
    """How a library calls the entries of a network.

    Attributes:
        library: Its name.
        rules: Patterns of the names here, and what stands in their place there; the first that fits is taken.
    """

    library: str
    rules: tuple[tuple[str, str], ...]

    def theirs(self, name: str) -> str:
        """Return the library's name of an entry."""
        for pattern, replacement in self.rules:
            if re.search(pattern, name):
                return re.sub(pattern, replacement, name)
        return name


# The networks here are named as in timm (transformers) or torchvision (the others, which timm names the same), so that
# only torchvision's transformers have to be renamed: as its files of 2022 and earlier do, and as later ones do.
NAMINGS = (
    Naming("timm", ()),
    Naming("torchvision", _VIT_TORCHVISION + _MLP),
    Naming("torchvision before 0.13", _VIT_TORCHVISION + _MLP_BEFORE),
)


def load(network: nn.Module, weights: Mapping[str, Tensor], source: Path) -> Naming:
    """Load the weights of a checkpoint into a network and return the naming they came in.

    float16 and bfloat16 are widened to float32, which changes no number; counters of batches start at zero.

    Raises:
        ValueError: Entries are missing, not expected, or not what they should be; one message names them, says what
            was expected, and what to do. The network is as it was then.
    """
    given = {name: value for name, value in weights.items() if not name.endswith(_COUNTER)}
    ours = {name: value for name, value in network.state_dict().items() if not name.endswith(_COUNTER)}
    naming = max(NAMINGS, key=lambda one: sum(one.theirs(name) in given for name in ours))
    renamed = {naming.theirs(name): name for name in ours}
    if not renamed.keys() & given.keys():
        raise ValueError(
            f"{source}: none of its {len(given)} entries, such as {next(iter(given), 'none')!r}, is one of this "
            f"network, such as {', '.join(map(repr, _examples(ours)))}; give the state dict of the same network, as "
            "timm or torchvision name it"
        )
    faults = _faults({theirs: ours[name] for theirs, name in renamed.items()}, given)
    if faults:
        raise ValueError(f"{source} does not fit: {'; '.join(faults)}. {_advice(renamed, ours, given)}")
    counters = {name: value.new_zeros(()) for name, value in network.state_dict().items() if name.endswith(_COUNTER)}
    network.load_state_dict({**counters, **{renamed[name]: value for name, value in given.items()}})
    return naming


def _examples(ours: Mapping[str, Tensor]) -> list[str]:
    first = next(iter(ours))
    return list(dict.fromkeys(naming.theirs(first) for naming in NAMINGS))


def _faults(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return one phrase per kind of fault."""
    common = [name for name in expected if name in given]
    missing = [f"{name!r} {_shape(value)}" for name, value in expected.items() if name not in given]
    odd = [f"{name!r} {_shape(value)}" for name, value in given.items() if name not in expected]
    misshapen = [
        f"{name!r} is {_shape(given[name])}, expected {_shape(expected[name])}"
        for name in common
        if given[name].shape != expected[name].shape
    ]
    typed = [f"{name!r} is {_type(given[name])}" for name in common if given[name].dtype not in _WIDENED]
    spoilt = [f"{name!r}" for name in common if not _finite(given[name])]
    kinds = {
        "missing": missing,
        "not expected": odd,
        "of another shape": misshapen,
        "not float32, float16 or bfloat16": typed,
        "with numbers that are not finite": spoilt,
    }
    return [f"{len(found)} {kind}: {_listed(found)}" for kind, found in kinds.items() if found]


def _listed(found: list[str]) -> str:
    more = len(found) - _SHOWN
    return ", ".join(found[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shape(value: Tensor) -> str:
    return str(tuple(value.shape))


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _finite(value: Tensor) -> bool:
    return value.is_meta or not value.is_floating_point() or bool(torch.isfinite(value).all())


def _advice(renamed: Mapping[str, str], ours: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return what to do: the setting that an entry tells of, where one does."""
    for theirs, name in renamed.items():
        found = tuple(given[theirs].shape) if theirs in given else ()
        setting = _setting(name, tuple(ours[name].shape), found)
        if setting:
            return f"Set {setting}"
    return "Give a checkpoint of this network, or the sizes that it was made with (--width, --depth, --image-size)"


def _setting(name: str, expected: tuple[int, ...], found: tuple[int, ...]) -> str | None:
    """Return the setting under which the entry `name` would have the shape that was found, if it is a plain one."""
    if name.startswith("classifier.") and not found:
        return "form to the other of cifar and imagenet (--form)"
    if len(found) != len(expected) or found == expected:
        return None
    if name in _FIRST and found[1] != expected[1]:
        return f"in_channels={found[1]} (--channels {found[1]})"
    if name == "conv1.weight" and found[2] in {3, 7}:
        form = "cifar" if found[2] == 3 else "imagenet"
        return f"form={form!r} (--form {form})"
    if name == "patch_embed.proj.weight":
        return f"patch_size={found[2]} (--patch-size {found[2]})"
    if name == "pos_embed" and found[2] == expected[2]:
        return "image_size or patch_size to what the checkpoint was trained with (--image-size, --patch-size)"
    if name in _LAST and found[1:] == expected[1:]:
        return f"classes={found[0]} (--classes {found[0]})"
    return None
