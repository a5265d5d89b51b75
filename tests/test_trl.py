"""TRL's `SFTTrainer` trains a TheWorld model: nothing of the world is lost on the way, and only what should moves."""

from pathlib import Path
from typing import Any

import pytest
import torch

from examples.trl_sft import LORA, main, make_trainer, reload, shipped_rows
from theworld import TheWorld
from theworld.constants import NANO

QUIET = {"disable_tqdm": True, "logging_steps": 1}


@pytest.fixture
def model() -> TheWorld:
    return TheWorld.from_pretrained(NANO)


def parts_that_moved(before: dict[str, torch.Tensor], model: Any) -> set[str]:
    return {name.split(".")[1] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("form", ["prompt and completion", "messages"])
def test_batches_keep_the_world(model: TheWorld, tmp_path: Path, form: str) -> None:
    rows, settings = shipped_rows(), dict(QUIET)
    if form == "messages":
        rows = rows.map(
            lambda row: {"messages": row["prompt"] + row["completion"]}, remove_columns=["prompt", "completion"]
        )
        settings["assistant_only_loss"] = True
    trainer = make_trainer(model, rows, tmp_path, **settings)
    batch = next(iter(trainer.get_train_dataloader()))
    steps = 1 + model.config.num_world_steps
    world = batch["input_ids"] == model.config.world_token_id
    assert world.sum(1).tolist() == [steps * model.config.world_tokens_per_frame] * 3
    assert batch["world_pixel_values"].shape[0] == batch["pixel_values"].shape[0] == 3
    assert model.config.world_attention == "bidirectional"
    image = batch["input_ids"] == model.config.image_token_index
    assert torch.equal(batch["token_type_ids"] == 1, image | world)  # lost in huggingface/trl#4142 and #5807
    decode = model.processor.tokenizer.decode
    answers = {decode(ids[labels != -100]) for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)}
    assert answers == {f"{row['completion'][0]['content']}<end_of_turn>\n" for row in shipped_rows()}


def test_the_projector_trains_and_nothing_else(model: TheWorld, tmp_path: Path) -> None:
    trainer = make_trainer(model, shipped_rows(), tmp_path, max_steps=1, **QUIET)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = model.train()(**batch).loss.item()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    consumed: list[torch.Size] = []
    model.model.register_forward_hook(lambda *call: consumed.append(call[-1].world_hidden_states.shape))
    trainer.train()
    assert [tuple(shape[:2]) for shape in consumed] == [
        (3, (1 + model.config.num_world_steps) * model.config.world_tokens_per_frame)
    ]
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert parts_that_moved(before, model) == {"world_projector", "world_markers"}

    trainer.save_model()
    loaded = reload(NANO, tmp_path, lora=False)
    for (name, value), other in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_adapters_train_beside_the_projector(model: TheWorld, tmp_path: Path) -> None:
    trainer = make_trainer(model, shipped_rows(), tmp_path, LORA, max_steps=2, **QUIET)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("lora_" in name or ".modules_to_save." in name for name in moved)
    for part in ("lora_A", "lora_B", "world_projector", "world_markers"):
        assert any(part in name for name in moved), part

    trainer.save_model()
    batch = next(iter(trainer.get_train_dataloader()))
    loaded = reload(NANO, tmp_path, lora=True).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, trainer.model.eval()(**batch).logits)


def test_the_example_trains_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["trl_sft.py", "--steps", "1", "--output", str(tmp_path / "run")])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("1 steps, loss ") for line in lines)
    assert sum("(truth: " in line for line in lines) == 3
