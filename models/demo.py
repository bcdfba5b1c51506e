"""The trained networks that ship, their calibration images and their labelled test images; needs no torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

MODEL_FILE = "vit_fashion.onnx"
RESNET_FILE = "resnet_fashion.onnx"
CALIBRATION_FILE = "fashion_calibration.npz"
TEST_FILE = "fashion_test.npz"


def embedded_model() -> Path:
    """Return the ONNX file of the ViT: `image` (batch, 1, 28, 28) float32 in [0, 1] to `logits` (batch, 10)."""
    return _shipped(MODEL_FILE)


def embedded_resnet() -> Path:
    """Return the ONNX file of the ResNet, a convolutional network; the same images in, the same logits out."""
    return _shipped(RESNET_FILE)


def calibration_data() -> Path:
    """Return an `.npz` of 512 training images: `image` (512, 1, 28, 28) float32 in [0, 1]."""
    return _shipped(CALIBRATION_FILE)


def test_data() -> Path:
    """Return an `.npz` of the first 1,000 test images, as `image`, and their classes, `labels` (1000,) int64."""
    return _shipped(TEST_FILE)


def _shipped(name: str) -> Path:
    return Path(str(files("rankfold.models").joinpath(name)))
