"""Our latents are the stock Cosmos pipeline's, one component at a time and without its text encoder."""

import math
import types
from typing import Any

import pytest
import torch
from diffusers import Cosmos2VideoToWorldPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.transformers import transformer_cosmos
from PIL import Image
from torch.nn import functional

from tests import tiny
from tests.model.conftest import Load
from tests.model.helpers import WORLD, encode, user
from theworld import TheWorldConfig
from theworld.model.world_encoders import CosmosWorldEncoder, cosmos
from theworld.model.world_encoders.controls import PatchesWorldEncoder, RandomWorldEncoder, StillWorldEncoder
from theworld.model.world_encoders.cosmos import SETTINGS
from theworld.model.world_encoders.cosmos_sampler import without_padding_mask
from theworld.model.world_encoders.prompt_embeds import stock_negative_prompt
from theworld.model.world_encoders.single_frame import posterior_mode
from theworld.utils.frames import image_frames
from theworld.utils.hub import Source

SIZE = tiny.WORLD_SIZE
PROMPT = "a ball"


def embeds_of(prompt: str) -> torch.Tensor:
    """A stand-in for the T5, another embedding for every prompt."""
    return torch.randn(1, 6, tiny.TEXT_WIDTH, generator=torch.Generator().manual_seed(len(prompt)))


def build(
    encoder: type[CosmosWorldEncoder] = CosmosWorldEncoder, transformer: Any = None, **settings: Any
) -> CosmosWorldEncoder:
    settings = {"num_inference_steps": 4, "guidance_scale": 1.0, "prompt": PROMPT, **settings}
    config = TheWorldConfig(**{SETTINGS[name]: value for name, value in settings.items()})
    made = encoder(tiny.tiny_vae(), config, Source("tiny"), {})
    made.transformer = tiny.tiny_transformer() if transformer is None else transformer
    made.scheduler = tiny.tiny_scheduler()
    made._prompt_embeds = [embeds_of(prompt) for prompt in made.prompts()]
    return made


class Harmless:
    """A guardrail that lets everything pass; latents never reach it."""

    def to(self, device: Any) -> None:
        pass


@pytest.fixture
def pipeline_latents(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stock pipeline's rollout (1, C, T, h, w) of an image, with the VAE's mode in place of a sample."""
    mode = DiagonalGaussianDistribution.mode
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: mode(self))

    def run(image: Image.Image, steps: int, noise: torch.Tensor, transformer: Any, **settings: Any) -> torch.Tensor:
        pipeline = Cosmos2VideoToWorldPipeline(
            text_encoder=None,
            tokenizer=None,
            transformer=transformer,
            vae=tiny.tiny_vae(),
            scheduler=tiny.tiny_scheduler(),
            safety_checker=Harmless(),
        )
        pipeline.set_progress_bar_config(disable=True)
        pipeline.video_processor.register_to_config(resample="lanczos")
        return pipeline(
            image=image,
            prompt_embeds=embeds_of(PROMPT).to(transformer.dtype),
            negative_prompt_embeds=embeds_of(stock_negative_prompt()).to(transformer.dtype),
            height=SIZE,
            width=SIZE,
            num_frames=1 + 4 * steps,
            latents=noise,
            output_type="latent",
            **settings,
        ).frames

    return run


def noise_of(seed: int, steps: int) -> torch.Tensor:
    shape = (1, tiny.LATENT_CHANNELS, 1 + steps, SIZE // 8, SIZE // 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def pixels(images: list[Image.Image]) -> torch.Tensor:
    return image_frames(images, (SIZE, SIZE))


# --------------------------------------------------------------------------------------------- the VAE's door


@pytest.mark.parametrize(("colour", "value"), [("white", 1.0), ("black", -1.0)])
def test_range_at_the_vaes_door(load: Load, monkeypatch: pytest.MonkeyPatch, colour: str, value: float) -> None:
    model = load()
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(
        cosmos, "posterior_mode", lambda vae, frames: (seen.append(frames), posterior_mode(vae, frames))[1]
    )
    image = Image.new("RGB", (50, 30), colour)
    model(**encode(model.processor, [user("Hi?", image)]))
    plain = encode(model.processor, [user("Hi?", image)], use_world=False)
    model(**plain, images=[image])
    model.generate(**plain, images=[image], max_new_tokens=2)
    assert len(seen) == 3
    for frames in seen:
        assert torch.equal(frames, torch.full((1, 3, 1, SIZE, SIZE), value))


def test_pixels_keep_their_place_and_order() -> None:
    image = Image.new("RGB", (8, 8))
    image.putpixel((7, 0), (255, 0, 0))
    image.putpixel((0, 7), (0, 255, 0))
    frame = image_frames([image], (8, 8))[0]
    assert frame.shape == (3, 8, 8)
    assert frame[0, 0, 7] == 1  # red: right of the first row
    assert frame[1, 7, 0] == 1  # green: last row, left
    assert (frame == -1).sum() == frame.numel() - 2


def test_latents_are_the_normalised_mode(pixels: torch.Tensor) -> None:
    encoder = build()
    posterior = encoder.vae.encode(pixels.unsqueeze(2)).latent_dist
    mean = torch.tensor(encoder.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(encoder.vae.config.latents_std).view(1, -1, 1, 1, 1)
    latents = encoder.encode(pixels)
    assert torch.equal(latents, (posterior.mean - mean) / std)
    assert not torch.equal(latents, posterior.mean)
    assert torch.equal(latents, encoder.encode(pixels))  # never a sample


def test_grid_is_told_without_running(pixels: torch.Tensor) -> None:
    encoder = build()
    for steps in (0, 1, 3):
        latents = encoder.encode(pixels[:1], steps)
        assert latents.shape[2:] == encoder.grid(SIZE, SIZE, steps)
        assert latents.shape[1] == encoder.feature_dim
    assert (encoder.spatial_compression, encoder.temporal_compression) == (8, 4)


# --------------------------------------------------------------------------------------------------- rollouts


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_rollout_is_the_stock_pipelines(
    images: list[Image.Image],
    pixels: torch.Tensor,
    pipeline_latents: Any,
    steps: int,
    guidance: float,
    frozen: bool,
) -> None:
    settings = {"num_inference_steps": 5, "guidance_scale": guidance, "fps": 12}
    ours = build(**settings, seed=3).requires_grad_(not frozen).encode(pixels[:1], steps)
    stock = pipeline_latents(images[0], steps, noise_of(3, steps), tiny.tiny_transformer(), **settings)
    assert ours.shape == stock.shape
    same_arithmetic = guidance == 1 and not frozen  # else one batch of both prompts, or a frame encoded as an image
    tolerance = 1e-6 if same_arithmetic else 1e-5
    torch.testing.assert_close(ours[:, :, 1:], stock[:, :, 1:], rtol=0, atol=tolerance)
    torch.testing.assert_close(ours[:, :, :1], stock[:, :, :1], rtol=0, atol=5e-2)  # it stops short of the clean frame


def test_bf16_rollout_is_the_stock_pipelines(
    images: list[Image.Image], pixels: torch.Tensor, pipeline_latents: Any
) -> None:
    half = tiny.tiny_transformer().to(torch.bfloat16)
    ours = build(transformer=half, seed=3).encode(pixels[:1], 2)
    stock = pipeline_latents(
        images[0],
        2,
        noise_of(3, 2),
        tiny.tiny_transformer().to(torch.bfloat16),
        num_inference_steps=4,
        guidance_scale=1.0,
        fps=16,
    )
    torch.testing.assert_close(ours[:, :, 1:], stock[:, :, 1:], rtol=0, atol=1e-2)


def test_guidance_moves_the_rollout(pixels: torch.Tensor) -> None:
    plain, guided = (build(guidance_scale=scale).encode(pixels[:1], 1) for scale in (1.0, 3.0))
    assert not torch.allclose(plain[:, :, 1:], guided[:, :, 1:], atol=1e-3)


@pytest.mark.parametrize(
    "setting", [{"num_inference_steps": 7}, {"fps": 4}, {"prompt": "a falling tower"}, {"seed": 9}]
)
def test_every_setting_reaches_the_sampler(pixels: torch.Tensor, setting: dict[str, Any]) -> None:
    before, after = (build(**how).encode(pixels[:1], 1) for how in ({}, setting))
    assert torch.equal(before[:, :, 0], after[:, :, 0])
    assert not torch.equal(before[:, :, 1:], after[:, :, 1:])


@pytest.fixture
def torchvision_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one function that diffusers takes from torchvision, for a mask."""

    def resize(mask: torch.Tensor, size: list[int], interpolation: str) -> torch.Tensor:
        return functional.interpolate(mask, size=size, mode=interpolation)

    stand_in = types.SimpleNamespace(
        functional=types.SimpleNamespace(resize=resize), InterpolationMode=types.SimpleNamespace(NEAREST="nearest")
    )
    monkeypatch.setattr(transformer_cosmos, "transforms", stand_in, raising=False)


@pytest.mark.usefixtures("torchvision_resize")
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_weights_with_a_padding_mask_channel(
    images: list[Image.Image], pixels: torch.Tensor, pipeline_latents: Any, guidance: float
) -> None:
    """NVIDIA's weights have one; for a whole frame that mask is zero."""
    settings = {"num_inference_steps": 4, "guidance_scale": guidance, "fps": 16}
    stock_transformer = tiny.tiny_transformer(concat_padding_mask=True)
    stock = pipeline_latents(images[0], 2, noise_of(0, 2), stock_transformer, **settings)
    transformer = without_padding_mask(tiny.tiny_transformer(concat_padding_mask=True))
    ours = build(transformer=transformer, **settings).encode(pixels[:1], 2)
    torch.testing.assert_close(ours[:, :, 1:], stock[:, :, 1:], rtol=0, atol=1e-6 if guidance == 1 else 1e-5)


@pytest.mark.parametrize("steps", [0, 2])
def test_batch_equals_its_images_one_by_one(pixels: torch.Tensor, steps: int) -> None:
    encoder = build()
    together = encoder.encode(pixels, steps)
    for row in range(len(pixels)):
        alone = encoder.encode(pixels[row : row + 1], steps)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


def test_current_frame_is_kept_and_the_future_is_new(pixels: torch.Tensor) -> None:
    encoder = build()
    latents = encoder.encode(pixels, 3)
    assert torch.equal(latents[:, :, :1], encoder.encode(pixels))
    for earlier in range(4):
        for later in range(earlier + 1, 4):
            assert not torch.equal(latents[:, :, earlier], latents[:, :, later])


def test_same_seed_same_future(pixels: torch.Tensor) -> None:
    encoder = build(seed=1)
    first = encoder.encode(pixels, 2)
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(encoder.encode(pixels, 2), first)
    assert torch.equal(build(seed=8).encode(pixels, 2, seed=1), first)
    assert not torch.equal(encoder.encode(pixels, 2, seed=2), first)


def test_global_generator_is_left_alone(pixels: torch.Tensor) -> None:
    state = torch.get_rng_state()
    build().encode(pixels, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_scheduler_keeps_no_state(pixels: torch.Tensor) -> None:
    encoder = build()
    encoder.encode(pixels, 1)
    _, scheduler = encoder.dynamics()
    assert scheduler.step_index is None


def test_prompts_of_different_lengths_give_the_same_rollout_one_by_one(pixels: torch.Tensor) -> None:
    encoder = build(guidance_scale=3.0)
    together = encoder.encode(pixels, 1)
    wanted, unwanted = encoder.prompt_embeds()
    encoder._prompt_embeds = [wanted.repeat(1, 2, 1), unwanted]  # attention does not see that a token comes twice
    torch.testing.assert_close(encoder.encode(pixels, 1), together, rtol=0, atol=1e-5)


def test_sampler_makes_as_many_forwards_as_documented(pixels: torch.Tensor) -> None:
    for guidance, prompts in ((1.0, 1), (3.0, 2)):
        encoder = build(guidance_scale=guidance)
        transformer, _ = encoder.dynamics()
        rows: list[int] = []
        transformer.register_forward_hook(lambda *call, rows=rows: rows.append(len(call[2][0])))
        encoder.encode(pixels, 1)
        assert rows == [prompts * len(pixels)] * 4


def test_nothing_is_loaded_without_a_rollout(load: Load, pixels: torch.Tensor) -> None:
    model = load()
    encoder = model.model.world_encoder
    assert encoder.transformer is None
    model.ask(pixels.new_zeros(3, 8, 8), "Hi?", max_new_tokens=2)
    assert encoder.transformer is None
    assert not [name for name, _ in model.named_parameters() if "world_encoder.transformer" in name]
    encoder.encode(pixels, 1)
    assert encoder.transformer is not None
    assert not any(parameter.requires_grad for parameter in encoder.transformer.parameters())


def test_model_that_rolls_out_by_default_has_its_transformer(shared: Load) -> None:
    assert shared(num_world_steps=1).model.world_encoder.transformer is not None


@pytest.mark.parametrize("enabled", [True, False])
def test_gradient_mode_is_left_alone(load: Load, pixels: torch.Tensor, enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        model = load(num_world_steps=1)
        model.model.get_world_features(pixels, 1)
        assert torch.is_grad_enabled() == enabled


def test_frozen_encoder_records_no_graph(load: Load, pixels: torch.Tensor) -> None:
    model = load()
    assert not model.model.world_encoder.encode(pixels, 1).requires_grad


@pytest.mark.parametrize("steps", [0, 1])
def test_trained_vae_gets_its_gradient_through_every_length(load: Load, pixels: torch.Tensor, steps: int) -> None:
    model = load(freeze_cosmos_vae=False)
    latents = model.model.world_encoder.encode(pixels, steps)
    latents[:, :, 0].square().sum().backward()
    assert model.model.world_encoder.vae.encoder.conv_in.weight.grad.any()


def test_decoded_latents_are_frames(pixels: torch.Tensor) -> None:
    encoder = build()
    latents = encoder.encode(pixels, 2)
    frames = encoder.decode(latents)
    assert frames.shape == (3, 1 + 4 * 2, 3, SIZE, SIZE)
    assert frames.min() >= 0
    assert frames.max() <= 1
    vae = encoder.vae
    raw = latents[:, :, :1] * torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    raw = raw + torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    expected = vae.decode(raw).sample[:, :, 0] / 2 + 0.5
    torch.testing.assert_close(frames[:, 0], expected.clamp(0, 1), rtol=0, atol=1e-5)


def test_fingerprint_names_what_the_latents_depend_on() -> None:
    base = build().fingerprint()
    changes: list[dict[str, Any]] = [
        {"num_inference_steps": 5},
        {"guidance_scale": 2.0},
        {"fps": 3},
        {"seed": 1},
        {"prompt": "another"},
        {"encoder": StillWorldEncoder},
        {"encoder": RandomWorldEncoder},
        {"encoder": PatchesWorldEncoder},
    ]
    prints = [build(**change).fingerprint() for change in changes]
    prints.append(build().to(torch.bfloat16).fingerprint())
    assert all(fingerprint != base for fingerprint in prints)
    assert build().fingerprint() == base


def test_settings_of_the_model_reach_the_encoder(load: Load) -> None:
    settings = {"world_seed": 5, "world_fps": 3, "world_prompt": "x", "world_inference_steps": 2}
    encoder = load(**settings, world_guidance_scale=2.5).model.world_encoder
    assert (encoder.seed, encoder.fps, encoder.prompt, encoder.num_inference_steps) == (5, 3, "x", 2)
    assert math.isclose(encoder.guidance_scale, 2.5)
    assert WORLD["world_guidance_scale"] == 1.0


def test_encoder_follows_the_models_dtype(load: Load, images: list[Image.Image]) -> None:
    model = load(dtype=torch.bfloat16, num_world_steps=1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    inputs = encode(model.processor, [user("Hi?", images[0])])
    assert torch.isfinite(model(**inputs).logits).all()
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1
