"""The names at the top of the package: few, all there, and cheap until used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rankfold

NAMES = 12


def test_there_are_few_public_names() -> None:
    assert len(rankfold.__all__) <= NAMES
    assert len(set(rankfold.__all__)) == len(rankfold.__all__)


@pytest.mark.parametrize("name", rankfold.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(rankfold, name) is not None
    assert name in dir(rankfold)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'rankfold' has no attribute 'squash'"):
        _ = rankfold.squash


def test_importing_the_package_loads_no_library() -> None:
    command = "import sys, rankfold; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-W", "error", "-c", command], capture_output=True, text=True, check=True)
    assert "rankfold" in loaded.stdout.split()
    heavy = {"numpy", "scipy", "onnx", "onnxruntime", "onnx_graphsurgeon", "polygraphy", "rich", "torch"}
    assert heavy.isdisjoint(loaded.stdout.split())
