"""The commands that readers are told to type, as far as they go without installing anything."""

import re
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)


def test_bare_make_lists_every_target() -> None:
    done = run("make", "--no-print-directory")
    assert done.returncode == 0
    phony = re.search(r"^\.PHONY: (.+)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE) == phony[1].split()


def test_setup_script_explains_itself() -> None:
    done = run("bash", "scripts/setup.sh", "--help")
    assert done.returncode == 0
    assert "--skip-dev" in done.stdout
    assert "--skip-models" in done.stdout


def test_setup_script_refuses_what_it_does_not_know() -> None:
    done = run("bash", "scripts/setup.sh", "--skip-everything")
    assert done.returncode == 2
    assert "--skip-everything" in done.stderr
