"""What is declared, what lies on disk and what a wheel holds are the same."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from package_sources import ROOT, declaration, package_folders
from packaging.requirements import Requirement

import rankfold

SHIPPED_BYTES = 12_000_000
DATA = {".onnx", ".npz", ".typed"}
NOT_THE_PACKAGE = {"rankfold-demo", "build", "dist", "tests", "benchmarks", "docs"}
PLATFORMS = [
    ("linux", "x86_64", "onnxruntime-gpu"),
    ("win32", "AMD64", "onnxruntime-gpu"),
    ("linux", "aarch64", "onnxruntime"),
    ("win32", "ARM64", "onnxruntime"),
    ("darwin", "arm64", "onnxruntime"),
    ("darwin", "x86_64", "onnxruntime"),
]


def folders_with_code(root: Path) -> set[Path]:
    """Return the folders of a checkout that hold Python files of the package."""
    found = {path.parent for path in root.rglob("*.py")}
    return {
        folder
        for folder in found
        if not any(part.startswith(".") or part in NOT_THE_PACKAGE for part in folder.relative_to(root).parts)
    }


def files_of_the_package() -> set[str]:
    """Return the files that belong into a wheel, by their paths in it."""
    return {
        f"{package.replace('.', '/')}/{path.name}"
        for package, folder in package_folders().items()
        for path in folder.iterdir()
        if path.suffix in DATA | {".py"}
    }


def build(kind: str, checkout: Path) -> Path:
    """Build a `wheel` or `sdist` of a checkout, in a process of its own, and return it."""
    command = f"from setuptools import build_meta; print(build_meta.build_{kind}('out'))"
    done = subprocess.run([sys.executable, "-c", command], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return checkout / "out" / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in package_folders().values():
        shutil.copytree(folder, copy / folder.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "out").mkdir()
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build("wheel", checkout)


def test_every_folder_with_code_is_declared() -> None:
    assert folders_with_code(ROOT) == set(package_folders().values())


def test_an_undeclared_sub_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "passes" / "conv").mkdir(parents=True)
    (tmp_path / "passes" / "conv" / "sites.py").touch()
    assert folders_with_code(tmp_path) == {tmp_path / "passes" / "conv"}


def test_the_wheel_holds_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files_of_the_package()
    networks = {"rankfold/models/vit_fashion.onnx", "rankfold/models/resnet_fashion.onnx"}
    assert networks | {"rankfold/py.typed", "rankfold/tools/supervise.py"} <= held


def test_the_sdist_holds_all_of_the_package(checkout: Path) -> None:
    sdist = build("sdist", checkout)
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    in_the_checkout = {
        path.relative_to(ROOT).as_posix()
        for folder in package_folders().values()
        for path in folder.iterdir()
        if path.suffix in DATA | {".py"}
    }
    assert in_the_checkout <= held


def test_the_wheel_states_version_license_and_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    notes = f"rankfold-{rankfold.__version__}.dist-info"
    metadata = Parser().parsestr(archive.read(f"{notes}/METADATA").decode())
    assert metadata["Version"] == rankfold.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{notes}/licenses/LICENSE" in archive.namelist()
    assert "rankfold = rankfold.tools.supervise:main" in archive.read(f"{notes}/entry_points.txt").decode()


def test_an_unpacked_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = (
        "import rankfold, rankfold.pipeline, rankfold.tools.cli\n"
        "from rankfold.models import demo\n"
        "print(rankfold.__file__, demo.embedded_model(), demo.embedded_resnet(), sep='\\n')\n"
        "print(demo.calibration_data(), demo.test_data(), sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert len(paths) == 5
    assert all(path.is_file() and path.is_relative_to(tmp_path) for path in paths)


def test_the_command_exists() -> None:
    module, _, function = declaration()["project"]["scripts"]["rankfold"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_newest_change_is_of_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == rankfold.__version__


@pytest.mark.parametrize(("system", "machine", "expected"), PLATFORMS)
def test_exactly_one_onnxruntime_is_asked_for(system: str, machine: str, expected: str) -> None:
    platform = {"sys_platform": system, "platform_machine": machine}
    asked = [Requirement(line) for line in declaration()["project"]["dependencies"]]
    runtimes = [line.name for line in asked if line.name.startswith("onnxruntime") and line.marker.evaluate(platform)]
    assert runtimes == [expected]


def test_only_its_extra_asks_for_torch() -> None:
    project = declaration()["project"]
    asking = [
        name for name, lines in project["optional-dependencies"].items() if any("torch" in line for line in lines)
    ]
    assert asking == ["torch"]
    assert not any("torch" in line for line in project["dependencies"])


def test_the_constraints_pin_every_dependency_inside_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    project = declaration()["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    outside = [line for line in map(Requirement, asked) if not line.specifier.contains(pins[line.name])]
    assert outside == []


def test_the_shipped_files_are_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "models").iterdir() if path.suffix in DATA) <= SHIPPED_BYTES
