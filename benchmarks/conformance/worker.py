"""One process of the run: `python -m benchmarks.conformance.worker PART SHARE SHARES FOLDER`.

It writes a line before each job and one for each outcome. If the process dies, the last line names the job that killed
it; a new process goes on behind it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, TextIO

from benchmarks.conformance.parts import Job, jobs


def main(arguments: list[str]) -> None:
    """Run every SHARES-th job of a part that its log does not hold yet."""
    part, share, shares = arguments[0], int(arguments[1]), int(arguments[2])
    folder = Path(arguments[3])
    path = folder / log_name(part, share)
    done = {entry["begun"] for entry in read_log(path) if "begun" in entry}
    with path.open("a") as log:
        for number, job in enumerate(jobs(part)):
            if number % shares == share and job.name not in done:
                _run(job, log)


def log_name(part: str, share: int) -> str:
    """Return the file that one process writes."""
    return f"{part}.{share}.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; a last one that was cut off is left out."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _run(job: Job, log: TextIO) -> None:
    _write(log, {"begun": job.name})
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters and overflowing cases warn of much
        for outcome in job.run(Path(temporary)):
            _write(log, {"job": job.name, **outcome.as_json()})
    _write(log, {"ended": job.name})


def _write(log: TextIO, entry: dict[str, Any]) -> None:
    log.write(json.dumps(entry) + "\n")
    log.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
