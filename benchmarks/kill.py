"""Sudden death: `python -m benchmarks.kill [--kills 100] [--seed 0]`.

SIGKILLs `rankfold compress`, its process group whole, at random moments: anywhere, after its first temporary output
appeared, and while it moves results into place. Half of the runs overwrite a result with external data. After each, the
result must be the old one, none, or the new one, whole; the next run must end byte-equal to one that nobody disturbed
and leave nothing temporary. Rewrites `results/kill.json` and the table in the README.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import markdown, write_results
from benchmarks.mutations import write_sound
from rankfold.errors import ModelError
from rankfold.passes.model_file import load_model

_PATIENCE_S = 120.0
_STAGED_SHARE = 0.3  # of a run, in which a result is made and proven under a temporary name
_SLICE_S = 0.0003  # less than what moving the results takes
_MOMENTS = ("anywhere", "writing", "placing", "writing", "placing")
_OLD_KEEP, _NEW_KEEP = "0.9", "0.7"

Content = dict[str, bytes]


@dataclass(frozen=True)
class Killed:
    """One kill and what was found after it.

    Attributes:
        moment: Where the kill was aimed at.
        overwriting: Whether a result with external data stood there.
        seconds: After the start.
        writing: Whether a temporary output had appeared.
        found: `none`, `old` or `new` result, or `broken`.
        faults: What must not be and was.
    """

    moment: str
    overwriting: bool
    seconds: float
    writing: bool
    found: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """What every kill needs: the inputs, the results of undisturbed runs, and how long one takes."""

    work: Path
    old: Content
    new: Content
    seconds: float
    extra: tuple[str, ...]

    def command(self, keep: str) -> list[str]:
        """Return the command line, to be run in a folder of its own."""
        words = ["--keep", keep, "-o", "out.onnx", "--report", "report", "--quiet", *self.extra]
        start = [sys.executable, "-P", "-m", "rankfold", "compress", str(self.work / "model.onnx")]
        return [*start, "--data", str(self.work / "data.npz"), *words]


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill as often as asked for, write what came out, and return 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        bench = prepared(Path(work))
        found = [killed(bench, number, random.Random(f"{chosen.seed}/{number}")) for number in range(chosen.kills)]
    write_results("kill", _summary(found, bench), _table(found))
    return int(any(kill.faults for kill in found))


def prepared(work: Path) -> Bench:
    """Write the inputs and make both results once, undisturbed."""
    write_sound("external dense", work)
    told = subprocess.run(
        [sys.executable, "-P", "-m", "rankfold", "compress", "--help"], check=True, capture_output=True, text=True
    )
    extra = ("--checkpoint", "checkpoint") if "--checkpoint" in told.stdout else ()
    bench = Bench(work, {}, {}, 0.0, extra)
    results: list[Content] = []
    for keep in (_OLD_KEEP, _NEW_KEEP):
        folder = work / f"undisturbed {keep}"
        _folders(folder)
        began = time.perf_counter()
        _run_to_end(bench, folder, keep)
        seconds = time.perf_counter() - began
        results.append(_result(folder))
    return Bench(work, results[0], results[1], seconds, extra)


def killed(bench: Bench, number: int, draw: random.Random) -> Killed:
    """Kill one run, judge what it left, run once more and judge again."""
    folder = bench.work / f"kill {number}"
    _folders(folder)
    overwriting = number % 2 == 0
    for name, content in bench.old.items() if overwriting else ():
        (folder / name).write_bytes(content)
    moment = _MOMENTS[number % len(_MOMENTS)]
    seconds, writing = _kill(bench, folder, moment, draw)
    found = _found(bench, folder)
    allowed = {"new", "old" if overwriting else "none"}
    faults = [] if found in allowed else [f"{found} result"]
    try:
        _run_to_end(bench, folder, _NEW_KEEP)
    except subprocess.CalledProcessError as error:
        faults.append(f"next run: exit {error.returncode}: {error.stderr[-500:]}")
    if not faults and _result(folder) != bench.new:
        faults.append(f"next run differs: {sorted(_result(folder))} instead of {sorted(bench.new)}")
    left = [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".lock"]
    left += [path.name for path in (folder / "tmp").iterdir()]
    if left:
        faults.append(f"left behind: {left}")
    shutil.rmtree(folder)
    return Killed(moment, overwriting, seconds, writing, found, tuple(faults))


def _folders(folder: Path) -> None:
    (folder / "tmp").mkdir(parents=True)


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(folder / "tmp")}


def _run_to_end(bench: Bench, folder: Path, keep: str) -> None:
    command = bench.command(keep)
    subprocess.run(command, cwd=folder, env=_environment(folder), check=True, capture_output=True, text=True)


def _kill(bench: Bench, folder: Path, moment: str, draw: random.Random) -> tuple[float, bool]:
    """Start a run and kill it; return after how many seconds, and whether a temporary output had appeared."""
    quiet = subprocess.DEVNULL
    command = bench.command(_NEW_KEEP)
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=_environment(folder), stdout=quiet, stderr=quiet, start_new_session=True
    )
    if moment == "writing":
        _wait(lambda: _staged(folder), process)
        time.sleep(draw.uniform(0, _STAGED_SHARE * bench.seconds))
    elif moment == "placing":
        _wait(lambda: _staged(folder), process)
        _step_until_placing(process, folder, slices=draw.randrange(3))
    else:
        time.sleep(draw.uniform(0, bench.seconds))
    writing = bool(_staged(folder))
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    seconds = time.perf_counter() - began
    process.wait()
    while _in_group(process.pid):  # the command's own child, which init has to bury
        time.sleep(0.001)
    return seconds, (writing or moment != "anywhere") and not ended


def _step_until_placing(process: subprocess.Popen[bytes], folder: Path, *, slices: int) -> None:
    """Let the run go on in thin slices until it is about to move its results, and then some slices more."""
    while process.poll() is None and slices >= 0:
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(_SLICE_S)
        os.killpg(process.pid, signal.SIGSTOP)
        staged = _staged(folder)
        slices -= not staged or any((part / ".unneeded").exists() for part in staged)


def _staged(folder: Path) -> list[Path]:
    return list(folder.glob(".out.onnx.*.partial"))


def _in_group(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _wait(until: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not until() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0002)


def _found(bench: Bench, folder: Path) -> str:
    """Return which result lies there: its model file tells, and all it refers to must be whole."""
    path = folder / "out.onnx"
    if not path.exists():
        return "none"
    try:
        files = {file.name: file.read_bytes() for file in load_model(path).files}
    except ModelError:
        return "broken"
    known = {"old": bench.old, "new": bench.new}
    return next((name for name, content in known.items() if files == content), "broken")


def _result(folder: Path) -> Content:
    """Return the model and whatever data files lie beside it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".onnx", ".data")}


def _summary(found: list[Killed], bench: Bench) -> dict[str, Any]:
    return {
        "kills": len(found),
        "after_first_temporary": sum(kill.writing for kill in found),
        "overwriting": sum(kill.overwriting for kill in found),
        "found_after": dict(sorted(Counter(kill.found for kill in found).items())),
        "faults": sum(bool(kill.faults) for kill in found),
        "checkpoint": bool(bench.extra),
        "undisturbed_seconds": round(bench.seconds, 2),
        "faulty": [asdict(kill) for kill in found if kill.faults],
    }


def _table(found: list[Killed]) -> str:
    head = ("killed", "runs", "after the first temporary", "old result", "no result", "new result", "faults")
    groups = {
        "overwriting a result": [kill for kill in found if kill.overwriting],
        "into an empty folder": [kill for kill in found if not kill.overwriting],
    }
    rows = []
    for name, kills in groups.items():
        states = Counter(kill.found for kill in kills)
        counts = (len(kills), sum(kill.writing for kill in kills), states["old"], states["none"], states["new"])
        rows.append((name, *map(str, counts), str(sum(bool(kill.faults) for kill in kills))))
    return markdown(head, rows)


if __name__ == "__main__":
    sys.exit(main())
