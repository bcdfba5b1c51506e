"""The arrows between the rooms, read from the sources: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from package_sources import Source, package_sources, parsed

# A room may import itself and these. `values` are also the findings made of them; `pipeline` is every module of
# src/rankfold without a line of its own.
ARROWS = {
    "values": set(),
    "errors": set(),
    "passes": {"values", "errors"},
    "runtime_calib": {"values", "errors"},
    "training": {"values", "errors"},
    "models": {"values", "errors", "training"},
    "pipeline": {"values", "errors", "passes", "runtime_calib", "training"},
    "tools": {"values", "errors", "passes", "runtime_calib", "training", "pipeline"},
    "top": {"values", "errors", "pipeline"},
    "start": {"tools"},
}
OWN_LINE = {
    "rankfold": "top",
    "rankfold.__main__": "start",
    "rankfold.values": "values",
    "rankfold.budgets": "values",
    "rankfold.findings": "values",
    "rankfold.projections": "values",
    "rankfold.windows": "values",
    "rankfold.errors": "errors",
    "rankfold.whole_files": "errors",  # what every room needs
}
FOLDERS = ("passes", "runtime_calib", "training", "models", "tools")
EVERYONE_MAY = {"rankfold.__version__"}
ALSO = {"tools": {"rankfold.models.demo"}}  # the files that ship; it needs no torch

RUNTIME_ROOMS = {"runtime_calib"}
TORCH_ROOMS = {"training", "models"}
TORCH_FREE = {
    "rankfold.models",
    "rankfold.models.array_pickle",
    "rankfold.models.cifar",
    "rankfold.models.datasets",
    "rankfold.models.demo",
    "rankfold.models.fashion_mnist",
    "rankfold.models.image_folder",
    "rankfold.models.labelled_images",
}


@dataclass(frozen=True)
class Import:
    """`module` is what is imported, down to the imported name; `lazy` inside a function."""

    module: str
    line: int
    lazy: bool


def room(module: str) -> str:
    """Return the room of a module of the package."""
    if module in OWN_LINE:
        return OWN_LINE[module]
    part = module.split(".")[1]
    return part if part in FOLDERS else "pipeline"


def imports(source: Source) -> Iterator[Import]:
    """Yield what a module imports, by statement or by `import_module("…")`, in functions and type checks too."""
    lazy = {
        id(inner)
        for outer in ast.walk(source.tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(source.tree):
        for name in _names(node):
            yield Import(name, node.lineno, id(node) in lazy)


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names, level=0):
            return [f"{module}.{alias.name}" for alias in names]
        case ast.ImportFrom():
            return ["a relative import"]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(module)), *_],
        ):
            return [module]
        case _:
            return []


def complaints(source: Source) -> list[str]:
    """Return one line for each import that has no arrow."""
    here = room(source.module)
    return [f"{source}:{found.line}: {reason}" for found in imports(source) for reason in _reasons(source, here, found)]


def _reasons(source: Source, here: str, found: Import) -> Iterator[str]:
    outer = found.module.split(".")[0]
    if outer == "a relative import" or outer in FOLDERS:
        yield f"{found.module}: import it as rankfold.…"
    if outer == "onnxruntime" and here not in RUNTIME_ROOMS:
        yield "only runtime_calib imports onnxruntime"
    if outer == "torch" and (here not in TORCH_ROOMS or source.module in TORCH_FREE):
        yield "only training and the networks in models import torch"
    if outer == "rankfold":
        yield from _inner_reasons(here, found)


def _inner_reasons(here: str, found: Import) -> Iterator[str]:
    if found.module in EVERYONE_MAY | ALSO.get(here, set()):
        return
    # `from rankfold.values import Feed` is found as rankfold.values.Feed: what follows the room does not matter here.
    there = room(found.module if found.module in OWN_LINE else ".".join(found.module.split(".")[:2]))
    if there != here and there not in ARROWS[here] and not _is_demo(here, found):
        yield f"{here} may not import {found.module} ({there})"
    if there == "training" and here in {"pipeline", "tools"} and not found.lazy:
        yield "training is imported inside the function that needs it"


def _is_demo(here: str, found: Import) -> bool:
    return any(found.module.startswith(f"{allowed}.") for allowed in ALSO.get(here, set()))


@pytest.mark.parametrize("source", package_sources(), ids=str)
def test_imports_follow_the_arrows(source: Source) -> None:
    assert complaints(source) == []


FORBIDDEN = [
    ("rankfold.passes.sites", "from rankfold.runtime_calib.sessions import open_session", "passes may not import"),
    ("rankfold.runtime_calib.feeds", "from rankfold.passes import sites", "runtime_calib may not import"),
    ("rankfold.values", "from rankfold.errors import ModelError", "values may not import"),
    ("rankfold.values", "import rankfold.pipeline", "values may not import"),
    ("rankfold.passes.fold", "from rankfold import compress", "passes may not import"),
    ("rankfold.passes.fold", "from rankfold.options import Options", "passes may not import"),
    ("rankfold.passes.fold", "import rankfold", "passes may not import"),
    ("rankfold.pipeline", "from rankfold.tools import cli", "pipeline may not import"),
    ("rankfold.pipeline", "from rankfold.models import demo", "pipeline may not import"),
    ("rankfold.tools.demo", "from rankfold.models.vit import ViT", "tools may not import"),
    ("rankfold.models.vit", "from rankfold.pipeline import compress", "models may not import"),
    ("rankfold.training.heal", "from rankfold.models.vit import ViT", "training may not import"),
    ("rankfold.pipeline", "from rankfold.training.heal import heal", "inside the function"),
    ("rankfold.passes.sites", "import onnxruntime", "only runtime_calib"),
    ("rankfold.pipeline", "def f():\n    from onnxruntime import InferenceSession", "only runtime_calib"),
    ("rankfold.tools.cli", "import importlib\nimportlib.import_module('onnxruntime')", "only runtime_calib"),
    ("rankfold.passes.factors", "import torch.linalg", "import torch"),
    ("rankfold.models.demo", "from torch import nn", "import torch"),
    ("rankfold.models", "import torch", "import torch"),
    ("rankfold.passes.fold", "from passes import sites", "import it as rankfold"),
    ("rankfold.passes.fold", "from .sites import find_sites", "import it as rankfold"),
    ("rankfold.passes.fold", "if TYPE_CHECKING:\n    import rankfold.runtime_calib.feeds", "passes may not import"),
]


@pytest.mark.parametrize(("module", "text", "reason"), FORBIDDEN)
def test_a_forbidden_import_is_found(module: str, text: str, reason: str) -> None:
    found = complaints(parsed(text, module))
    assert len(found) == 1
    assert reason in found[0]


ALLOWED = [
    ("rankfold.passes.sites", "from rankfold.values import Request\nfrom rankfold.passes.site import Site"),
    ("rankfold.runtime_calib.sessions", "import onnxruntime\nfrom onnxruntime.capi import x"),
    ("rankfold.pipeline", "def heal():\n    from rankfold.training.heal import heal"),
    ("rankfold.tools.demo", "from rankfold.models import demo\nfrom rankfold.models.demo import embedded_model"),
    ("rankfold.tools.cli", "from rankfold import __version__"),
    ("rankfold.models.train", "import torch"),
    ("rankfold.__main__", "from rankfold.tools.supervise import main"),
]


@pytest.mark.parametrize(("module", "text"), ALLOWED)
def test_an_allowed_import_is_left_alone(module: str, text: str) -> None:
    assert complaints(parsed(text, module)) == []


def test_every_room_is_read() -> None:
    assert {room(source.module) for source in package_sources()} >= {
        "values",
        "errors",
        "passes",
        "runtime_calib",
        "training",
        "models",
        "tools",
        "pipeline",
        "top",
    }
