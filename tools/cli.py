"""The command line: which commands there are, and how every way a command can end becomes an exit code.

0 done; 1 a stated limit was exceeded; 2 the options are wrong; 3 the input cannot be processed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from cyclopts import App, CycloptsError

from rankfold import __version__
from rankfold.errors import RankfoldError
from rankfold.runtime_calib.distributions import check_distributions
from rankfold.tools.options import UsageError

EXIT_USAGE = 2
EXIT_UNUSABLE_INPUT = 3
EXIT_CLOSED_PIPE = 141
"""128 + SIGPIPE, as for any command whose reader went away."""

_COMMANDS = {
    "analyze": ("commands_stages:analyze", "List what can be folded, and what cannot, with the reason."),
    "calibrate": ("commands_stages:calibrate", "Run a model over data once and save what was collected."),
    "plan": ("commands_stages:plan", "Choose a rank for every site, without running the model."),
    "compress": ("commands_compress:compress", "The whole way: a smaller and faster model, measured on held-out data."),
    "frontier": ("commands_frontier:frontier", "The best plans for several sizes, and what each loses, in one run."),
    "validate": ("commands_check:validate", "Compare the outputs of two models."),
    "bench": ("commands_check:bench", "Time two models side by side."),
    "heal": ("commands_heal:heal_command", "Bring a compressed model nearer to the original."),
    "attack": ("commands_attack:attack_command", "Attack a classifier and candidates by adversarial examples."),
    "demo": ("demo:demo", "Compress a trained model that ships with the package."),
}
_HELP = "Make ONNX models smaller and faster by low-rank folding guided by data, and prove it."


def command_line() -> App:
    """Return the parser; a command's module is loaded when the command is named."""
    app = App(
        name="rankfold",
        version=__version__,
        help=_HELP,
        help_format="plaintext",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for place, (name, (function, summary)) in enumerate(_COMMANDS.items()):
        app.command(f"rankfold.tools.{function}", name=name, help=summary, sort_key=place)
    return app


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every expected error is one message on stderr."""
    app = command_line()
    try:
        command, bound, _ = app.parse_args(list(arguments))
    except CycloptsError as error:
        return _refuse(" ".join(str(error).split()), f"see `{_help_command(arguments)}`", EXIT_USAGE)
    return _ended(lambda: command(*bound.args, **bound.kwargs), checked=not _is_help(command))


def _ended(run: Callable[[], object], *, checked: bool) -> int:
    """Run a parsed command and return its exit code."""
    try:
        if checked:
            check_distributions()
        code = run()
        sys.stdout.flush()
    except UsageError as error:
        return _refuse(str(error), "see `rankfold --help`", EXIT_USAGE)
    except (BrokenPipeError, SystemExit) as error:
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise  # rich turns a broken pipe into an exit; this is another one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains when it exits
        return EXIT_CLOSED_PIPE
    except MemoryError:
        return _refuse("out of memory", "try a smaller --batch-size or fewer samples", EXIT_UNUSABLE_INPUT)
    except (RankfoldError, OSError) as error:
        return _refuse(str(error), "", EXIT_UNUSABLE_INPUT)
    return code if isinstance(code, int) else 0


def _refuse(message: str, advice: str, code: int) -> int:
    print(f"rankfold: {message.removesuffix('.')}" + (f"; {advice}" if advice else ""), file=sys.stderr)
    return code


def _is_help(command: Callable[..., object]) -> bool:
    return isinstance(getattr(command, "__self__", None), App)


def _help_command(arguments: Sequence[str]) -> str:
    named = [word for word in arguments[:1] if word in _COMMANDS]
    return " ".join(["rankfold", *named, "--help"])
