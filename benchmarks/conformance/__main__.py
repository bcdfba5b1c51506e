"""Run all parts and write what came out: `python -m benchmarks.conformance [--work DIR] [--only PART ...]`.

Each part runs in processes of its own, so that a crash of the runtime ends one job and not the run. What is done is
kept in the work folder: a second call with the same folder goes on where the first one stopped. Rewrites
`results/conformance.json` and the table in the README once all parts are there. The parts `torch`, `runtime` and
`sklearn` need `pip install '.[torch]' scikit-learn skl2onnx`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import write_results
from benchmarks.conformance.parts import PARTS
from benchmarks.conformance.summary import summary, table
from benchmarks.conformance.worker import log_name, read_log

PROCESSES = 2
WORKER = ["-m", "benchmarks.conformance.worker"]
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit code is 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for what is done, kept; default: a temporary one")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), help="these parts; the results file stays as it is")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        found = {part: list(_part(part, work)) for part in chosen.only or PARTS}
    content = summary(found)
    for line in content["failures"]:
        print(line, file=sys.stderr)
    if chosen.only:
        print(table(content))
    else:
        write_results("conformance", content, table(content))
    return 1 if content["failures"] else 0


def _part(part: str, work: Path) -> Iterator[dict[str, Any]]:
    """Run a part to its end and yield its outcomes."""
    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(lambda share: _share(part, share, work), range(PROCESSES)))
    for share in range(PROCESSES):
        yield from (entry for entry in read_log(work / log_name(part, share)) if "status" in entry)


def _share(part: str, share: int, work: Path) -> None:
    """Run processes until one comes to the end; each that dies leaves one job marked as crashed."""
    path = work / log_name(part, share)
    command = [sys.executable, *WORKER, part, str(share), str(PROCESSES), str(work)]
    while True:
        begun = len(read_log(path))
        code = subprocess.run(command, env=os.environ | _ONE_THREAD, check=False).returncode
        if code == 0:
            return
        entries = read_log(path)
        if len(entries) == begun or "begun" not in _last_mark(entries):
            raise SystemExit(f"part {part!r}: the process failed with {code} before its first job")
        _mark_crashed(path, _last_mark(entries)["begun"], code)


def _last_mark(entries: list[dict[str, Any]]) -> dict[str, Any]:
    return next((entry for entry in reversed(entries) if "begun" in entry or "ended" in entry), {})


def _mark_crashed(path: Path, job: str, code: int) -> None:
    crashed = {"job": job, "case": job, "status": "crashed", "detail": f"the process ended with {code}"}
    with path.open("a") as log:
        log.write(json.dumps(crashed) + "\n" + json.dumps({"ended": job}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
