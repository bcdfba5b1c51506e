"""The package's own source files, found on disk by way of the package map in pyproject.toml."""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Source:
    """One module: its import name, its file and its parsed text."""

    module: str
    path: Path
    tree: ast.Module

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()


def parsed(text: str, module: str) -> Source:
    """Return a module that exists only in a test."""
    return Source(module, ROOT / "made_up.py", ast.parse(text))


def declaration() -> dict[str, object]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def package_folders() -> dict[str, Path]:
    """Return the folder of each package, as declared."""
    setuptools = declaration()["tool"]["setuptools"]
    return {package: ROOT / setuptools["package-dir"][package] for package in setuptools["packages"]}


@cache
def package_sources() -> tuple[Source, ...]:
    """Return every module of the package."""
    return tuple(
        Source(_module(package, path), path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
        for package, folder in package_folders().items()
        for path in sorted(folder.glob("*.py"))
    )


def _module(package: str, path: Path) -> str:
    return package if path.stem == "__init__" else f"{package}.{path.stem}"
