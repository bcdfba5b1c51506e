"""The sizes and manners of the package's sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from package_sources import Source, package_sources, parsed

FILE_LINES = 250
LONGER: dict[str, int] = {}  # modules that may be longer, with the reason
FUNCTION_LINES = 40  # without the docstring
NESTING = 3
PARAMETERS = 5  # all of a private function's; of a public one's those that are not keyword-only

Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
BROAD = {"Exception", "BaseException"}


def complaints(source: Source) -> list[str]:
    """Return one line for each thing too long, too deep, too wide or too broad."""
    found = [reason for node in ast.walk(source.tree) for reason in _reasons(node)]
    return [f"{source}:{reason}" for reason in found]


def _reasons(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ExceptHandler) and _is_broad(node):
        yield f"{node.lineno}: catches everything; name the errors that can come"
    if isinstance(node, Function):
        yield from (f"{node.lineno}: {node.name} {reason}" for reason in _function_reasons(node))


def _function_reasons(node: Function) -> Iterator[str]:
    if (lines := _lines(node)) > FUNCTION_LINES:
        yield f"has {lines} lines"
    if (depth := max(map(_depth, node.body))) > NESTING:
        yield f"nests {depth} deep"
    if (parameters := _parameters(node)) > PARAMETERS:
        yield f"takes {parameters} parameters"
    if node.args.kwarg is not None:
        yield "takes **kwargs"


def _lines(node: Function) -> int:
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def _depth(node: ast.stmt | ast.ExceptHandler | ast.match_case) -> int:
    if isinstance(node, Function | ast.ClassDef):
        return 0  # judged by itself
    inner = [
        part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt | ast.ExceptHandler | ast.match_case)
    ]
    deepest = max((_depth(part) - _continues(node, part) for part in inner), default=0)
    return deepest + isinstance(node, BLOCKS)


def _continues(outer: ast.AST, inner: ast.AST) -> bool:
    """Return whether `inner` is the `elif` of `outer`: no deeper than it."""
    return isinstance(outer, ast.If) and isinstance(inner, ast.If) and outer.orelse == [inner]


def _parameters(node: Function) -> int:
    taken = [part.arg for part in (*node.args.posonlyargs, *node.args.args) if part.arg not in {"self", "cls"}]
    special = node.name.startswith("__") and node.name.endswith("__")
    private = node.name.startswith("_") and not special
    return len(taken) + (len(node.args.kwonlyargs) if private else 0)


def _is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in kinds)


@pytest.mark.parametrize("source", package_sources(), ids=str)
def test_sources_keep_the_house_rules(source: Source) -> None:
    lines = len(source.path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGER.get(source.module, FILE_LINES)
    assert complaints(source) == []


def _deep(levels: int) -> str:
    lines = [f"{'    ' * level}if x{level}:" for level in range(1, levels + 1)]
    return "\n".join(["def f():", *lines, "    " * (levels + 1) + "pass"])


BROKEN = [
    ("def f():\n" + "    x = 1\n" * 40, "f has 41 lines"),
    (_deep(4), "f nests 4 deep"),
    ("def f():\n for a in b:\n  try:\n   pass\n  except E:\n   with c:\n    while d:\n     pass", "f nests 4 deep"),
    ("def f(a, b, c, d, e, g): pass", "f takes 6 parameters"),
    ("def _f(a, b, c, d, e, *, g): pass", "_f takes 6 parameters"),
    ("def f(**kwargs): pass", "f takes **kwargs"),
    ("try:\n    pass\nexcept Exception:\n    pass", "catches everything"),
    ("try:\n    pass\nexcept:\n    pass", "catches everything"),
    ("try:\n    pass\nexcept (ValueError, BaseException):\n    pass", "catches everything"),
]


@pytest.mark.parametrize(("text", "reason"), BROKEN)
def test_a_broken_rule_is_found(text: str, reason: str) -> None:
    found = complaints(parsed(text, "rankfold.made_up"))
    assert len(found) == 1
    assert reason in found[0]


KEPT = [
    'def f():\n    """One.\n\n' + "    More.\n" * 60 + '    """\n' + "    x = 1\n" * 39,
    _deep(3),
    "def f():\n if a:\n  pass\n elif b:\n  pass\n elif c:\n  pass\n elif d:\n  pass\n else:\n  pass",
    "class C:\n def f(self, a, b, c, d, e, *, g, h): pass",
    "try:\n    pass\nexcept (ValueError, OSError):\n    pass",
]


@pytest.mark.parametrize("text", KEPT)
def test_a_kept_rule_is_left_alone(text: str) -> None:
    assert complaints(parsed(text, "rankfold.made_up")) == []
