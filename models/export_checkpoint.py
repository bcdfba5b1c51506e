"""Export weights of your own: `python -m rankfold.models.export_checkpoint NETWORK --weights FILE -o OUT.onnx`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from rankfold.models import state_names, weight_files
from rankfold.models.export import export_network
from rankfold.models.networks import STANDARD, StandardShape, build
from rankfold.models.size_options import add_size_options
from rankfold.models.sizes import Sizes, sized


def load_checkpoint(network: str, weights: Path, sizes: Sizes) -> tuple[nn.Module, StandardShape]:
    """Return a network by name, in some sizes, with the weights of a file, and its shape.

    The file is a state dict that torch.save wrote or safetensors, its entries named as timm or torchvision name them.

    Raises:
        OSError: The file cannot be read.
        ValueError: There is no such network or size, or the file is damaged or does not fit; the message says where.
    """
    if network not in STANDARD:
        raise ValueError(f"no network {network!r}; expected one of {', '.join(STANDARD)}")
    shape = sized(STANDARD[network].shape, sizes)
    given = weight_files.read(weights)
    with torch.device("meta"):  # random weights would be drawn for nothing
        built = build(shape)
    state_names.load(built.to_empty(device="cpu"), given, weights)
    return built.eval(), shape


def export_checkpoint(network: str, weights: Path, path: Path, sizes: Sizes) -> None:
    """Write the network of `load_checkpoint` as ONNX to `path`, whole or not at all.

    Every weight has the bytes of the checkpoint's; a linear layer's is turned, as MatMul reads it, and that of a
    convolution before a batch normalisation is multiplied by the normalisation's scale, which is folded into it.
    """
    built, shape = load_checkpoint(network, weights, sizes)
    export_network(built, shape, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rankfold.models.export_checkpoint", description=__doc__)
    parser.add_argument("network", choices=list(STANDARD), help="the network that the weights are of")
    parser.add_argument("--weights", type=Path, required=True, help="a state dict of torch.save, or safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--image-size", type=int, default=Sizes.image_size, help="pixels (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=Sizes.in_channels, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=Sizes.classes, help="default: %(default)s")
    add_size_options(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line above."""
    parser = _parser()
    options = parser.parse_args(arguments)
    sizes = Sizes(
        image_size=options.image_size,
        in_channels=options.channels,
        classes=options.classes,
        width=Sizes.width if options.width is None else options.width,
        depth=Sizes.depth if options.depth is None else options.depth,
        form=options.form,
        patch_size=options.patch_size,
    )
    try:
        export_checkpoint(options.network, options.weights, options.output, sizes)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error


if __name__ == "__main__":
    main()
