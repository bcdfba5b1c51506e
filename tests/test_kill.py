"""A handful of the kills that `benchmarks.kill` makes."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from benchmarks import kill

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups")


def test_whatever_is_killed_leaves_whole_results_and_the_next_run_ends_the_same(tmp_path: Path) -> None:
    bench = kill.prepared(tmp_path)
    assert set(bench.old) & set(bench.new) == {"out.onnx"}
    found = [kill.killed(bench, number, random.Random(number)) for number in (1, 2, 4)]
    assert [ended.faults for ended in found] == [()] * 3
    assert any(ended.writing for ended in found)
    assert kill._summary(found, bench)["kills"] == 3
    assert kill._table(found).count("\n") == 3


def test_a_broken_result_is_seen(tmp_path: Path) -> None:
    bench = kill.Bench(tmp_path, {"out.onnx": b"old"}, {"out.onnx": b"new"}, 1.0, ())
    assert kill._found(bench, tmp_path) == "none"
    (tmp_path / "out.onnx").write_bytes(b"half")
    assert kill._found(bench, tmp_path) == "broken"
