"""How many CPUs this process may really use, and keeping numpy's BLAS to them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from threadpoolctl import threadpool_limits

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_cpus() -> int:
    """Return the CPUs this process may use, at least 1: its affinity, and the quota of its control group."""
    quota = cgroup_quota(_CGROUPS, _MEMBERSHIP)
    affinity = _affinity()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


@contextmanager
def limited_threads() -> Iterator[None]:
    """Keep BLAS to `available_cpus()` threads inside the block.

    OpenBLAS starts one thread per core of the host, also in a container that may use two of them; the
    surplus threads then wait for each other, and a 128 x 128 product takes 80 times as long.
    """
    with threadpool_limits(limits=available_cpus(), user_api="blas"):
        yield


def cgroup_quota(root: Path, membership: Path) -> float | None:
    """Return the smallest CPU quota of this process's control groups, in CPUs, None where there is none.

    Args:
        root: Where the control groups are mounted, usually /sys/fs/cgroup.
        membership: The process's list of groups, usually /proc/self/cgroup, lines `id:controllers:path`.
    """
    quotas = [quota for folder in _groups(root, membership) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders that may hold a quota: the process's groups and their parents, versions 2 and 1."""
    yield root  # inside a container the own group is often mounted as the root
    yield root / "cpu"
    for line in _read(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "cpu" if controllers else root
        group = Path(path.lstrip("/"))
        yield from (mount / parent for parent in (group, *group.parents))


def _quota(folder: Path) -> float | None:
    limit, period = _limit_and_period(folder)
    if not (limit.isdecimal() and period.isdecimal()):  # "max" or -1: no limit; empty: no such file
        return None
    return int(limit) / int(period) if int(limit) > 0 and int(period) > 0 else None


def _limit_and_period(folder: Path) -> tuple[str, str]:
    """Return both in microseconds, as the files give them."""
    newer = _read(folder / "cpu.max").split()
    if len(newer) == 2:
        return newer[0], newer[1]
    return _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
