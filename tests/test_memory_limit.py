"""How much memory a command may take, on machines that are made up of files, and what comes of asking for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rankfold.tools.memory_limit import available_bytes

GIB = 2**30
MEMINFO = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nSwapTotal: 0 kB\nSwapFree: 1048576 kB\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_groups_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert available_bytes(machine(tmp_path, {"proc/meminfo": MEMINFO})) == 9 * GIB


def test_a_machine_that_does_not_tell(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


def test_the_tightest_group_of_version_2_counts(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/pod/box"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "0::/pod/box\n",
        f"{group}/memory.max": "max\n",
        f"{group}/memory.current": "1\n",
        "sys/fs/cgroup/pod/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/pod/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GIB}\n",
    }
    assert available_bytes(machine(tmp_path, files)) == 2 * GIB + GIB  # a page cache that can go, and the swap


def test_groups_of_version_1_count_too(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/1"
    files = {
        "proc/meminfo": MEMINFO,
        "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/1\n3:cpu:/\n",
        f"{group}/memory.limit_in_bytes": f"{2 * GIB}\n",
        f"{group}/memory.usage_in_bytes": f"{GIB}\n",
        f"{group}/memory.stat": "total_inactive_file 0\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
    }
    assert available_bytes(machine(tmp_path, files)) == GIB + GIB


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize("words", [[], ["--provider", "cuda"], ["--provider=cuda"]])
def test_absurd_amounts_are_refused_and_honest_ones_not(words: list[str]) -> None:
    script = (
        "import sys, mmap, resource; from rankfold.tools.memory_limit import *; limit_memory(sys.argv[1:])\n"
        "soft = resource.getrlimit(resource.RLIMIT_DATA)[0]\n"
        "free = available_bytes(Path('/'))\n"
        "print(soft == resource.RLIM_INFINITY or soft > 1.2 * free)\n"
        "flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, 'MAP_NORESERVE', 0x4000)\n"
        "try:\n    mmap.mmap(-1, 2 * free + 2**33, flags=flags); print('mapped')\n"
        "except OSError:\n    print('refused')\n"
    )
    found = subprocess.run([sys.executable, "-c", script, *words], check=True, capture_output=True, text=True)
    assert found.stdout == ("True\nmapped\n" if words else "True\nrefused\n")
