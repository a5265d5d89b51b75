"""The embedding of a rollout's prompt: the stock pipeline's, computed once, cached by content, with no T5 kept."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import Cosmos2VideoToWorldPipeline
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5EncoderModel

from tests import tiny
from tests.model.conftest import Load
from tests.processes import CONTEXT
from tests.replicas import COSMOS, edit_weights, publish, replica_cache, write_cosmos
from theworld.model.world_encoders.prompt_embeds import (
    encode_prompts,
    load_prompt_embeds,
    no_text,
    save_prompt_embeds,
)
from theworld.utils.devices import device_that_holds
from theworld.utils.weights import content_key

CPU = torch.device("cpu")


class Harmless:
    """A guardrail; no prompt is run."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Every T5 that is opened, with an empty cache."""
    monkeypatch.setenv("THEWORLD_CACHE", str(tmp_path / "cache"))
    names: list[str] = []
    load = T5EncoderModel.from_pretrained

    def spy(name: str, *arguments: Any, **options: Any) -> Any:
        names.append(str(name))
        return load(name, *arguments, **options)

    monkeypatch.setattr(T5EncoderModel, "from_pretrained", spy)
    return names


@pytest.fixture
def base(cosmos_folder: Path, tmp_path: Path) -> Path:
    """A base folder of one's own, of text encoder and tokenizer."""
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(cosmos_folder / name, tmp_path / "base" / name)
    return tmp_path / "base"


def embed(name: object, *prompts: str) -> list[torch.Tensor]:
    return load_prompt_embeds(str(name), list(prompts), device=CPU)


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.safetensors"))


# --------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("prompt", ["", "a ball", "a ball falls into the red bin, slowly", "x" * 600])
def test_embedding_is_the_stock_pipelines(cosmos_folder: Path, prompt: str) -> None:
    pipeline = Cosmos2VideoToWorldPipeline(
        text_encoder=T5EncoderModel.from_pretrained(cosmos_folder / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(cosmos_folder / "tokenizer"),
        transformer=tiny.tiny_transformer(),
        vae=tiny.tiny_vae(),
        scheduler=tiny.tiny_scheduler(),
        safety_checker=Harmless(),
    )
    (ours,) = encode_prompts(str(cosmos_folder), [prompt], device=CPU)
    with torch.no_grad():
        assert torch.equal(ours, pipeline._get_t5_prompt_embeds(prompt))
    assert ours.shape == (1, 512, tiny.TEXT_WIDTH)


def test_no_text_is_zero() -> None:
    assert torch.equal(no_text(tiny.TEXT_WIDTH), torch.zeros(1, 512, tiny.TEXT_WIDTH))


# -------------------------------------------------------------------------------------------------- when T5 runs


def test_t5_is_opened_once_for_new_prompts(cosmos_folder: Path, opened: list[str]) -> None:
    first, second = embed(cosmos_folder, "a ball", "a bin")
    assert len(opened) == 1
    assert not torch.equal(first, second)
    assert torch.equal(embed(cosmos_folder, "a ball")[0], first)
    assert len(opened) == 1
    third, again = embed(cosmos_folder, "a tower", "a bin")
    assert len(opened) == 2
    assert torch.equal(again, second)
    assert not torch.equal(third, second)


def test_no_t5_without_a_rollout(load: Load, opened: list[str]) -> None:
    model = load(world_prompt="a ball")
    model.model.get_world_features(torch.zeros(1, 3, 32, 32))
    assert opened == []
    model.model.get_world_features(torch.zeros(1, 3, 32, 32), 1)
    model.model.get_world_features(torch.zeros(1, 3, 32, 32), 1)
    assert len(opened) == 1
    assert not [module for module in model.modules() if isinstance(module, T5EncoderModel)]


def test_one_t5_for_the_prompt_and_the_negative_prompt(load: Load, opened: list[str], tmp_path: Path) -> None:
    load(world_prompt="a ball", world_guidance_scale=2.0).model.get_world_features(torch.zeros(1, 3, 32, 32), 1)
    assert len(opened) == 1
    assert len(cached(tmp_path)) == 2


def test_second_model_reads_the_cache(load: Load, opened: list[str]) -> None:
    pixels = torch.zeros(1, 3, 32, 32)
    first = load(world_prompt="a ball").model.get_world_features(pixels, 1).last_hidden_state
    second = load(world_prompt="a ball").model.get_world_features(pixels, 1).last_hidden_state
    assert len(opened) == 1
    assert torch.equal(first, second)


def test_loading_is_announced_with_its_size(
    base: Path, opened: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING, "theworld"):
        embed(base, "a ball")
    (said,) = caplog.messages
    encoder, _ = tiny.tiny_t5()
    for fact in (str(base), f"{sum(p.numel() for p in encoder.parameters()):,} parameters", "GB", "cpu", "once"):
        assert fact in said
    assert str(tmp_path / "cache") in said
    assert "Loading weights" in capfd.readouterr().err
    caplog.clear()
    embed(base, "a ball")
    assert caplog.messages == []


def embed_and_tell(base: Path, cache: Path, ready: Any, told: Any) -> None:
    """In a process of its own: the sum of an embedding, and how often a T5 was opened for it."""
    os.environ["THEWORLD_CACHE"] = str(cache)
    with mock.patch.object(T5EncoderModel, "from_pretrained", wraps=T5EncoderModel.from_pretrained) as opened:
        ready.wait(timeout=120)
        told.put((embed(base, "a ball")[0].sum().item(), opened.call_count))


def test_two_processes_open_one_t5(base: Path, tmp_path: Path) -> None:
    ready, told = CONTEXT.Barrier(2), CONTEXT.SimpleQueue()
    arguments = (base, tmp_path / "cache", ready, told)
    processes = [CONTEXT.Process(target=embed_and_tell, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    (first, opened), (second, opened_by_other) = told.get(), told.get()
    assert first == second
    assert opened + opened_by_other == 1


@pytest.mark.parametrize(("free", "kept"), [(2_000, True), (1_000, False)])
def test_device_needs_room(monkeypatch: pytest.MonkeyPatch, free: int, kept: bool) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 8_000))
    device = torch.device("cuda", 0)
    assert device_that_holds(device, 1_500) == (device if kept else CPU)
    assert device_that_holds(torch.device("mps"), 1) == CPU


# ---------------------------------------------------------------------------------------------------- the cache


def test_cache_is_keyed_by_content(base: Path, opened: list[str], tmp_path: Path) -> None:
    first = embed(base, "a ball")[0]
    copy = Path(shutil.copytree(base, tmp_path / "elsewhere" / "copy"))
    os.utime(copy / "text_encoder" / "model.safetensors", (0, 0))
    assert torch.equal(embed(copy, "a ball")[0], first)
    assert len(opened) == 1
    encoder, _ = tiny.tiny_t5(seed=1)
    encoder.save_pretrained(copy / "text_encoder")
    assert not torch.equal(embed(copy, "a ball")[0], first)
    assert len(opened) == 2
    encoder, _ = tiny.tiny_t5(seed=1)
    encoder.save_pretrained(base / "text_encoder")  # the same path, other weights
    embed(base, "a ball")
    assert len(opened) == 2


def test_another_tokenizer_is_another_content(base: Path, opened: list[str]) -> None:
    embed(base, "a ball")
    tokenizer = base / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8").replace('"b"', '"B"', 1), encoding="utf-8")
    embed(base, "a ball")
    assert len(opened) == 2


def test_samples_find_a_change_in_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("theworld.utils.weights.SAMPLES", 8)
    monkeypatch.setattr("theworld.utils.weights.SAMPLE_BYTES", 64)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        save_file({"w": torch.randn(4096, generator=generator)}, tmp_path / str(seed))
    same = tmp_path / "copy"
    same.mkdir()
    shutil.copy(tmp_path / "0", same / "0")
    assert content_key([str(tmp_path / "0")]) == content_key([str(same / "0")])
    shutil.copy(tmp_path / "1", same / "0")
    assert content_key([str(tmp_path / "0")]) != content_key([str(same / "0")])


@pytest.mark.parametrize("damage", ["cut", "flipped", "shape", "empty", "other prompt", "not finite"])
def test_damaged_cache_is_computed_again(base: Path, opened: list[str], tmp_path: Path, damage: str) -> None:
    first = embed(base, "a ball")[0]
    (path,) = cached(tmp_path)
    data = path.read_bytes()
    if damage == "other prompt":
        save_prompt_embeds(tmp_path / "other", "a bin", first + 1)
        shutil.copy(next((tmp_path / "other").rglob("*.safetensors")), path)
    elif damage in ("shape", "not finite"):
        save_file({"prompt_embeds": first[0] if damage == "shape" else first * torch.inf}, path)
    else:
        path.write_bytes({"cut": data[:-9], "flipped": data[:-9] + b"\x7f" + data[-8:], "empty": b""}[damage])
    assert torch.equal(embed(base, "a ball")[0], first)
    assert len(opened) == 2
    assert path.read_bytes() == data


# ----------------------------------------------------------------------------------------- embeddings in the base


def test_embedding_that_comes_with_the_base(tmp_path: Path, opened: list[str]) -> None:
    embeds = torch.randn(1, 4, tiny.TEXT_WIDTH)
    save_prompt_embeds(tmp_path / "base", "a ball", embeds)
    assert torch.equal(embed(tmp_path / "base", "a ball")[0], embeds)
    assert opened == []
    with pytest.raises(FileNotFoundError, match=r"no embedding of the prompt 'a bin'.* no text_encoder/config\.json"):
        embed(tmp_path / "base", "a bin")


def test_embedding_of_version_0_1_that_comes_with_the_base(tmp_path: Path) -> None:
    """Without a checksum."""
    embeds = torch.randn(1, 4, tiny.TEXT_WIDTH)
    path = save_prompt_embeds(tmp_path, "a ball", embeds)
    save_file({"prompt_embeds": embeds}, path, metadata={"prompt": "a ball"})
    assert torch.equal(embed(tmp_path, "a ball")[0], embeds)


def test_damaged_embedding_that_comes_with_the_base_is_an_error(base: Path, opened: list[str]) -> None:
    path = save_prompt_embeds(base, "a ball", torch.randn(1, 4, tiny.TEXT_WIDTH))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{path}: damaged prompt embedding"):
        embed(base, "a ball")
    assert opened == []


def test_what_is_no_embedding_is_not_saved(tmp_path: Path) -> None:
    for embeds in (
        torch.ones(4, 16),
        torch.ones(2, 4, 16),
        torch.ones(1, 4, 16).long(),
        torch.full((1, 4, 16), torch.nan),
    ):
        with pytest.raises(ValueError, match="'a ball'"):
            save_prompt_embeds(tmp_path, "a ball", embeds)
    assert not list(tmp_path.rglob("*.safetensors"))


# -------------------------------------------------------------------------------------------- wrong text encoders


def damage_missing(folder: Path) -> str:
    edit_weights(folder / "model.safetensors", remove="encoder.block.0.layer.0.SelfAttention.q.")
    return "missing keys: encoder.block.0.layer.0.SelfAttention.q.weight"


def damage_foreign(folder: Path) -> str:
    edit_weights(folder / "model.safetensors", add={"encoder.block.9.weight": torch.ones(2)})
    return "unexpected keys: encoder.block.9.weight"


def damage_shape(folder: Path) -> str:
    edit_weights(folder / "model.safetensors", add={"encoder.final_layer_norm.weight": torch.ones(7)})
    return r"mismatched keys: encoder.final_layer_norm.weight \(7,\) in place of \(16,\)"


@pytest.mark.parametrize("damage", [damage_missing, damage_foreign, damage_shape])
def test_wrong_weights_are_named_and_nothing_is_cached(
    base: Path, opened: list[str], tmp_path: Path, damage: Any
) -> None:
    named = damage(base / "text_encoder")
    with pytest.raises(ValueError, match=rf"{base} \(text_encoder\): .*{named}"):
        embed(base, "a ball")
    assert not cached(tmp_path)


def test_weights_in_shards(base: Path, opened: list[str]) -> None:
    expected = embed(base, "a ball")[0]
    folder = base / "text_encoder"
    encoder, _ = tiny.tiny_t5()
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    encoder.save_pretrained(folder, max_shard_size=max(value.nbytes for value in whole.values()) + 1)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert torch.equal(embed(base, "a ball")[0], expected)
    assert len(opened) == 2
    next(iter(sorted(folder.glob("model-*.safetensors")))).unlink()
    with pytest.raises(OSError, match="model-00001"):
        embed(base, "a ball")


def test_by_id_from_an_offline_cache(tmp_path: Path) -> None:
    with replica_cache(tmp_path / "home") as cache:
        publish(write_cosmos(tmp_path / "cosmos", text_encoder=True), cache.hub, COSMOS)
        assert embed(COSMOS, "a ball")[0].shape == (1, 512, tiny.TEXT_WIDTH)
        publish(write_cosmos(tmp_path / "without"), cache.hub, COSMOS)
        with pytest.raises(FileNotFoundError, match=f"{COSMOS}: no embedding of the prompt 'a ball'.*hf download"):
            embed(COSMOS, "a ball")
