"""What a run pushes to the Hub, when, and that a push is whole or not there; no token is left anywhere."""

import json
import logging
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from tests.hub_server import Hub
from tests.training.runs import history, tiny_run
from theworld import TheWorld
from theworld.cli.main import main
from theworld.training.config import TrainingConfig
from theworld.training.publish import Publisher
from theworld.training.run import train

REPO = "tester/model"
MODEL_FILES = {
    *("README.md", "config.json", "generation_config.json", "model.safetensors", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "theworld_auto.py"),
}
STATE_FILES = {"checksums.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "stage.json"}


@pytest.fixture
def run_of(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> Any:
    """A config that pushes to the Hub; six optimiser steps, every second one saved."""

    def make(**keys: Any) -> TrainingConfig:
        return tiny_run(tmp_path, gemma_folder, cosmos_folder, **{"push_to_hub": True, "hub_model_id": REPO, **keys})

    return make


def titles(hub: Hub) -> list[str]:
    """Commits of the repository after the Hub's own."""
    return [commit.title for commit in hub.repositories[REPO].commits[1:]]


def test_the_last_checkpoint_is_pushed_at_the_end(hub: Hub, run_of: Any) -> None:
    config = run_of(hf_token=hub.token)
    checkpoint = Path(str(train(config).checkpoint))
    assert titles(hub) == ["Step 6"]
    assert hub.repositories[REPO].files == {name: (checkpoint / name).read_bytes() for name in MODEL_FILES}
    assert not hub.repositories[REPO].private
    assert HfApi(token=False).model_info(REPO).id == REPO


def test_every_save_is_pushed_whole(hub: Hub, run_of: Any) -> None:
    config = run_of(hf_token=hub.token, hub_strategy="every_save", hub_private_repo=True)
    train(config)
    assert titles(hub) == ["Step 2", "Step 4", "Step 6"]
    for commit, step in zip(hub.repositories[REPO].commits[1:], (2, 4, 6), strict=True):
        checkpoint = Path(config.output_dir) / f"checkpoint-{step}"
        assert {name: commit.files[name].content for name in MODEL_FILES} == {
            name: (checkpoint / name).read_bytes() for name in MODEL_FILES
        }
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).model_info(REPO)


def test_a_run_goes_on_from_the_hub(hub: Hub, run_of: Any, tmp_path: Path) -> None:
    """A machine is lost after step 4; another one ends the run as if nothing had happened."""
    undisturbed = run_of(push_to_hub=False, output_dir=str(tmp_path / "undisturbed"))
    expected = train(undisturbed)
    lost = run_of(hf_token=hub.token, hub_strategy="checkpoint", output_dir=str(tmp_path / "lost"))
    train(lost)
    repository = hub.repositories[REPO]
    assert titles(hub) == ["Step 2", "Step 4", "Step 6"]
    for commit in repository.commits[1:]:
        names = {name for name in commit.files if name != ".gitattributes"}
        assert names == MODEL_FILES | {f"last-checkpoint/{name}" for name in MODEL_FILES | STATE_FILES}
    repository.commits.pop()

    result = train(replace(lost, output_dir=str(tmp_path / "other"), resume_from=REPO))
    assert result.step == 6
    assert history(result.checkpoint)[6] == history(expected.checkpoint)[6]
    ours, theirs = (TheWorld.from_pretrained(str(one.checkpoint)) for one in (result, expected))
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(mine, other), name


# ---------------------------------------------------------------------------------------------- before it trains


def refused(config: TrainingConfig, error: type[Exception], *words: str) -> None:
    with pytest.raises(error) as caught:
        train(config)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not Path(config.output_dir).exists()


def test_no_token_is_said_before_training(hub: Hub, run_of: Any) -> None:
    refused(run_of(), ValueError, "push_to_hub", "HF_TOKEN", "hf auth login")


def test_a_token_that_may_not_write_is_said_before_training(hub: Hub, run_of: Any) -> None:
    refused(run_of(hf_token=hub.reader), OSError, REPO, "403")
    refused(run_of(hf_token=hub.token, hub_model_id="somebody/model"), OSError, "somebody/model", "403")
    refused(run_of(hf_token="hf_" + "x" * 34), OSError, REPO, "401")
    refused(run_of(hf_token=hub.token, hub_model_id="no/such/name"), OSError, "no/such/name")


def test_a_public_repository_is_not_taken_for_a_private_one(hub: Hub, run_of: Any) -> None:
    HfApi(token=hub.token).create_repo(REPO)
    refused(run_of(hf_token=hub.token, hub_private_repo=True), ValueError, REPO, "public")


# --------------------------------------------------------------------------------------------- pushes that break


def test_a_push_that_fails_at_the_end_loses_nothing(hub: Hub, run_of: Any, tmp_path: Path) -> None:
    config = run_of(hf_token=hub.token)
    hub.cuts["commit"] = 1
    with pytest.raises(OSError, match="nothing is lost") as error:
        train(config)
    assert not hub.repositories[REPO].files
    checkpoint = Path(config.output_dir) / "checkpoint-6"
    assert str(checkpoint) in str(error.value)
    TheWorld.from_pretrained(checkpoint)

    command = shlex.split(str(error.value).partition("Push it again with: ")[2])
    assert command[:3] == ["hf", "upload", REPO]
    environment = {**os.environ, **hub.environment(tmp_path / "hf", hub.token)}
    hf = Path(sys.executable).with_name("hf")
    done = subprocess.run([hf, *command[1:]], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert hub.repositories[REPO].files == {name: (checkpoint / name).read_bytes() for name in MODEL_FILES}


def test_the_same_run_started_again_pushes_what_it_could_not(hub: Hub, run_of: Any) -> None:
    config = run_of(hf_token=hub.token, resume_from="auto")
    hub.cuts["commit"] = 1
    with pytest.raises(OSError, match="push failed"):
        train(config)
    train(config)
    assert titles(hub) == ["Step 6"]


def test_a_push_that_fails_on_the_way_is_made_up_for(hub: Hub, run_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    hub.cuts["commit"] = 1
    with caplog.at_level(logging.WARNING, "theworld"):
        train(run_of(hf_token=hub.token, hub_strategy="every_save"))
    assert titles(hub) == ["Step 4", "Step 6"]
    assert "checkpoint-2" in caplog.text


def test_files_that_a_checkpoint_no_longer_has_leave_with_the_same_commit(
    hub: Hub, run_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    publisher = Publisher(run_of(hub_strategy="checkpoint"))
    first = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}
    for step, names in ((1, {*first, "optimizer.pt"}), (2, {"model.safetensors", "rng_state.pth"})):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(name.encode())
        publisher.push(folder)
    assert len(titles(hub)) == 2
    assert set(hub.repositories[REPO].files) == {
        "model.safetensors",
        "last-checkpoint/model.safetensors",
        "last-checkpoint/rng_state.pth",
    }


# -------------------------------------------------------------------------------------------------- what it says


def test_the_card_tells_how_the_model_was_made(hub: Hub, run_of: Any, tmp_path: Path) -> None:
    config = run_of(hf_token=hub.token, do_eval=True, eval_dataset_path=str(tmp_path / "train.jsonl"), eval_steps=3)
    result = train(config)
    card = hub.repositories[REPO].files["README.md"].decode()
    for fact in (
        "answers, trains projector",
        "custom, train.jsonl: 10 rows, 0 of them skipped",
        "6 of 6, 2.00 epochs",
        f"{result.loss:.4f}",
        f"| eval loss | {result.metrics['eval_loss']:.4f} |",
        f"| eval choice accuracy | {result.metrics['eval_choice_accuracy']:.4f} |",
        '"learning_rate": 0.01',
        f"torch {torch.__version__}",
        "Gemma\nTerms of Use",
        "NVIDIA Open Model Licence",
        f'TheWorld.from_pretrained("{REPO}")',
    ):
        assert fact in card, fact
    assert str(tmp_path) not in card
    assert str(Path(config.model_name).parent) not in card


@pytest.mark.parametrize("given", ["flag", "environment"])
def test_the_token_is_left_nowhere(
    hub: Hub,
    run_of: Any,
    tmp_path: Path,
    given: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = run_of(hub_strategy="checkpoint", log_to_tensorboard=True, log_to_wandb=True)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    arguments = ["train", "--config", str(tmp_path / "config.json")]
    arguments += ["--hf_token", hub.token] if given == "flag" else []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["theworld", *arguments])  # Weights & Biases keeps it
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    if given == "environment":
        monkeypatch.setenv("HF_TOKEN", hub.token)
    assert main(arguments) == 0
    printed = capfd.readouterr()
    assert titles(hub) == ["Step 2", "Step 4", "Step 6"]
    assert hub.token not in printed.out + printed.err
    assert not hub.holds(hub.token)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("wandb" in path.parts for path in written)
    assert any("tfevents" in path.name for path in written)
    assert not [path for path in written if hub.token.encode() in path.read_bytes()]


@pytest.mark.usefixtures("hub")
def test_the_command_says_in_a_line_that_a_token_is_missing(
    run_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(run_of().to_dict()), encoding="utf-8")
    assert main(["train", "--config", str(tmp_path / "config.json")]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "HF_TOKEN" in told
