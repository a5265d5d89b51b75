"""TRL's trainers train a TheWorld model: the world reaches every forward, and only what should moves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Gemma3Processor
from trl import DPOConfig, DPOTrainer, GRPOConfig, SFTConfig, SFTTrainer

from examples.trl_sft import LORA, main, make_trainer, reload, shipped_rows
from tests.model.helpers import load_world
from theworld import TheWorld
from theworld.constants import CUSTOM_TOKEN_EOW, CUSTOM_TOKEN_SOW, NANO, WORLD_TOKEN
from theworld.nano.examples import EXAMPLES
from theworld.training.trl import GRPOTrainer

QUIET = {"disable_tqdm": True, "logging_steps": 1}
ONE_STEP = {**QUIET, "max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none", "save_strategy": "no"}


@pytest.fixture
def model() -> TheWorld:
    return TheWorld.from_pretrained(NANO)


def parts_that_moved(before: dict[str, torch.Tensor], model: Any) -> set[str]:
    return {name.split(".")[1] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def as_messages(rows: Dataset) -> Dataset:
    return rows.map(
        lambda row: {"messages": row["prompt"] + row["completion"]}, remove_columns=["prompt", "completion"]
    )


class Watch:
    """What a model consumes.

    Attributes:
        encoded: Images of each call of the world encoder.
        consumed: Images and world tokens of each forward that got any.
        gradients: Mean gradient of each backward pass at the projector's first parameter that trains.
    """

    def __init__(self, model: TheWorld) -> None:
        self.encoded: list[int] = []
        self.consumed: list[tuple[int, int]] = []
        self.gradients: list[float] = []
        encoder: Any = model.model.world_encoder
        encode: Callable[..., Any] = encoder.encode

        def counted(pixels: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.encoded.append(len(pixels))
            return encode(pixels, *args, **kwargs)

        def after_forward(_module: Any, _args: Any, output: Any) -> None:
            if output.world_hidden_states is not None:
                images, tokens, _ = output.world_hidden_states.shape
                self.consumed.append((images, tokens))

        encoder.encode = counted
        model.model.register_forward_hook(after_forward)
        first = next(p for p in model.model.world_projector.parameters() if p.requires_grad)  # type: ignore[union-attr]
        first.register_hook(lambda gradient: self.gradients.append(gradient.abs().mean().item()))


# --------------------------------------------------------------------------------------------------------- SFT


@pytest.mark.parametrize("form", ["model", "model and processor", "folder"])
def test_sft_consumes_the_world(model: TheWorld, tmp_path: Path, form: str) -> None:
    model.save_pretrained(tmp_path / "saved")
    given = {
        "model": (model, None),
        "model and processor": (model, model.processor),
        "folder": (str(tmp_path / "saved"), None),
    }[form]
    config = SFTConfig(output_dir=str(tmp_path / "run"), max_length=None, bf16=False, **ONE_STEP)  # type: ignore[arg-type]
    trainer: Any = SFTTrainer(given[0], args=config, train_dataset=shipped_rows(), processing_class=given[1])
    assert isinstance(trainer.model, TheWorld)
    watch = Watch(trainer.model)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = model.train()(**batch).loss.item()
    watch.encoded.clear()
    watch.consumed.clear()
    trainer.train()
    tokens = model.config.world_tokens(model.config.num_world_steps)
    assert sum(watch.encoded) == 2
    assert watch.consumed == [(2, tokens)]
    assert len(watch.gradients) == 1
    assert watch.gradients[0] > 0
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_batches_without_their_world_are_refused(model: TheWorld, tmp_path: Path) -> None:
    stock = Gemma3Processor(
        model.processor.image_processor,
        model.processor.tokenizer,
        chat_template=model.processor.chat_template,
        image_seq_length=model.processor.image_seq_length,
    )
    config = SFTConfig(output_dir=str(tmp_path), max_length=None, bf16=False, **ONE_STEP)  # type: ignore[arg-type]
    trainer = SFTTrainer(model, args=config, train_dataset=shipped_rows(), processing_class=stock)
    with pytest.raises(ValueError, match="no world input"):
        trainer.train()


def test_a_fusion_that_was_never_saved_is_not_taken_for_its_gemma(
    gemma_folder: Path, cosmos_folder: Path, tmp_path: Path
) -> None:
    model = load_world(gemma_folder, cosmos_folder)
    config = SFTConfig(output_dir=str(tmp_path), max_length=None, bf16=False, **ONE_STEP)  # type: ignore[arg-type]
    with pytest.raises((ValueError, OSError)):
        SFTTrainer(model, args=config, train_dataset=shipped_rows()).train()


@pytest.mark.parametrize("form", ["prompt and completion", "messages"])
def test_batches_keep_the_world(model: TheWorld, tmp_path: Path, form: str) -> None:
    shown = shipped_rows().select(range(3))  # one batch
    rows, settings = shown, dict(QUIET)
    if form == "messages":
        rows, settings["assistant_only_loss"] = as_messages(rows), True
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
    assert answers == {f"{row['completion'][0]['content']}<end_of_turn>\n" for row in shown}


@pytest.mark.parametrize("workers", [0, 1])
def test_messages_do_not_supervise_placeholders(model: TheWorld, tmp_path: Path, workers: int) -> None:
    trainer = make_trainer(model, as_messages(shipped_rows()), tmp_path, dataloader_num_workers=workers, **QUIET)
    batch = next(iter(trainer.get_train_dataloader()))
    tokenizer = model.processor.tokenizer
    silent = tokenizer.convert_tokens_to_ids([CUSTOM_TOKEN_SOW, CUSTOM_TOKEN_EOW, WORLD_TOKEN, tokenizer.image_token])
    masked = torch.isin(batch["input_ids"], torch.tensor(silent)) | (batch["attention_mask"] == 0)
    assert torch.equal(batch["labels"] == -100, masked)  # the rest is supervised, as the recipe has it
    supervised = masked.logical_not()
    assert torch.equal(batch["labels"][supervised], batch["input_ids"][supervised])


def test_the_projector_trains_and_nothing_else(model: TheWorld, tmp_path: Path) -> None:
    trainer = make_trainer(model, shipped_rows(), tmp_path, max_steps=1, **QUIET)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()
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


# -------------------------------------------------------------------------------------------------- preferences


def test_dpo_compares_with_a_reference_that_sees_the_world(model: TheWorld, tmp_path: Path) -> None:
    wrong = [{"role": "assistant", "content": "No."}]
    rows = shipped_rows().map(
        lambda row: {"chosen": row["completion"], "rejected": wrong}, remove_columns=["completion"]
    )
    config = DPOConfig(output_dir=str(tmp_path), max_length=None, bf16=False, **ONE_STEP)  # type: ignore[arg-type]
    trainer: Any = DPOTrainer(model, args=config, train_dataset=rows, processing_class=model.processor)
    assert isinstance(trainer.ref_model, TheWorld)
    policy, reference = Watch(trainer.model), Watch(trainer.ref_model)
    trainer.train()
    tokens = model.config.world_tokens(model.config.num_world_steps)
    assert sum(policy.encoded) == sum(reference.encoded) == 4  # two rows, chosen and rejected
    assert policy.consumed == reference.consumed == [(4, tokens)]
    assert policy.gradients[0] > 0
    first = trainer.state.log_history[0]
    # Before its first step the policy is the reference, up to a bfloat16 projector; a blind reference is 0.3 away
    assert first["rewards/chosen"] == pytest.approx(0, abs=5e-3)
    assert first["rewards/rejected"] == pytest.approx(0, abs=5e-3)


def rows_with_one_and_two_images() -> Dataset:
    shipped = shipped_rows()
    images = [row["images"] for row in shipped]
    rows = [
        {"images": images[0] + images[1], "prompt": [{"role": "user", "content": "Which is red?"}]},
        {"images": images[2], "prompt": shipped[2]["prompt"]},
    ]
    return Dataset.from_list(rows)


def rewards(completions: list[Any], **_: Any) -> list[float]:
    return [float(index) for index in range(len(completions))]


def grpo_config(folder: Path, **settings: Any) -> GRPOConfig:
    defaults: dict[str, Any] = {
        "num_generations": 2,
        "steps_per_generation": 2,  # a buffer that is shuffled and split
        "num_iterations": 2,  # the log-probabilities of generation time count
        "max_completion_length": 4,
        "temperature": 5.0,  # completions that differ
        "bf16": False,
    }
    return GRPOConfig(output_dir=str(folder), **{**ONE_STEP, **defaults, **settings})


@pytest.mark.parametrize("setting", [{"num_world_steps": 1}, {"use_world": False}], ids=str)
def test_grpo_refuses_what_trl_would_forget_when_it_scores(
    model: TheWorld, tmp_path: Path, setting: dict[str, Any]
) -> None:
    config, rows = grpo_config(tmp_path, chat_template_kwargs=setting), rows_with_one_and_two_images()
    with pytest.raises(ValueError, match="chat_template_kwargs"):
        GRPOTrainer(model, reward_funcs=rewards, args=config, train_dataset=rows, processing_class=model.processor)


def test_grpo_trains_a_gated_fusion(gemma_folder: Path, cosmos_folder: Path, tmp_path: Path) -> None:
    model = load_world(gemma_folder, cosmos_folder, fusion="gated", num_world_steps=1)
    with torch.no_grad():
        model.model.world_gate.fill_(0.5)  # type: ignore[union-attr]
    config, rows = grpo_config(tmp_path), rows_with_one_and_two_images()
    trainer: Any = GRPOTrainer(
        model, reward_funcs=rewards, args=config, train_dataset=rows, processing_class=model.processor
    )
    watch = Watch(model)
    trainer.train()
    tokens = model.config.world_tokens(1)
    assert {length for _, length in watch.consumed} == {tokens}
    assert watch.gradients[0] > 0


def test_grpo_scores_completions_with_the_world_of_their_prompt(model: TheWorld, tmp_path: Path) -> None:
    config = grpo_config(tmp_path, beta=0.1)  # with a reference model
    rows = rows_with_one_and_two_images()
    trainer: Any = GRPOTrainer(
        model, reward_funcs=rewards, args=config, train_dataset=rows, processing_class=model.processor
    )
    assert isinstance(trainer.ref_model, TheWorld)
    scored: list[int] = []

    def frames_are_those_of_the_images(_module: Any, _args: Any, inputs: dict[str, Any]) -> None:
        if "labels" in inputs:  # a pass for log-probabilities
            scored.append(len(inputs["pixel_values"]))
            # The nano model's pictures are as large as its world image: both towers see the same numbers
            assert torch.equal(inputs["world_pixel_values"], inputs["pixel_values"])

    for scorer in (trainer.model, trainer.ref_model):
        scorer.register_forward_pre_hook(frames_are_those_of_the_images, with_kwargs=True)
    watch, reference = Watch(trainer.model), Watch(trainer.ref_model)
    trainer.train()
    assert set(scored) <= {2, 3, 4}
    assert len(scored) == 5  # two chunks by policy and reference, and the step that trains
    assert sum(images for images, _ in reference.consumed) == 6  # each prompt twice
    assert watch.gradients[0] > 0
    assert trainer.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-4)


def test_the_example_trains_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["trl_sft.py", "--steps", "1", "--output", str(tmp_path / "run")])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("1 steps, loss ") for line in lines)
    assert sum("(truth: " in line for line in lines) == len(EXAMPLES)
