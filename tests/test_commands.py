"""The commands that readers are told to type, as far as they go without installing anything."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import Hub, Repository
from tests.replicas import COSMOS, GEMMA, write_cosmos, write_gemma

PROJECT = Path(__file__).parents[1]


def run(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)


def test_bare_make_lists_every_target() -> None:
    done = run("make", "--no-print-directory")
    assert done.returncode == 0
    phony = re.search(r"^\.PHONY: (.+)$", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
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


@pytest.fixture
def setup(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script on the Hub of the tests, with a `make` that installs nothing."""
    (tmp_path / "bin").mkdir()
    make = tmp_path / "bin" / "make"
    make.write_text("#!/bin/sh\n", encoding="utf-8")
    make.chmod(0o755)
    environment = {**os.environ, **hub.environment(tmp_path / "hf", hub.token)}
    environment["PATH"] = f"{make.parent}:{environment['PATH']}"
    return lambda *options: run("bash", "scripts/setup.sh", *options, environment=environment)


def published(hub: Hub, tmp_path: Path) -> dict[str, Repository]:
    folders = {GEMMA: write_gemma(tmp_path / "gemma"), COSMOS: write_cosmos(tmp_path / "cosmos", text_encoder=True)}
    return {name: hub.publish(name, folder, gated=True) for name, folder in folders.items()}


@pytest.mark.parametrize("whole", [False, True])
def test_setup_script_fetches_what_the_default_needs(hub: Hub, setup: Any, tmp_path: Path, whole: bool) -> None:
    for repository in published(hub, tmp_path).values():
        repository.granted.add(hub.token)
    done = setup(*(["--with-text-encoder"] if whole else []))
    assert done.returncode == 0, done.stderr
    found = {path.name for path in (tmp_path / "hf").glob("hub/models--nvidia--*/snapshots/*/*")}
    assert found == {"vae", "transformer", "scheduler", *(["text_encoder", "tokenizer"] if whole else [])}
    (gemma,) = (tmp_path / "hf").glob("hub/models--google--*/snapshots/*")
    assert (gemma / "model-00002-of-00002.safetensors").is_file()
    assert ('--include "text_encoder/*"' in done.stdout) != whole
    assert "9.7 GB" in done.stdout


def test_setup_script_checks_access_to_both_first(hub: Hub, setup: Any, tmp_path: Path) -> None:
    repositories = published(hub, tmp_path)
    for granted, refused in (((), (GEMMA, COSMOS)), ((GEMMA,), (COSMOS,)), ((COSMOS,), (GEMMA,))):
        for name, repository in repositories.items():
            repository.granted = {hub.token} if name in granted else set()
        done = setup()
        assert done.returncode == 1
        assert re.findall(r"https://huggingface.co/(\S+)", done.stderr) == list(refused)
        assert "hf auth login" in done.stderr
    assert not [request for request in hub.requests if "/resolve/" in request]
