"""transformers' own `Trainer`: it evaluates with a loss, goes back to the best checkpoint, and resumes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from tests.model.conftest import Load
from tests.model.helpers import assistant, encode, user
from theworld import TheWorld

Rows = list[dict[str, Any]]


@pytest.fixture
def rows(world: TheWorld, images: list[Image.Image]) -> Rows:
    """Four conversations, each a batch of one, with every token but the first supervised."""
    chats = [[user("Which bin?", images[index % 3]), assistant("The red bin.")] for index in range(4)]
    batches = [dict(encode(world.processor, chat, add_generation_prompt=False)) for chat in chats]
    for batch in batches:
        batch["labels"] = batch["input_ids"].clone()
        batch["labels"][:, 0] = -100  # nothing predicts it, but `Trainer` would count it
    return batches


def trainer_of(model: TheWorld, rows: Rows, folder: Path, **settings: Any) -> Any:
    defaults: dict[str, Any] = {
        "max_steps": 4,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    arguments = TrainingArguments(output_dir=str(folder), **{**defaults, **settings})
    return Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows[:2], data_collator=lambda features: features[0]
    )


def logits(model: TheWorld, rows: Rows) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**{key: value for key, value in rows[0].items() if key != "labels"}).logits


def test_evaluation_has_a_loss(load: Load, rows: Rows, tmp_path: Path) -> None:
    model = load()
    with torch.no_grad():
        expected = sum(model.eval()(**row).loss.item() for row in rows[:2]) / 2
    metrics = trainer_of(model, rows, tmp_path).evaluate()
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("language", [False, True], ids=["projector", "and language model"])
def test_the_best_checkpoint_is_loaded_at_the_end(load: Load, rows: Rows, tmp_path: Path, language: bool) -> None:
    # The loss falls, so that the first checkpoint is the "best" and the last is not
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    trainer = trainer_of(load(freeze_gemma_language=not language), rows, tmp_path, **best)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses[-1] < losses[0] == max(losses)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    expected = logits(TheWorld.from_pretrained(tmp_path / "checkpoint-1"), rows)
    torch.testing.assert_close(logits(trainer.model, rows), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(TheWorld.from_pretrained(tmp_path / "checkpoint-4"), rows), expected, atol=1e-3)
    trainer.save_model(str(tmp_path / "final"))
    final = logits(TheWorld.from_pretrained(tmp_path / "final"), rows)
    torch.testing.assert_close(final, expected, rtol=1e-5, atol=1e-5)


def test_a_resumed_run_equals_one_that_was_not_interrupted(load: Load, rows: Rows, tmp_path: Path) -> None:
    trainer = trainer_of(load(), rows, tmp_path)
    trainer.train()
    whole = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    resumed = trainer_of(load(), rows, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-6, msg=name)
