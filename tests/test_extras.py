"""Every command works with its own extra: what other extras install is hidden from it."""

import ast
import subprocess
import sys
from pathlib import Path

from theworld.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
CLI = ROOT / "src" / "theworld" / "cli"
IMAGES = "src/theworld/nano/examples"
BY_EXTRAS = {
    "": ("ask", "chat", "imagine", "plan", "env"),
    "analysis": ("align",),
    "demo": ("demo",),
    "serve": ("serve",),
    "train": ("train", "precompute"),
    "nano,train": ("nano",),
    "eval": ("evaluate", "compare", "audit"),
    "judge": ("judge",),
}
HIDE = """
import re, sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from packaging.requirements import Requirement

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

installed = set()  # (distribution, extra) as pip would install them

def install(name, extra):
    if (plain(name), extra) in installed:
        return
    installed.add((plain(name), extra))
    try:
        needed = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return
    for one in needed:
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            for asked in ("", *one.extras):
                install(one.name, asked)

distributions = packages_distributions()
hidden = set()

def show_only(extras):
    # Hide what an installation with these extras does not have
    for extra in ["", *extras.split(",")]:
        install("theworld", extra)
    names = {name for name, _ in installed}
    hidden.clear()
    hidden.update(top for top, found in distributions.items() if not names & set(map(plain, found)))

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in hidden else super().find_spec(fullname, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
IN_TURN = """
import importlib, os, traceback
import torch

def try_one(extras, modules, absent, command):
    show_only(extras)
    try:
        for module in modules:
            importlib.import_module(module)
        assert hidden.issuperset(absent), absent
        if command:
            from theworld.cli.main import main
            torch.set_num_threads(1)  # a fork lacks the threads of its parent
            assert main(command) == 0
    except BaseException as error:
        print(f"[{{extras}}] {{traceback.format_exc()}}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)

show_only("")
for module in {common!r}:  # what imports without an extra does so with one: imported once for all
    importlib.import_module(module)
failed = 0
for case in {cases!r}:
    if os.fork() == 0:
        try_one(*case)
    failed |= os.wait()[1]
sys.exit(failed != 0)
"""


def imported(command: str) -> set[str]:
    """The modules of the package that a command imports anywhere in its own module, and in those beside it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((CLI / f"{command}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= imported(node.module) if node.level else {node.module}
        elif isinstance(node, ast.Constant) and str(node.value).startswith("theworld."):
            found.add(node.value)  # for `import_module`
    return {name for name in found if name.startswith("theworld.")}


def test_every_command_is_tried() -> None:
    assert sorted(name for names in BY_EXTRAS.values() for name in names) == sorted(COMMANDS)


def test_commands_work_with_their_extra_alone(tmp_path: Path) -> None:
    """Imports every command; runs `ask` and `evaluate`."""
    modules = {extras: sorted(set().union(*map(imported, names))) for extras, names in BY_EXTRAS.items()}
    assert all(modules.values())
    data = ["--task", "custom", "--data", "examples/questions.jsonl", "--image_folder", IMAGES, "--num_samples", "2"]
    runs = {
        "": (["pandas", "sklearn"], ["ask", f"{IMAGES}/drop.png", "Which bin will the ball land in?"]),
        "eval": (
            ["peft", "pymunk"],
            ["evaluate", *data, "--arms", "gemma,world", "--output", str(tmp_path / "evaluation")],
        ),
    }
    assert runs.keys() <= modules.keys()
    cases = [(extras, names, *runs.get(extras, ([], []))) for extras, names in modules.items()]
    code = HIDE + IN_TURN.format(common=modules[""], cases=cases)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
