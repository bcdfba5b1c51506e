"""The supervised process: runs one command line and turns Ctrl-C and bugs into exit codes of their own.

Its first imports are small on purpose: the handlers stand before anything heavy is loaded.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType, TracebackType

from rankfold.orphans import end_with_parent
from rankfold.tools.memory_limit import limit_memory
from rankfold.tools.run_notes import note_end

EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: an error that rankfold did not foresee; Python's own 1 would read as an exceeded limit."""
EXIT_INTERRUPTED = 130


def main() -> int:
    """Run the process's command line and return its exit code."""
    signal.signal(signal.SIGINT, _interrupt_once)
    sys.excepthook = _tell_bug
    end_with_parent()
    limit_memory(sys.argv[1:])
    code = _run()
    note_end(code)
    return code


def _run() -> int:
    try:
        from rankfold.tools.cli import main as run_command_line

        return run_command_line(sys.argv[1:])
    except KeyboardInterrupt:
        print("rankfold: interrupted; nothing half-written was left", file=sys.stderr)
        return EXIT_INTERRUPTED


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt at the first SIGINT only: what a terminal sends, the parent passes on once more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _tell_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    print("rankfold: this is a bug in rankfold; please report it with the lines above", file=sys.stderr)
    sys.stderr.flush()
    sys.stdout.flush()
    note_end(EXIT_BUG)
    os._exit(EXIT_BUG)


if __name__ == "__main__":
    sys.exit(main())
