"""cli > recipes > training | evaluation | analysis | serving > nano > data | model > utils > constants; no circles."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import theworld

ROOT = Path(theworld.__file__).parent
LAYERS = (
    ("constants",),
    ("utils",),
    ("data", "model"),
    ("nano",),
    ("training", "evaluation", "analysis", "serving"),
    ("recipes",),
    ("cli",),
)
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


def graph(sources: Mapping[Path, str]) -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    """Which modules each module imports anywhere, also for type checkers and in functions; paths as in `violations`."""
    names = {path: ("theworld", *path.with_suffix("").parts) for path in sources}
    names = {path: name[:-1] if name[-1] == "__init__" else name for path, name in names.items()}
    edges: dict[tuple[str, ...], set[tuple[str, ...]]] = {name: set() for name in names.values()}
    for path, name in names.items():
        for _, imported in imports(ast.parse(sources[path]), ["theworld", *path.parent.parts]):
            # `from a import b`: b may be a module, or a name in a
            module = next((m for m in (tuple(imported), tuple(imported[:-1])) if m in edges), name)
            edges[name] |= {module} - {name}
    return edges


@pytest.fixture(scope="module")
def sources() -> dict[Path, str]:
    found = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
    assert found
    return found


def test_package_keeps_to_its_layers(sources: dict[Path, str]) -> None:
    found = [line for path, source in sources.items() for line in violations(source, path)]
    assert not found, "\n".join(found)


def test_no_import_circles(sources: dict[Path, str]) -> None:
    TopologicalSorter(graph(sources)).prepare()


@pytest.mark.parametrize(
    "source",
    [
        "from . import b",
        "from .b import name",
        "import theworld.model.b",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import Name",
        "def f():\n    from .b import name",
    ],
)
def test_circles_are_seen(source: str) -> None:
    modules = {
        Path("model/a.py"): source,
        Path("model/b.py"): "from . import c",
        Path("model/c.py"): "from .a import f",
    }
    with pytest.raises(CycleError):
        TopologicalSorter(graph(modules)).prepare()


def test_a_folder_that_imports_its_modules_is_no_circle() -> None:
    modules = {Path("model/__init__.py"): "from .a import A", Path("model/a.py"): "from .b import B"}
    TopologicalSorter(graph({**modules, Path("model/b.py"): "import torch"})).prepare()
    with pytest.raises(CycleError):
        TopologicalSorter(graph({**modules, Path("model/b.py"): "from theworld.model import A"})).prepare()


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
        ("evaluation/run.py", "from theworld.recipes.imagined import imagined_frames"),
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
