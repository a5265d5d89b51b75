"""What stands beside the package: citation, contributing, issue forms, and the table of old names."""

import argparse
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import theworld
from theworld.cli.main import build_parser
from theworld.training.config import TrainingConfig
from theworld.utils.settings import keys

ROOT = Path(__file__).parents[1]
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
SPAN = re.compile(r"`([^`]+)`")


def names_now() -> set[str]:
    """The code spans of the right column of docs/names.md."""
    text = (ROOT / "docs" / "names.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|")[-1] for line in text.splitlines() if line.startswith("| ")]
    return {name for row in rows for name in SPAN.findall(row)}


def options_of(command: str) -> set[str]:
    """The options of `theworld <command>`."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    parser: Any = commands.choices[command]  # a KeyError where there is no such command
    parser.fill(parser)
    return {option for action in parser._actions for option in action.option_strings}


def resolve(dotted: str) -> Any:
    """What the dotted name stands for; an error where a part of it is not there."""
    found: Any = import_module("theworld")
    for index, part in enumerate(dotted.split(".")[1:], start=2):
        if not hasattr(found, part):
            import_module(".".join(dotted.split(".")[:index]))
        found = getattr(found, part)
    return found


def test_there_are_names() -> None:
    assert len(names_now()) > 60


@pytest.mark.parametrize("name", sorted(names_now()))
def test_new_name_exists(name: str) -> None:
    first, *rest = name.split()
    if first == "theworld":
        command, *options = rest
        assert set(options) <= options_of(command), name
    elif first == "make":
        assert rest[0] in TARGETS
    elif name.startswith("theworld."):
        resolve(name)
    elif "/" in name:
        assert (ROOT / name).exists()
    else:
        assert name in keys(TrainingConfig)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "AGENTS.md", ".github/PULL_REQUEST_TEMPLATE.md"])
def test_page_names_what_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
    for targets in re.findall(r"(?:^|`)\s*make ([a-z -]+)", text, re.MULTILINE):
        assert set(re.split(r"\s{2,}", targets)[0].split()) <= TARGETS, targets
    for path in re.findall(r"\b(?:tests|docs|src|scripts)/[\w./-]+\.\w+", text):
        assert (ROOT / path).exists(), path


def test_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(cited["version"]) == theworld.__version__
    assert {"cff-version", "message", "title", "authors", "license"} <= cited.keys()


@pytest.mark.parametrize("form", ["bug.yml", "feature.yml"])
def test_issue_form_is_one_that_is_shown(form: str) -> None:
    """A form with a key that is not known, or with an id twice, is not shown at all."""
    known = yaml.safe_load((FORMS / form).read_text(encoding="utf-8"))
    assert known.keys() == {"name", "description", "labels", "body"}
    ids = [entry["id"] for entry in known["body"]]
    assert len(set(ids)) == len(ids)
    for entry in known["body"]:
        assert entry.keys() == {"type", "id", "attributes", "validations"}
        assert entry["type"] == "textarea"
        assert {"label", "description"} <= entry["attributes"].keys() <= {"label", "description", "render"}
