"""Stages follow each other: what the config says trains, and what an earlier stage trained stays."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS

from tests.model.helpers import component_of
from tests.training.runs import tiny_run
from theworld import TheWorld
from theworld.model.world_encoders.controls import PatchesWorldEncoder
from theworld.training import run, stages
from theworld.training.config import TrainingConfig
from theworld.training.rows import load_rows
from theworld.training.run import train
from theworld.training.stages import Stage, data_fingerprint, load_model, stage_table, trained_components
from theworld.utils import quantization

LORA = {"r": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
SCHEDULE = (
    ({}, ("projector",)),
    ({"freeze_gemma_vision": False}, ("projector", "vision")),
    ({"lora": LORA}, ("projector", "language_lora")),
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TheWorld]:
    """The models that runs start with, and then train."""
    models: list[TheWorld] = []

    def remember(*args: Any) -> TheWorld:
        models.append(load_model(*args))
        return models[-1]

    monkeypatch.setattr(run, "load_model", remember)
    return models


def logits(model: TheWorld, config: TrainingConfig) -> torch.Tensor:
    row = load_rows(config)[0]
    with torch.no_grad():
        batch = run.OBJECTIVES["answers"].collator(config, model)([row])
        batch.pop("skipped")
        batch.pop("choice_ids")
        return model.eval()(**batch).logits


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_three_stages_each_from_the_last(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, trained: list[TheWorld], precision: str
) -> None:
    start: dict[str, Any] = {}
    weights: dict[str, torch.Tensor] = {}
    for index, (flags, parts) in enumerate(SCHEDULE):
        config = tiny_run(
            tmp_path,
            gemma_folder,
            cosmos_folder,
            output_dir=str(tmp_path / f"stage{index}"),
            max_steps=2,
            mixed_precision=precision,
            **flags,
            **start,
        )
        result = train(config)
        assert (result.step, result.checkpoint) == (2, f"{config.output_dir}/checkpoint-2")
        model = trained[-1]
        assert trained_components(model) == parts
        reloaded = TheWorld.from_pretrained(result.checkpoint, dtype=None)
        if precision == "no":
            assert torch.equal(logits(model, config), logits(reloaded, config))
        before, weights = weights, load_file(f"{result.checkpoint}/{WEIGHTS}")
        assert all(value.dtype == torch.float32 for value in weights.values())
        for name, value in before.items():
            assert torch.equal(weights[name], value) == (component_of(name) not in parts), name
        assert {component_of(name) for name in weights} == {part for _, ps in SCHEDULE[: index + 1] for part in ps}
        start = {"resume_from": config.output_dir}


def test_trained_parameters_move_and_frozen_ones_do_not(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, trained: list[TheWorld]
) -> None:
    config = tiny_run(
        tmp_path, gemma_folder, cosmos_folder, max_steps=1, warmup_steps=0, mixed_precision="bf16",
        freeze_gemma_language=False, freeze_cosmos_vae=False,
    )  # fmt: skip
    before = {name: value.clone() for name, value in load_model(config, gemma_folder).named_parameters()}
    train(config)
    for name, parameter in trained[0].named_parameters():
        part = component_of(name)
        trains = part in ("language", "vae_encoder")
        assert parameter.dtype == (torch.float32 if trains or part == "projector" else torch.bfloat16), name
        if part != "projector":  # seeded later than the copy
            assert torch.equal(parameter.float(), before[name].float()) != trains, name


def test_a_control_is_a_key_of_the_config(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, world_encoder="patches")
    model = load_model(config, gemma_folder)
    assert isinstance(model.model.world_encoder, PatchesWorldEncoder)
    with pytest.raises(ValueError, match="world_encoder='nothing': expected one of cosmos, "):
        replace(config, world_encoder="nothing")


def test_a_stage_without_anything_to_train_is_an_error(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    with pytest.raises(ValueError, match="nothing trains: enable_world=False with freeze_gemma_vision=True"):
        train(tiny_run(tmp_path, gemma_folder, cosmos_folder, enable_world=False))


def test_a_stage_is_told_from_another() -> None:
    stage = Stage("answers", ("projector",), "2-abc", True, 0)
    saved = {
        "objective": "answers",
        "trains": ["projector"],
        "data": "2-abc",
        "enable_world": True,
        "num_world_steps": 0,
    }
    assert stage.differences(saved) == []
    assert stage.differences({**saved, "data": "2-d"}) == ["data (2-d -> 2-abc)"]
    assert not stage.differences({**saved, "data": "d"})  # of version 0.1, whose fingerprints hashed less
    assert stage.differences({**saved, "trains": ["vision"]}) == ["trains (['vision'] -> ['projector'])"]


def test_the_data_is_told_by_its_content(tmp_path: Path) -> None:
    for name, text in (("a", "1\n2\n"), ("b", "1\n2\n"), ("c", "1\n3\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    a, b, c = (data_fingerprint(str(tmp_path / name), [1, 2]) for name in "abc")
    assert a == b != c
    assert a != data_fingerprint(str(tmp_path / "a"), [1])
    assert a != data_fingerprint(str(tmp_path / "a"), [1, 2], "test")
    assert data_fingerprint("you/data", iter([])) != data_fingerprint("you/other", iter([]))


def test_a_folder_is_told_by_all_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "dogs").mkdir()
    before = data_fingerprint(str(tmp_path), [1])
    (tmp_path / "dogs" / "a.png").write_bytes(b"a")
    assert data_fingerprint(str(tmp_path), [1]) != before


def test_the_data_is_told_by_all_of_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows" / "a.tar"
    file.parent.mkdir()
    names = (str(file), str(file.parent), str(tmp_path / "rows" / "{a,b}.tar"), str(tmp_path / "rows" / "*.tar"))
    for limit in (2**30, 0):  # read, or above what is read
        monkeypatch.setattr(stages, "WHOLE_BYTES", limit)
        file.write_bytes(b"a" * 2**22)
        os.utime(file, (1, 1))
        before = [data_fingerprint(name, iter([])) for name in names]
        assert before == [data_fingerprint(name, iter([])) for name in names]
        assert before[0] == before[2] == before[3]
        file.write_bytes(b"a" * 2**21 + b"b" + b"a" * (2**21 - 1))
        after = [data_fingerprint(name, iter([])) for name in names]
        assert not set(after) & set(before), limit


def test_a_run_does_not_continue_with_replaced_images(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, max_steps=2)
    train(config)
    Image.new("RGB", (32, 32)).save(tmp_path / "5.png")
    with pytest.raises(ValueError, match=r"holds checkpoint-2 of another stage, data \(2-\w+ -> 2-\w+\)"):
        train(replace(config, max_steps=4, resume_from="auto"))


def test_the_table_tells_parts_rates_and_memory(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, freeze_gemma_vision=False, vision_learning_rate=2e-5)
    model = load_model(config, gemma_folder)
    rows = {line.split()[0]: line.split() for line in stage_table(model, config).splitlines()}
    count = sum(p.numel() for name, p in model.named_parameters() if component_of(name) == "vision")
    assert rows["vision"][1:4] == [f"{count:,}", f"{count:,}", "2e-05"]
    assert rows["language"][3] == "frozen"
    assert rows["all"][1] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert "activations:" in rows


def test_the_table_says_that_saved_adapters_train_on(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, lora=LORA)
    model = load_model(config, gemma_folder)
    assert "continues training" not in stage_table(model, config)
    model.save_pretrained(tmp_path / "adapted")
    for frozen in (False, True):
        later = tiny_run(tmp_path, gemma_folder, cosmos_folder, freeze_language_lora=frozen)
        table = stage_table(load_model(later, tmp_path / "adapted"), later)
        assert ("continues training the adapters of the checkpoint; freeze_language_lora=true" in table) is not frozen


def test_every_field_of_the_model_is_a_key(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    given = {"world_inference_steps": 3, "world_guidance_scale": 2.0, "world_seed": 7, "projector_hidden_size": 24}
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, **given)
    model = load_model(config, gemma_folder)
    assert {name: getattr(model.config, name) for name in given} == given
    model.save_pretrained(tmp_path / "checkpoint")
    again = load_model(tiny_run(tmp_path, gemma_folder, cosmos_folder, world_seed=8), tmp_path / "checkpoint")
    assert {name: getattr(again.config, name) for name in given} == {**given, "world_seed": 8}  # None keeps the rest


def test_quantised_loading_says_what_to_install(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, load_in_4bit=True)
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="load_in_4bit=True needs bitsandbytes: pip install bitsandbytes"):
        load_model(config, gemma_folder)
    monkeypatch.setattr(quantization, "find_spec", lambda name: name)
    settings = quantization.quantization(config, torch.float32)["quantization_config"]
    assert (settings.load_in_4bit, settings.bnb_4bit_compute_dtype) == (True, torch.float32)
    assert quantization.quantization(replace(config, load_in_4bit=False), torch.float32) == {}


def test_a_mixture_has_a_fingerprint_of_all_its_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text("1", encoding="utf-8")
    second.write_text("2", encoding="utf-8")
    assert data_fingerprint([str(first)], [1]) == data_fingerprint(str(first), [1])
    before = data_fingerprint([str(first), str(second)], [1])
    second.write_text("3", encoding="utf-8")
    assert data_fingerprint([str(first), str(second)], [1]) != before
