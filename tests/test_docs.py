"""Every snippet and command a reader meets runs, and every number in the README comes from a file a command wrote."""

import json
import re
import runpy
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from scripts.write_results import choices_text, features_text, futures_text, page_text, results_text, verdicts_text
from tests.scripts import run_script
from theworld.cli.main import main
from theworld.data.sources import SOURCES
from theworld.model.world_encoders import WORLD_ENCODERS
from theworld.recipes.evidence.tables import evidence_text
from theworld.utils.hub import NANO_WEIGHTS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials"]
FENCE = re.compile(r"^```(\w+)( no-run)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Commands that other tests run whole, or that would start this suite from inside itself
ELSEWHERE = ("make ", "pytest ", "theworld nano ", "pip install", "hf auth")


def blocks(language: str) -> list:
    """(page, code) of every fence of `language` that is meant to run alone, as pytest parameters."""
    found = []
    for page in PAGES:
        for index, (name, skipped, code) in enumerate(FENCE.findall(page.read_text(encoding="utf-8"))):
            if name == language and not skipped and page not in TUTORIALS:
                found.append(pytest.param(code, id=f"{page.relative_to(ROOT)}-{index}"))
    return found


def run_snippet(code: str, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with patch.dict(WORLD_ENCODERS), patch.dict(SOURCES):  # a page registers one
        exec(compile(code, "snippet", "exec"), names)
    assert capsys.readouterr().out.strip(), "a snippet shows something"


def run_commands(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in code.replace("\\\n", "").splitlines():
        command = line.split("#")[0].strip()
        if not command or command.startswith(ELSEWHERE):
            continue
        program, *arguments = shlex.split(command)
        # In this process: to import torch in a new one takes longer than most commands
        if program == "theworld":
            assert main(arguments) == 0, command
        else:
            run_script(monkeypatch, *arguments)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_snippet_runs(code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    run_snippet(code, {"__name__": "__main__"}, capsys)


@pytest.mark.parametrize("code", blocks("bash"))
def test_command_runs(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run_commands(code, monkeypatch)


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in TUTORIALS])
def test_tutorial_runs_from_top_to_bottom(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    names = {"__name__": "__main__"}  # a snippet may use what one above it made
    for language, skipped, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python" and not skipped:
            run_snippet(code, names, capsys)
        elif language == "bash" and not skipped:
            run_commands(code, monkeypatch)
            capsys.readouterr()
    if page.stem == "train-on-your-data":  # what its fourth step says
        metrics = json.loads((ROOT / "runs/docs/balls/evaluation/custom/metrics.json").read_text(encoding="utf-8"))
        right = {name: arm["accuracy"]["estimate"] for name, arm in metrics["arms"].items()}
        assert right["world"] == 1
        assert right["other_image"] <= 0.75


def test_commands_page_is_what_the_parsers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    page = runpy.run_path(str(ROOT / "scripts" / "commands_page.py"))
    assert page["PAGE"].read_text(encoding="utf-8") == page["page"](), "run python scripts/commands_page.py"


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    command = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)
    named = {target for page in PAGES for target in command.findall(page.read_text(encoding="utf-8"))}
    assert {"run", "test"} <= named <= targets


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        shown = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading)  # of a link, its text
        names.append(re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-"))
    return {f"{name}-{before}" if (before := names[:i].count(name)) else name for i, name in enumerate(names)}


def test_links_lead_somewhere() -> None:
    for page in {*PAGES, *ROOT.glob("*.md")}:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^):]+)\)", text) + re.findall(r'\bsrc(?:set)?="([^":]+)"', text):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or target.suffix != ".md" or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize(
    ("page", "name", "figures", "text"),
    [
        (ROOT / "README.md", "results", "arms.json", verdicts_text),
        (NANO_WEIGHTS / "README.md", "results", "arms.json", results_text),
        (ROOT / "docs" / "results.md", "arms", "arms.json", page_text),
        (ROOT / "docs" / "nano-world.md", "choices", "choices.json", choices_text),
        (ROOT / "docs" / "nano-world.md", "features", "features.json", features_text),
        (ROOT / "docs" / "results.md", "futures", "futures.json", futures_text),
        (ROOT / "docs" / "results.md", "evidence", "evidence.json", evidence_text),
    ],
)
def test_figures_are_those_that_a_command_wrote(
    page: Path, name: str, figures: str, text: Callable[[Any], str]
) -> None:
    shown = page.read_text(encoding="utf-8").split(f"<!-- {name}:begin -->\n")[1].split(f"<!-- {name}:end -->")[0]
    if not (RESULTS / figures).is_file():
        assert not shown  # the command has not been run on these weights
        return
    assert shown.removesuffix("\n") == text(json.loads((RESULTS / figures).read_text(encoding="utf-8")))


def test_nothing_in_the_tree_speaks_of_where_it_was_made() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    forbidden = re.compile(r"hf_[A-Za-z0-9]{20,}|/home/(?!user/)[a-z]+/|/ro[o]t/")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".txt", ".json", ".sh", "") and path.is_file():
            assert not forbidden.search(path.read_text(errors="ignore", encoding="utf-8")), name
