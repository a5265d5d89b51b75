"""Text files are read and written as UTF-8 on every system; Windows would take another encoding."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
FOLDERS = ("src", "scripts", "examples", "benchmarks", "tests")
POSITION = {"read_text": 0, "write_text": 1}  # of `encoding` among the arguments


def without_encoding(source: str) -> Iterator[int]:
    """Lines that read or write text without an encoding; ruff's PLW1514 misses paths whose type it cannot infer."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or {"encoding", None} & {keyword.arg for keyword in call.keywords}:
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        mode = call.args[0] if isinstance(call.func, ast.Attribute) and call.args else None
        mode = mode.value if isinstance(mode, ast.Constant) else None
        if name in POSITION:
            if len(call.args) <= POSITION[name]:
                yield call.lineno
        elif name == "open" and isinstance(mode, str) and set(mode) <= set("rwax+t"):  # the mode of a path's `open`
            yield call.lineno


def test_every_text_file_has_an_encoding() -> None:
    modules = [path for folder in FOLDERS for path in sorted((PROJECT / folder).rglob("*.py"))]
    assert modules
    found = [f"{path}:{line}" for path in modules for line in without_encoding(path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("source", ["f(a).read_text()", "path.write_text(text)", 'path.open("w")', 'path.open("a+")'])
def test_missing_encodings_are_seen(source: str) -> None:
    assert list(without_encoding(source)) == [1]


@pytest.mark.parametrize(
    "source",
    ['path.read_text("utf-8")', 'path.write_text(text, encoding="utf-8")', 'path.open("rb")', "Image.open(path)"],
)
def test_what_has_an_encoding_passes(source: str) -> None:
    assert not list(without_encoding(source))
