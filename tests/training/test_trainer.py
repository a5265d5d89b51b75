"""What the trainer adds to transformers' own: groups, loss weighting, checks, figures."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from tests.model.helpers import component_of
from tests.training.runs import history, tiny_run, write_rows
from theworld.data.collator import TheWorldCollator
from theworld.data.sources import SOURCES
from theworld.training import objectives
from theworld.training.arguments import training_arguments
from theworld.training.metrics import choice_figures, choice_logs, total_norm
from theworld.training.precompute import precompute
from theworld.training.rows import load_rows
from theworld.training.run import train
from theworld.training.stages import load_model, parameter_groups

UNFROZEN = {"freeze_gemma_vision": False, "freeze_gemma_language": False, "freeze_cosmos_vae": False}


def test_choice_figures_are_of_the_first_answer_token_among_the_choices() -> None:
    labels = torch.full((4, 6), -100)
    labels[0, 3:5] = torch.tensor([7, 1])
    labels[1, 2:4] = torch.tensor([5, 1])
    labels[3, 4:6] = torch.tensor([5, 1])
    choices = torch.tensor([[7, 5, -1], [5, 6, 7], [5, 7, -1], [5, 5, 7]])  # row 2 asks nothing, row 3 is ambiguous
    logits = torch.randn(6, 9)
    logits[1] = 50.0  # of the second answer token: not looked at
    figures = choice_figures(logits, labels, choices)
    first = -torch.log_softmax(logits[0, [7, 5]], 0)[0]
    second = -torch.log_softmax(logits[2, [5, 6, 7]], 0)[0]
    correct = int(logits[0, 7] > logits[0, 5]) + int(logits[2, [5, 6, 7]].argmax() == 0)
    assert figures.tolist() == pytest.approx([(first + second).item(), correct, 2])
    assert choice_logs(figures, "eval_") == pytest.approx(
        {"eval_choice_loss": (first + second).item() / 2, "eval_choice_accuracy": correct / 2}
    )
    assert choice_logs(torch.zeros(3)) == {}


def test_groups_have_their_parts_learning_rate_and_decay(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    rates = {"projector_learning_rate": 1e-1, "vision_learning_rate": 1e-2, "vae_learning_rate": 1e-3}
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, **UNFROZEN, **rates)
    model = load_model(config, gemma_folder)
    groups = parameter_groups(model, config)
    expected = {"projector": 1e-1, "vision": 1e-2, "vae_encoder": 1e-3, "language": config.learning_rate}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = set()
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            assert group["lr"] == expected[component_of(name)], name
            table = any(part in name for part in ("norm", "bias", "embedding.", "embed_tokens", "markers", "time"))
            undecayed = parameter.ndim < 2 or (table and "patch_embedding" not in name) or name.endswith("_embedding")
            assert group["weight_decay"] == (0 if undecayed else config.weight_decay), name
    assert seen == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


class Stock(Trainer):
    """Transformers' Trainer, given batches that a model can take."""

    def get_batch_samples(self, *args: Any) -> Any:
        batches, items = super().get_batch_samples(*args)
        for batch in batches:
            batch.pop("skipped")
            batch.pop("choice_ids")
        return batches, items


def test_losses_are_those_of_the_stock_trainer(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, weight_decay=0.0, num_epochs=1)
    ours = history(train(config).checkpoint, "loss", "grad_norm")
    torch.manual_seed(config.seed)
    model = load_model(config, gemma_folder)
    data = load_rows(config)
    arguments = training_arguments(config)
    collator = TheWorldCollator(model.processor, image_folder=tmp_path)
    arguments.output_dir = str(tmp_path / "stock")
    stock = Stock(model, arguments, data_collator=collator, train_dataset=data)
    stock.train()
    theirs = {row["step"]: (row["loss"], row["grad_norm"]) for row in stock.state.log_history if "loss" in row}
    assert theirs.keys() == ours.keys()
    for step, values in theirs.items():
        assert ours[step] == pytest.approx(values, rel=1e-4), step


def run_with(monkeypatch: pytest.MonkeyPatch, change: Any, *args: Any, **keys: Any) -> None:
    """Train on batches that `change` alters."""

    class Changed(TheWorldCollator):
        def __call__(self, items: Any) -> dict[str, Any]:
            return change(super().__call__(items))

    monkeypatch.setattr(objectives, "TheWorldCollator", Changed)
    train(tiny_run(*args, **keys))


def test_masked_labels_stop_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    def mask(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "labels": torch.full_like(batch["labels"], -100)}

    with pytest.raises(ValueError, match="every label is masked"):
        run_with(monkeypatch, mask, tmp_path, gemma_folder, cosmos_folder)


def test_a_world_that_no_batch_feeds_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    def blind(batch: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in batch.items() if name != "world_pixel_values"}

    with pytest.raises(ValueError, match="world"):
        run_with(monkeypatch, blind, tmp_path, gemma_folder, cosmos_folder)

    def off(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "use_world": False}

    with pytest.raises(ValueError, match="no world token reached the language model"):
        run_with(monkeypatch, off, tmp_path, gemma_folder, cosmos_folder)


def text_rows(folder: Path, images: int = 0) -> str:
    """Ten rows, the last `images` of them with an image."""
    rows = [json.loads(line) for line in write_rows(folder).read_text(encoding="utf-8").splitlines()]
    rows = [row if place >= 10 - images else row | {"image": None} for place, row in enumerate(rows)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / "text.jsonl")


@pytest.mark.parametrize("keys", [{}, {"freeze_gemma_language": False}])
def test_rows_without_images_feed_no_world_and_stop_the_run(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, keys: dict[str, Any]
) -> None:
    rows = {"train_dataset_path": text_rows(tmp_path), "image_folder": None, **keys}
    for steps in (1, 40):
        config = tiny_run(
            tmp_path, gemma_folder, cosmos_folder, output_dir=str(tmp_path / str(steps)), max_steps=steps, **rows
        )
        with pytest.raises(ValueError, match=rf"0 world tokens reached the language model in {min(steps, 10)} steps"):
            train(config)
    plain = {
        "enable_world": False,
        "freeze_gemma_language": False,
        **{key: rows[key] for key in ("train_dataset_path", "image_folder")},
    }
    assert train(tiny_run(tmp_path, gemma_folder, cosmos_folder, max_steps=2, **plain)).step == 2


def test_mixed_rows_may_begin_without_an_image(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    rows = text_rows(tmp_path, images=1)
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, train_dataset_path=rows, gradient_accumulation_steps=1)
    assert train(config).step == 10


def test_a_run_that_no_gradient_reaches_stops_after_its_first_step(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss = Trainer.compute_loss

    def flat(*args: Any) -> Any:
        loss, outputs = compute_loss(*args)
        return 0 * loss, outputs

    monkeypatch.setattr(Trainer, "compute_loss", flat)
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder)
    with pytest.raises(ValueError, match="the gradients of projector are 0 in 1 steps: the loss does not depend on"):
        train(config)
    assert not list(Path(config.output_dir).glob("checkpoint*"))


def test_a_warm_up_as_long_as_the_run_is_said(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny_run(tmp_path, gemma_folder, cosmos_folder, max_steps=2, warmup_steps=1))
    assert "warmup_steps" not in caplog.text
    train(tiny_run(tmp_path, gemma_folder, cosmos_folder, max_steps=2, warmup_steps=2, output_dir=str(tmp_path / "b")))
    assert "warmup_steps=2 of a run of 2 steps: its learning rates" in caplog.text


def test_a_world_block_that_fits_no_sample_is_said_before_a_row_is_read(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TheWorldCollator, "__call__", lambda *_: pytest.fail("a row was read"))
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, num_world_steps=9, max_seq_length=30)
    with pytest.raises(
        ValueError, match=r"num_world_steps=9 with world_pooling=2 gives a world block of 42 tokens.*30"
    ):
        train(config)


@pytest.mark.parametrize("run", [train, precompute])
def test_a_loading_process_that_dies_is_one_line(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, num_workers=1)
    if run is precompute:
        config = replace(config, latent_cache=str(tmp_path / "latents"))
    monkeypatch.setattr(TheWorldCollator, "__call__", die)
    with pytest.raises(OSError, match=r"a process that loads data died .*; lower num_workers") as caught:
        run(config)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(
        tmp_path, gemma_folder, cosmos_folder, learning_rate=1e38, logging_steps=9, warmup_steps=0, save_steps=100
    )
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) after step \d"):
        train(config)


@pytest.mark.parametrize("keys", [{"learning_rate": 1e38}, {"adam_epsilon": 1e-300, "learning_rate": 1e30}])
def test_parameters_that_are_not_finite_stop_the_run_with_their_rate(
    keys: dict[str, float], tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, warmup_steps=0, max_steps=1, **keys)
    told = r"param_norm/projector is (inf|nan).* after step 1, with learning_rate=1e\+3\d and .*: lower the learning"
    with pytest.raises(ValueError, match=told):
        train(config)
    with pytest.raises(ValueError, match=r"adam_epsilon=0: expected more than 0"):
        replace(config, adam_epsilon=0)


def test_norms_of_the_parts_make_up_the_whole(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(
        tmp_path, gemma_folder, cosmos_folder, **UNFROZEN, max_steps=2, max_grad_norm=0.01, learning_rate=1e-4
    )
    parts = [f"grad_norm/{part}" for part in ("projector", "vision", "language", "vae_encoder")]
    for norms in history(train(config).checkpoint, "grad_norm", *parts).values():
        assert all(norm > 0 for norm in norms)
        assert math.hypot(*norms[1:]) == pytest.approx(norms[0], rel=1e-3)
        assert norms[0] > 0.01


def test_total_norm_is_that_of_all_values() -> None:
    assert total_norm([torch.tensor([3.0]), torch.tensor([[4.0], [12.0]])]).item() == pytest.approx(13.0)


def test_every_source_that_a_config_names_exists() -> None:
    assert {"custom", "vsr", "datacomp", "spatial_rgpt", "llava_pretrain", "micro_world", "video"} <= SOURCES.keys()
