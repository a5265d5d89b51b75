"""cli > training | evaluation | analysis | nano > data | model > utils > constants; siblings never meet."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import theworld

ROOT = Path(theworld.__file__).parent
LAYERS = (("constants",), ("utils",), ("data", "model"), ("training", "evaluation", "analysis", "nano"), ("cli",))
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PUBLIC_NAMES = set(theworld.__all__) - {"__version__"}


def imports(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Every import of the tree, wherever it stands: its level and its absolute dotted name, in parts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = node.module.split(".") if node.module else []
            yield from ((node.level, base + module + [alias.name]) for alias in node.names)


def violations(source: str, path: Path) -> list[str]:
    """What is wrong with the imports of a module at `path`, relative to the package."""
    own = path.with_suffix("").parts[0]
    found: list[str] = []
    for level, name in imports(ast.parse(source), ["theworld", *path.parent.parts]):
        if name[0] != "theworld" or name[1:] in ([], ["__version__"]):
            continue
        other = "model" if name[1] in PUBLIC_NAMES else name[1]
        if own not in RANK:  # the package's own __init__ and its helper stand beside the layers, and below the commands
            if other == "cli":
                found.append(f"{path} imports cli")
        elif other not in RANK:
            found.append(f"{path} imports {'.'.join(name)}, which is in no layer")
        elif own == other:
            if not level:
                found.append(f"{path} imports {'.'.join(name)} absolutely from its own folder")
        elif RANK[other] >= RANK[own]:
            found.append(f"{path} ({own}) imports {'.'.join(name)} ({other}), which is not below it")
        elif level:
            found.append(f"{path} imports {'.'.join(name)} relatively from another folder")
    return found


def test_package_keeps_to_its_layers() -> None:
    modules = sorted(ROOT.rglob("*.py"))
    assert modules
    found = [line for module in modules for line in violations(module.read_text(), module.relative_to(ROOT))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("utils/io.py", "from theworld.model import fusion"),
        ("utils/io.py", "def f():\n    import theworld.nano.physics"),
        (
            "model/fusion.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from theworld.data import schema",
        ),
        ("training/run.py", "from theworld.evaluation.score import score"),
        ("nano/train.py", "from theworld.cli import main"),
        ("nano/train.py", "from ..model import fusion"),
        ("data/collator.py", "from theworld import TheWorld"),
        ("model/fusion.py", "from theworld.model.projectors import PROJECTORS"),
        ("model/world_encoders/cosmos.py", "from ...utils import io"),
        ("constants.py", "import theworld.utils.io"),
        ("cli/env.py", "import theworld.elsewhere"),
    ],
)
def test_breaches_are_seen(path: str, source: str) -> None:
    assert len(violations(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cli/main.py", "from theworld import __version__\nfrom . import env\nfrom theworld.nano import train"),
        ("model/world_encoders/cosmos.py", "from ..fusion import scatter\nfrom .base import WorldEncoder"),
        ("nano/train.py", "from theworld.model import fusion\nfrom theworld.constants import NANO\nimport torch"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert violations(source, Path(path)) == []
