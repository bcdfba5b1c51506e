"""Spoilt models and data through the real commands: `python -m benchmarks.fuzz [--cases 2000] [--seed 0]`.

Every case is a child process forked from this one, which has imported everything, and runs the function that the
`rankfold` command's own child runs. Rewrites `results/fuzz.json` and the table in the README, and fails where a case
ended in a traceback, hung, wrote outside of the output folder, or left something there without ending well.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import markdown, write_results
from benchmarks.data_mutations import spoil_data
from benchmarks.mutations import KINDS, spoil_model, write_sound
from rankfold.passes.model_file import load_model
from rankfold.runtime_calib.feed_files import json_feeds
from rankfold.tools import child, commands_compress, commands_stages  # noqa: F401
from rankfold.tools.run_notes import RUN_FOLDER

LIMIT_S = 20.0
_FAULTS = ("tracebacks", "hangs", "written elsewhere", "left behind", "broken results", "crashes")


@dataclass(frozen=True)
class Ended:
    """How one case ended.

    Attributes:
        seed: What it was drawn from.
        spoilt: What was done to the model or the data.
        command: Which command ran.
        code: Exit code; below 0 the signal that killed it.
        seconds: How long it took.
        faults: What must not happen and did.
        message: What was told on stderr.
    """

    seed: int
    spoilt: str
    command: str
    code: int
    seconds: float
    faults: tuple[str, ...]
    message: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases, write what came out, and return 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this one case and show it")
    chosen = parser.parse_args(arguments)
    if chosen.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(run_case(chosen.only, Path(folder)))
        return 0
    found = run_cases(range(chosen.seed, chosen.seed + chosen.cases), shown=True)
    write_results("fuzz", _summary(found), _table(found))
    return int(any(ended.faults for ended in found))


def run_cases(seeds: Sequence[int], *, shown: bool = False) -> list[Ended]:
    """Run the cases of these seeds, each in a folder of its own."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        _load_readers(Path(folder))
        for seed in seeds:
            found.append(run_case(seed, Path(folder)))
            if shown and found[-1].faults:
                print(found[-1], file=sys.stderr)
    return found


def run_case(seed: int, work: Path) -> Ended:
    """Draw, run and judge one case."""
    draw = random.Random(seed)
    case = work / str(seed)
    places = {name: case / name for name in ("in", "out", "cwd", "tmp")}
    for place in places.values():
        place.mkdir(parents=True)
    model, data = write_sound(draw.choice(KINDS), places["in"])
    if draw.random() < 0.65:
        spoilt = spoil_model(model, draw)
    else:
        data, spoilt = spoil_data(data, draw)
    command = draw.choice(("analyze", "compress"))
    words = [command, str(model), "--data", str(data), "--quiet"]
    if command == "compress":
        words += ["--keep", "0.9", "-o", str(places["out"] / "out.onnx"), "--report", str(places["out"] / "report")]
    before = _content(case, leaving=("out", "tmp"))
    began = time.perf_counter()
    code, hung = _run_forked(words, case)
    seconds = time.perf_counter() - began
    message = (places["tmp"] / "stderr").read_text(errors="replace")
    faults = {
        "tracebacks": "Traceback" in message or code == child.EXIT_BUG,
        "hangs": hung,
        "written elsewhere": _content(case, leaving=("out", "tmp")) != before,
        "left behind": code not in (0, 1) and any(places["out"].iterdir()) and not hung and code >= 0,
        "broken results": code in (0, 1) and command == "compress" and not _opens(places["out"] / "out.onnx"),
        "crashes": code < 0 and not hung,
    }
    shutil.rmtree(case)
    return Ended(seed, spoilt, command, code, seconds, tuple(n for n, is_so in faults.items() if is_so), message)


def _load_readers(folder: Path) -> None:
    """Load what reading JSON imports, once for all children."""
    (folder / "sound.json").write_text("{}")
    list(json_feeds([folder / "sound.json"]))


def _run_forked(words: list[str], case: Path) -> tuple[int, bool]:
    """Return the exit code of the command in a forked child, and whether it had to be stopped."""
    pid = os.fork()
    if pid == 0:
        _become_command(words, case)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), True


def _become_command(words: list[str], case: Path) -> None:
    os.chdir(case / "cwd")
    told = os.open(case / "tmp" / "stderr", os.O_WRONLY | os.O_CREAT)
    os.dup2(told, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ[RUN_FOLDER] = tempfile.tempdir = str(case / "tmp")
    sys.argv[1:] = words
    try:
        code = child.main()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    except BaseException:  # noqa: BLE001  # what the interpreter would do at the end of a process
        sys.excepthook(*sys.exc_info())
        os._exit(child.EXIT_BUG)


def _content(case: Path, *, leaving: tuple[str, ...]) -> dict[str, str]:
    """Return the digest of every file of a case, but for those folders, and the names of what lies beside it."""
    beside = {f"beside: {path.name}": "" for path in case.parent.iterdir()}
    files = [path for path in case.rglob("*") if path.relative_to(case).parts[0] not in leaving]
    return beside | {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in files
    }


def _opens(path: Path) -> bool:
    return path.is_file() and bool(load_model(path).digest)


def _summary(found: list[Ended]) -> dict[str, Any]:
    return {
        "seeds": [found[0].seed, found[-1].seed],
        "cases": len(found),
        "exit_codes": {str(code): count for code, count in sorted(Counter(ended.code for ended in found).items())},
        "faults": {name: sum(name in ended.faults for ended in found) for name in _FAULTS},
        "slowest_seconds": round(max(ended.seconds for ended in found), 2),
        "faulty": [asdict(ended) for ended in found if ended.faults],
    }


def _table(found: list[Ended]) -> str:
    head = ("spoilt", "cases", "done", "refused with one message", *_FAULTS)
    groups = {"model": [e for e in found if "." in e.spoilt or e.spoilt == "bytes"]}
    groups["data"] = [e for e in found if e not in groups["model"]]
    rows = [
        (
            name,
            f"{len(cases):,}",
            f"{sum(e.code in (0, 1) for e in cases):,}",
            f"{sum(e.code == child_refusal() for e in cases):,}",
            *(str(sum(fault in e.faults for e in cases)) for fault in _FAULTS),
        )
        for name, cases in groups.items()
    ]
    return markdown(head, rows)


def child_refusal() -> int:
    """Return the exit code of an input that cannot be processed."""
    from rankfold.tools.cli import EXIT_UNUSABLE_INPUT

    return EXIT_UNUSABLE_INPUT


if __name__ == "__main__":
    sys.exit(main())
