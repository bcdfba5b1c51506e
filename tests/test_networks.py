"""The table of reference networks."""

from __future__ import annotations

import onnx
import pytest

from rankfold.models import demo
from rankfold.models.networks import REFERENCES, build
from rankfold.models.resnet import ResNet
from rankfold.models.vit import ViT


def test_each_reference_is_built_by_its_shape() -> None:
    assert isinstance(build(REFERENCES["vit-fashion"].shape), ViT)
    assert isinstance(build(REFERENCES["resnet-fashion"].shape), ResNet)


def test_paths_are_dropped_only_where_asked() -> None:
    shape = REFERENCES["vit-fashion"].shape
    assert [block.drop_path for block in build(shape).blocks] == [0.0] * 5
    assert build(shape, drop_path=0.1).blocks[-1].drop_path == 0.1


@pytest.mark.parametrize("name", list(REFERENCES))
def test_what_ships_is_the_reference_of_its_name(name: str) -> None:
    reference = REFERENCES[name]
    (path,) = (path() for path in (demo.embedded_model, demo.embedded_resnet) if path().name == reference.file)
    shipped = {value.name: list(value.dims) for value in onnx.load(path).graph.initializer}
    for weight, value in build(reference.shape).state_dict().items():
        if value.ndim == 4 or weight == "head.weight":  # kept as they are; a Linear's may be turned
            assert shipped[weight] == list(value.shape), weight
