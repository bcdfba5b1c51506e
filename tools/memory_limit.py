"""A limit on a process's memory, so that a model that asks for absurd amounts is refused and not the machine stalled.

Standard library only: it is set before anything heavy is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

if sys.platform == "linux":
    import resource

_SPARE_SHARE = 0.25
_SPARE_BYTES = 2 * 2**30
"""Reserved memory that is never touched counts too: thread stacks, buffers per core, arenas that grow by doubling."""
_FIRST_TO_GO = "500"
"""Of -1000 to 1000: where memory runs out all the same, the system should end this process and no other."""


def limit_memory(arguments: Sequence[str]) -> None:
    """Limit this process to the memory that is free now, and some more that it may reserve without using it.

    The limit is on private writable memory: mapped files do not count. CUDA reserves address space as it likes, so
    that a command that names it is not limited.
    """
    if sys.platform != "linux" or any(word.removeprefix("--provider=") == "cuda" for word in arguments):
        return
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO, encoding="ascii")
    free = available_bytes(Path("/"))
    if free is None:
        return
    wanted = free + max(int(free * _SPARE_SHARE), _SPARE_BYTES)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available_bytes(root: Path) -> int | None:
    """Return the memory a process here can still get, swap included; None where the system does not tell.

    Args:
        root: Where `proc` and `sys` lie.
    """
    kinds = _table(root / "proc/meminfo")
    if "MemAvailable" not in kinds:
        return None
    free = min([kinds["MemAvailable"] * 1024, *_left_in_groups(root)])
    return max(free, 0) + kinds.get("SwapFree", 0) * 1024


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what is left of the limit of each control group this process is in, of either version."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inside = mount / path.strip("/")
        for group in (inside, *inside.parents):
            yield from _left(group, names)
            if group == mount:
                break


def _left(group: Path, names: tuple[str, str, str]) -> Iterator[int]:
    limit, used = (_text(group / name).strip() for name in names[:2])
    if limit.isdecimal() and used.isdecimal():
        yield int(limit) - int(used) + _table(group / "memory.stat").get(names[2], 0)


def _table(path: Path) -> dict[str, int]:
    """Return the lines `name: number` or `name number` of a file; none where it cannot be read."""
    words = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {found[0]: int(found[1]) for found in words if len(found) > 1 and found[1].isdecimal()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
