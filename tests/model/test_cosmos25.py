"""Cosmos-Predict2.5 repositories: latents and rollouts are the stock pipeline's, or are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Cosmos2_5_PredictBasePipeline, DDIMScheduler
from PIL import Image

from tests import tiny
from tests.model.helpers import encode, load_world, user
from theworld import TheWorld
from theworld.model.world_encoders import CosmosWorldEncoder, prompt_embeds
from theworld.model.world_encoders.prompt_embeds import no_text, save_prompt_embeds, stock_negative_prompt
from theworld.utils.frames import image_frames

SIZE, STEPS = tiny.WORLD_SIZE, 4
PROMPT = "a ball"


def embeds_of(prompt: str | None, tokens: int = 6) -> torch.Tensor:
    """A stand-in for Qwen's hidden states, another for every prompt; zeros for none."""
    if prompt is None:
        return torch.zeros(1, 512, tiny.QWEN_WIDTH)
    return torch.randn(1, tokens, tiny.QWEN_WIDTH, generator=torch.Generator().manual_seed(len(prompt)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that ships the embeddings of two prompts, and a Qwen that nobody runs."""
    folder = tiny.write_tiny_cosmos(tmp_path_factory.mktemp("cosmos25"), v25=True)
    for prompt in (PROMPT, stock_negative_prompt()):
        save_prompt_embeds(folder, prompt, embeds_of(prompt))
    return folder


@pytest.fixture(scope="module")
def pixels(images: list[Image.Image]) -> torch.Tensor:
    return image_frames(images, (SIZE, SIZE))


class Harmless:
    """A guardrail that lets everything pass; latents never reach it."""

    def to(self, device: Any) -> None:
        pass


def stock_rollout(
    pixels: torch.Tensor, steps: int, prompt: str | None, guidance: float, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """The stock pipeline's rollout (1, C, T, h, w) of one image at seed 3."""
    pipeline = Cosmos2_5_PredictBasePipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=tiny.tiny_transformer(v25=True).to(dtype),
        vae=tiny.tiny_vae(),
        scheduler=tiny.tiny_unipc(),
        safety_checker=Harmless(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        video=pixels.unsqueeze(2),
        num_latent_conditional_frames=1,
        prompt_embeds=embeds_of(prompt).to(dtype),
        negative_prompt_embeds=embeds_of(stock_negative_prompt()).to(dtype),
        height=SIZE,
        width=SIZE,
        num_frames=1 + 4 * steps,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).frames


def encoder_of(gemma: Path, folder: Path, **settings: Any) -> CosmosWorldEncoder:
    world = {"world_inference_steps": STEPS, "world_seed": 3, **settings}
    encoder = load_world(gemma, folder, **world).model.world_encoder
    assert isinstance(encoder, CosmosWorldEncoder)
    return encoder


def test_latents_of_the_present_need_the_vae_alone(
    gemma_folder: Path, folder: Path, pixels: torch.Tensor, tmp_path: Path
) -> None:
    shutil.copytree(folder / "vae", tmp_path / "vae")
    encoder = encoder_of(gemma_folder, tmp_path)
    stock = stock_rollout(pixels[:1], 1, None, 1.0)
    # The stock pipeline starts at sigma 0.995 from noise alone, so it stops short of the clean frame
    torch.testing.assert_close(encoder.encode(pixels[:1]), stock[:, :, :1], rtol=0, atol=5e-2)
    assert encoder.transformer is None


@pytest.mark.parametrize(
    ("prompt", "guidance", "steps"), [(None, 1.0, 1), (None, 1.0, 3), (PROMPT, 1.0, 2), (None, 3.0, 2)]
)
def test_rollout_is_the_stock_pipelines(
    gemma_folder: Path, folder: Path, pixels: torch.Tensor, prompt: str | None, guidance: float, steps: int
) -> None:
    settings = {"world_prompt": prompt, "world_guidance_scale": guidance}
    encoder = encoder_of(gemma_folder, folder, num_world_steps=steps, **settings)
    ours, stock = encoder.encode(pixels[:1], steps), stock_rollout(pixels[:1], steps, prompt, guidance)
    assert ours.shape == stock.shape
    torch.testing.assert_close(ours[:, :, 1:], stock[:, :, 1:], rtol=0, atol=1e-5)
    assert torch.equal(ours[:, :, :1], encoder.encode(pixels[:1]))
    assert not torch.allclose(ours[:, :, 1:], encoder.encode(pixels[:1], steps, seed=4)[:, :, 1:], atol=1e-2)
    _, scheduler = encoder.dynamics()
    assert scheduler.step_index is None  # it keeps no state


def test_bf16_rollout_is_the_stock_pipelines(gemma_folder: Path, folder: Path, pixels: torch.Tensor) -> None:
    encoder = encoder_of(gemma_folder, folder)
    encoder.dynamics()[0].to(torch.bfloat16)
    stock = stock_rollout(pixels[:1], 2, None, 1.0, torch.bfloat16)
    torch.testing.assert_close(encoder.encode(pixels[:1], 2)[:, :, 1:], stock[:, :, 1:], rtol=0, atol=1e-2)


def test_a_wide_no_text_is_one_token(
    gemma_folder: Path, folder: Path, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert no_text(100_352).shape == (1, 1, 100_352)
    monkeypatch.setattr(prompt_embeds, "WIDEST_PADDED", 0)
    encoder = encoder_of(gemma_folder, folder)
    rolled = encoder.encode(pixels[:1], 2)
    assert [embeds.shape[1] for embeds in encoder.prompt_embeds()] == [1]
    stock = stock_rollout(pixels[:1], 2, None, 1.0)
    torch.testing.assert_close(rolled[:, :, 1:], stock[:, :, 1:], rtol=0, atol=1e-5)


def test_batch_equals_its_images_one_by_one(gemma_folder: Path, folder: Path, pixels: torch.Tensor) -> None:
    encoder = encoder_of(gemma_folder, folder)
    together = encoder.encode(pixels, 2)
    torch.testing.assert_close(together, encoder.encode_one_by_one(pixels, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_saved_whole_and_reloaded(
    gemma_folder: Path, folder: Path, images: list[Image.Image], tmp_path: Path, prompt: str | None
) -> None:
    model = load_world(gemma_folder, folder, num_world_steps=1, world_prompt=prompt)
    model.save_pretrained(tmp_path / "full", full=True)
    again = TheWorld.from_pretrained(tmp_path / "full", dtype=torch.float32)
    inputs = encode(model.processor, [user("Hi?", images[0])])
    output = model(**inputs)
    assert output.num_world_tokens == 32
    assert torch.equal(output.logits, again(**inputs).logits)


def test_the_random_control_of_it_rolls_out(gemma_folder: Path, folder: Path, pixels: torch.Tensor) -> None:
    encoder = encoder_of(gemma_folder, folder, world_encoder="random")
    assert encoder.encode(pixels, 1).isfinite().all()


def test_a_prompt_without_its_embedding_is_refused(gemma_folder: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tiny.write_tiny_cosmos(tmp_path / "t5", with_text_encoder=True)
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(tmp_path / "t5" / name, tmp_path / name)
    config = tmp_path / "text_encoder" / "config.json"
    qwen = {**json.loads(config.read_text(encoding="utf-8")), "model_type": "qwen2_5_vl"}
    config.write_text(json.dumps(qwen), encoding="utf-8")
    encoder = encoder_of(gemma_folder, tmp_path, world_prompt="another")
    with pytest.raises(ValueError, match=r"text encoder 'qwen2_5_vl'.*expected t5.*save_prompt_embeds"):
        encoder.encode(torch.zeros(1, 3, SIZE, SIZE), 1)


@pytest.mark.parametrize(
    ("scheduler", "v25", "settings", "message"),
    [
        (DDIMScheduler(), True, {}, "scheduler DDIMScheduler: Cosmos-Predict2.5 has UniPCMultistepScheduler"),
        (tiny.tiny_scheduler(), True, {}, "scheduler FlowMatchEulerDiscreteScheduler.*Cosmos-Predict2.5 has Uni"),
        (tiny.tiny_unipc(), False, {}, "scheduler UniPCMultistepScheduler.*Cosmos-Predict2 has FlowMatch"),
        (tiny.UniPCMultistepScheduler(), True, {}, "'epsilon'.*expected flow_prediction"),
        (tiny.tiny_unipc(), True, {"world_fps": 8}, "world_fps=8: .*16"),
        (tiny.tiny_scheduler(), False, {"world_inference_steps": 1}, "world_inference_steps=1: .*set 2 or more"),
    ],
)
def test_what_would_roll_out_wrong_is_refused(
    gemma_folder: Path, folder: Path, tmp_path: Path, scheduler: Any, v25: bool, settings: Any, message: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "transformer")
    tiny.tiny_transformer(v25=v25).save_pretrained(tmp_path / "transformer")
    shutil.rmtree(tmp_path / "scheduler")
    scheduler.save_pretrained(tmp_path / "scheduler")
    load_world(gemma_folder, tmp_path, **settings)  # the present is the same
    with pytest.raises(ValueError, match=message):
        load_world(gemma_folder, tmp_path, num_world_steps=1, **settings)


def test_one_step_is_a_rollout_that_ends_without_noise(gemma_folder: Path, folder: Path) -> None:
    load_world(gemma_folder, folder, num_world_steps=1, world_inference_steps=1)
