"""The command-line options that give a network its sizes."""

from __future__ import annotations

import argparse
from typing import get_args

from rankfold.models.resnet_deep import Form


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """Add `--width`, `--depth`, `--form` and `--patch-size`; each is None where it is not given."""
    parser.add_argument("--width", type=float, help="factor of channels, features or heads (default: 1)")
    parser.add_argument("--depth", type=float, help="factor of blocks or hidden layers (default: 1)")
    parser.add_argument(
        "--form", choices=get_args(Form), help="of ResNets and VGG (default: cifar for images of up to 64 pixels)"
    )
    parser.add_argument(
        "--patch-size", type=int, help="of transformers (default: 4 for images of up to 64 pixels, or 16)"
    )
