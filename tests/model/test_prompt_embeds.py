"""The embedding of a rollout's prompt: the stock pipeline's, made once, kept on disk, with no T5 left in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Cosmos2VideoToWorldPipeline
from transformers import AutoTokenizer, T5EncoderModel

from tests import tiny
from tests.model.conftest import Load
from theworld.model.world_encoders.prompt_embeds import encode_prompts, load_prompt_embeds, save_prompt_embeds


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
    (ours,) = encode_prompts(str(cosmos_folder), [prompt])
    with torch.no_grad():
        assert torch.equal(ours, pipeline._get_t5_prompt_embeds(prompt))
    assert ours.shape == (1, 512, tiny.TEXT_WIDTH)


def test_t5_is_opened_once_for_new_prompts(cosmos_folder: Path, opened: list[str]) -> None:
    first, second = load_prompt_embeds(str(cosmos_folder), ["a ball", "a bin"])
    assert len(opened) == 1
    assert not torch.equal(first, second)
    assert torch.equal(load_prompt_embeds(str(cosmos_folder), ["a ball"])[0], first)
    assert len(opened) == 1
    third, again = load_prompt_embeds(str(cosmos_folder), ["a tower", "a bin"])
    assert len(opened) == 2
    assert torch.equal(again, second)
    assert not torch.equal(third, second)


def test_no_t5_without_a_rollout(load: Load, opened: list[str]) -> None:
    model = load()
    model.model.get_world_features(torch.zeros(1, 3, 32, 32))
    assert opened == []
    model.model.get_world_features(torch.zeros(1, 3, 32, 32), 1)
    model.model.get_world_features(torch.zeros(1, 3, 32, 32), 1)
    assert len(opened) == 1
    assert not [module for module in model.modules() if isinstance(module, T5EncoderModel)]


def test_one_t5_for_the_prompt_and_the_negative_prompt(load: Load, opened: list[str], tmp_path: Path) -> None:
    load(world_guidance_scale=2.0).model.get_world_features(torch.zeros(1, 3, 32, 32), 1)
    assert len(opened) == 1
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2


def test_second_model_reads_the_cache(load: Load, opened: list[str]) -> None:
    pixels = torch.zeros(1, 3, 32, 32)
    first = load().model.get_world_features(pixels, 1).last_hidden_state
    second = load().model.get_world_features(pixels, 1).last_hidden_state
    assert len(opened) == 1
    assert torch.equal(first, second)


def test_embedding_that_comes_with_the_base(tmp_path: Path, opened: list[str]) -> None:
    embeds = torch.randn(1, 4, tiny.TEXT_WIDTH)
    save_prompt_embeds(tmp_path / "base", "a ball", embeds)
    assert torch.equal(load_prompt_embeds(str(tmp_path / "base"), ["a ball"])[0], embeds)
    assert opened == []
    with pytest.raises(ValueError, match="no text_encoder folder and no embedding of the prompt 'a bin'"):
        load_prompt_embeds(str(tmp_path / "base"), ["a bin"])


def test_two_bases_share_no_embedding(cosmos_folder: Path, tmp_path: Path, opened: list[str]) -> None:
    other = tmp_path / "other"
    encoder, tokenizer = tiny.tiny_t5(seed=1)
    encoder.save_pretrained(other / "text_encoder")
    tokenizer.save_pretrained(other / "tokenizer")
    first, second = (load_prompt_embeds(str(folder), ["a ball"])[0] for folder in (cosmos_folder, other))
    assert len(opened) == 2
    assert not torch.equal(first, second)
