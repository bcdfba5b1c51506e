"""The `rankfold` command: runs the whole command in one child process, so that a native crash becomes a message.

The parent imports the standard library, `run_notes` and `partial_files` only. It passes signals on to the child,
passes the child's exit code back, and removes what a child that died left behind.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rankfold.orphans import own_process
from rankfold.passes.partial_files import partial_folder
from rankfold.tools.run_notes import RUN_FOLDER, noted_end, noted_stage, remove_unfinished

EXIT_UNUSABLE_INPUT = 3
_RUN = "rankfold-run"
_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGBREAK") if hasattr(signal, name)
]
"""The signals that end a command, those that the system knows."""
_SIGNALLED = 128
"""A shell's convention: 128 + the number of the signal that ended the command."""
_COMMAND = (sys.executable, "-P", "-m", "rankfold.tools.child")
"""-P: a file of the working directory named like a module, such as `onnx.py`, must not be imported instead of it."""


@dataclass(frozen=True)
class _Supervision:
    """The children started, and the signals that came, in order; both grow while the command runs."""

    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    received: list[int] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None, *, command: Sequence[str] = _COMMAND) -> int:
    """Run `rankfold` with these arguments (default: the process's own) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with _passing_signals() as supervision:
        try:
            with partial_folder(Path(tempfile.gettempdir()) / _RUN) as run_folder:
                code = _child_code([*command, *given], run_folder, supervision)
                stage, end = noted_stage(run_folder), noted_end(run_folder)
        except OSError as error:
            print(f"rankfold: the command cannot be started: {error}; see to room in $TMPDIR", file=sys.stderr)
            return EXIT_UNUSABLE_INPUT
    if end is not None:
        return end
    if supervision.received:
        name = signal.Signals(supervision.received[0]).name
        print(f"rankfold: stopped by {name}; nothing half-written was left", file=sys.stderr)
        return _SIGNALLED + supervision.received[0]
    print(end_message(given, code=code, stage=stage), file=sys.stderr)
    return EXIT_UNUSABLE_INPUT


def _child_code(command: Sequence[str], run_folder: Path, supervision: _Supervision) -> int:
    """Run the child, remove what it left unfinished, and return its code: negative for the signal that killed it."""
    child = subprocess.Popen(command, env=_environment(run_folder))
    supervision.children.append(child)
    for number in supervision.received:  # came while the child was being started
        child.send_signal(number)
    code = child.wait()
    remove_unfinished(run_folder, child.pid)
    return code


def end_message(arguments: Sequence[str], *, code: int, stage: str) -> str:
    """Return one message about a command that something else ended: what ran, what it means, what to try."""
    during = f" during {stage!r}" if stage else ""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        found, meaning = f"was killed by {name}{during}", _meaning(-code)
    else:
        found, meaning = f"ended with code {code}{during} and without a result", _NO_END
    return (
        f"rankfold: the command {found}: {meaning}\n"
        f"  command: {shlex.join(['rankfold', *arguments])}\n"
        "  No half-written output was left."
    )


_NO_END = (
    "something inside the process ended it, such as os._exit() in a data script, or it could not start. Mend the"
    " script, or what the lines above tell."
)


def _meaning(signal_number: int) -> str:
    if signal_number == getattr(signal, "SIGKILL", None):
        return (
            "most likely the system ran out of memory. Try a smaller --batch-size, fewer samples, or a machine (or"
            " container limit) with more memory."
        )
    if signal_number in (signal.SIGTERM, signal.SIGINT):
        return "something outside rankfold stopped it. Run it again."
    return (
        "a native crash inside onnxruntime or another compiled library, not an error that rankfold could catch. Check"
        " that the model runs in plain onnxruntime, export it again or try another onnxruntime version; with"
        " --provider cuda, try --provider cpu."
    )


# glibc keeps freed memory for later and raises its thresholds as it goes: sessions that are closed would go on
# counting. With fixed thresholds large blocks go back at once; other allocators ignore these names.
_RETURN_MEMORY = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}


def _environment(run_folder: Path) -> dict[str, str]:
    """Return the child's environment: its temporary files go where the parent removes them."""
    folder = str(run_folder)
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)
    return {**_RETURN_MEMORY, **own_process(), RUN_FOLDER: folder, **temporary}


@contextmanager
def _passing_signals() -> Iterator[_Supervision]:
    """Pass the signals that end a command on to the child and kill it at the second one.

    The caller appends the child once it runs. At a terminal Ctrl-C reaches the child by itself too; it heeds the
    first SIGINT only. What is ignored when the command starts, as by nohup, stays ignored.
    """
    supervision = _Supervision()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        supervision.received.append(number)
        for child in supervision.children:
            if len(supervision.received) > 1:
                child.kill()
            else:
                child.send_signal(number)

    heeded = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in heeded}
    try:
        yield supervision
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
