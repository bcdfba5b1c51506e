"""Spoilt models and data through the real commands, some of those that `benchmarks.fuzz` runs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import fuzz
from benchmarks.data_mutations import spoil_data
from benchmarks.mutations import KINDS, spoil_model, write_sound

from rankfold.pipeline import Options, compress

CASES = 200

# Forking is for a process of its own: pytest's has threads.
RUN = """
import sys
from benchmarks.fuzz import run_cases
found = run_cases(range(int(sys.argv[1])))
for ended in found:
    if ended.faults:
        print(ended)
print(sorted({ended.code for ended in found}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases are forked")
def test_spoilt_files_end_in_a_result_or_in_one_message() -> None:
    command = [sys.executable, "-c", RUN, str(CASES)]
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "[0, 3]\n"), found.stdout + found.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_spoilt_is_compressed(kind: str, tmp_path: Path) -> None:
    model, data = write_sound(kind, tmp_path)
    result = compress(model, data, keep=0.9, options=Options(latency_rounds=0))
    assert result.report.changed


def test_a_seed_names_a_case(tmp_path: Path) -> None:
    seen = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for seed in range(30):
            draw = random.Random(seed)
            model, data = write_sound("external dense", tmp_path / name)
            done = spoil_model(model, draw)
            seen.append((seed, done, model.read_bytes()))
            if not (tmp_path / name / "many").exists():
                seen.append(spoil_data(data, draw)[1])
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert len({str(entry) for entry in seen}) > 30


def test_faults_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(words: list[str], case: Path) -> tuple[int, bool]:
        (case / "tmp" / "stderr").write_text("Traceback (most recent call last):\n")
        (case / "in" / "new").touch()
        (case / "out" / "half").touch()
        return 3, "compress" not in words

    monkeypatch.setattr(fuzz, "_run_forked", faulty)
    faults = {fault for seed in range(12) for fault in fuzz.run_case(seed, tmp_path).faults}
    assert faults == {"tracebacks", "written elsewhere", "left behind", "hangs"}
    monkeypatch.setattr(fuzz, "_run_forked", lambda *_: ((_[1] / "tmp" / "stderr").touch(), (0, False))[1])
    faults = {fault for seed in range(12) for fault in fuzz.run_case(seed, tmp_path).faults}
    assert faults == {"broken results"}
