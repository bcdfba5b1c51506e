"""Counting CPUs and limiting BLAS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info

from rankfold.runtime_calib import threads
from rankfold.runtime_calib.threads import available_cpus, cgroup_quota, limited_threads


def _group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def _membership(folder: Path, text: str) -> Path:
    path = folder / "membership"
    path.write_text(text)
    return path


def test_quota_of_version_2_is_the_smallest_of_the_group_and_its_parents(tmp_path: Path) -> None:
    _group(tmp_path / "a", cpu__max="150000 100000\n")
    _group(tmp_path / "a/b", cpu__max="max 100000\n")
    _group(tmp_path / "c", cpu__max="50000 100000\n")  # somebody else's
    assert cgroup_quota(tmp_path, _membership(tmp_path, "0::/a/b\n")) == 1.5


def test_quota_of_version_1(tmp_path: Path) -> None:
    _group(tmp_path / "cpu/box", cpu__cfs_quota_us="300000\n", cpu__cfs_period_us="100000\n")
    membership = _membership(tmp_path, "3:cpuset:/other\n2:cpu,cpuacct:/box\n")
    assert cgroup_quota(tmp_path, membership) == 3.0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu__max": "max 100000"},
        {"cpu__max": "0 100000"},
        {"cpu__max": "broken"},
        {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"},
    ],
)
def test_no_quota(tmp_path: Path, files: dict[str, str]) -> None:
    _group(tmp_path, **files)
    assert cgroup_quota(tmp_path, tmp_path / "absent") is None


def test_quota_rounds_up_and_never_exceeds_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "_MEMBERSHIP", tmp_path / "absent")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert available_cpus() == 4
    for quota, expected in (("250000 100000", 3), ("1000 100000", 1), ("900000 100000", 4)):
        _group(tmp_path, cpu__max=quota)
        assert available_cpus() == expected


def test_blas_is_limited_inside_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def blas_threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = blas_threads()
    monkeypatch.setattr(threads, "available_cpus", lambda: 1)
    with limited_threads():
        assert set(blas_threads()) == {1}
    assert blas_threads() == before
