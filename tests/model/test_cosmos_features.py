"""Features of a block are what the library's own forward has there, with the inputs of the stock pipeline."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.model.conftest import Load
from theworld import TheWorld, TheWorldConfig
from theworld.model.world_encoders import CosmosFeaturesWorldEncoder, CosmosWorldEncoder, cache_fingerprint
from theworld.model.world_encoders.hidden_states import up_to_block
from theworld.utils.hub import Source

SIZE, WIDTH = tiny.WORLD_SIZE, 32


def build(transformer: Any = None, **settings: Any) -> CosmosFeaturesWorldEncoder:
    encoder = CosmosFeaturesWorldEncoder(tiny.tiny_vae(), TheWorldConfig(**settings), Source("tiny"), {})
    encoder.transformer = tiny.tiny_transformer() if transformer is None else transformer
    encoder.scheduler = tiny.tiny_scheduler()
    return encoder.requires_grad_(False)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def stock_features(latents: torch.Tensor, given: int, sigma: float, seed: int, block: int, fps: int) -> torch.Tensor:
    """Hidden states behind `block`, by a hook on the whole library's transformer.

    The inputs are those of the first step of `Cosmos2VideoToWorldPipeline.__call__`, line by line.

    Args:
        latents: (B, C, T, H, W) normalised; the first `given` frames are shown.
    """
    transformer = tiny.tiny_transformer()
    batch, channels, frames, height, width = latents.shape
    noise = torch.randn((1, channels, frames, height, width), generator=torch.Generator().manual_seed(seed))
    cond_indicator = torch.zeros(1, 1, frames, 1, 1)
    cond_indicator[:, :, :given] = 1
    cond_mask = torch.zeros(batch, 1, frames, height, width)
    cond_mask[:, :, :given] = 1
    init_latents = latents * cond_indicator
    # prepare_latents, and one step of the loop
    noisy = noise.repeat(batch, 1, 1, 1, 1) * sigma
    current_t = torch.tensor(sigma) / (torch.tensor(sigma) + 1)
    c_in = 1 - current_t
    cond_latent = cond_indicator * init_latents + (1 - cond_indicator) * (noisy * c_in)
    t_conditioning = 1e-4 / (1e-4 + 1)
    timestep = current_t.view(1, 1, 1, 1, 1).expand(batch, -1, frames, -1, -1)
    timestep = cond_indicator * t_conditioning + (1 - cond_indicator) * timestep
    seen: list[torch.Tensor] = []
    transformer.transformer_blocks[block].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        transformer(
            hidden_states=cond_latent,
            timestep=timestep,
            encoder_hidden_states=torch.zeros(batch, 512, tiny.TEXT_WIDTH),
            fps=fps,
            condition_mask=cond_mask,
        )
    (hidden,) = seen  # (B, T h w, C)
    centred = hidden - hidden.mean(-1, keepdim=True)
    hidden = centred / (hidden.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    return hidden.reshape(batch, frames, height // 2, width // 2, -1).permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("sigma", [80.0, 0.5])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_features_are_the_librarys_own(pixels: torch.Tensor, steps: int, sigma: float, block: int) -> None:
    encoder = build(world_feature_block=block, world_feature_sigma=sigma, world_seed=3, world_fps=12)
    first = encoder.encode_frame(pixels)
    shown = torch.cat([first, first.new_full((1, 1, steps, 1, 1), 7).expand(*first.shape[:2], -1, 4, 4)], dim=2)
    features = encoder.encode(pixels, steps)
    assert features.shape == (3, WIDTH, 1 + steps, SIZE // 16, SIZE // 16)
    expected = stock_features(shown, given=1, sigma=sigma, seed=3, block=block, fps=12)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_features_of_true_frames_are_the_librarys_own() -> None:
    clips = torch.rand(2, 3, 9, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    encoder = build()
    latents = encoder._encode_video(clips)
    expected = stock_features(latents, given=3, sigma=80.0, seed=0, block=1, fps=16)
    torch.testing.assert_close(encoder.encode_clip(clips), expected, rtol=0, atol=1e-5)
    assert torch.equal(build(world_seed=5, world_feature_sigma=1.0).encode_clip(clips), encoder.encode_clip(clips))


def test_no_block_named_is_the_last_and_later_blocks_do_not_run(pixels: torch.Tensor) -> None:
    assert torch.equal(build().encode(pixels, 1), build(world_feature_block=1).encode(pixels, 1))
    encoder = build(world_feature_block=0)
    transformer, _ = encoder.dynamics()
    ran: list[int] = []
    for place, block in enumerate(transformer.transformer_blocks):
        block.register_forward_hook(lambda *_, place=place: ran.append(place))
    encoder.encode(pixels, 1)
    assert ran == [0]
    up_to_block(transformer, 0, "transformer_blocks")
    assert len(transformer.transformer_blocks) == 2
    assert type(transformer.norm_out).__name__ == "CosmosAdaLayerNorm"


@pytest.mark.parametrize("steps", [0, 2])
def test_every_position_is_normalised(pixels: torch.Tensor, steps: int) -> None:
    features = build().encode(pixels, steps)
    torch.testing.assert_close(features.mean(1), torch.zeros(()).expand_as(features[:, 0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(features.var(1, correction=0), torch.ones_like(features[:, 0]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("steps", [0, 2])
def test_batch_equals_its_images_one_by_one(pixels: torch.Tensor, steps: int) -> None:
    encoder = build()
    torch.testing.assert_close(
        encoder.encode(pixels, steps), encoder.encode_one_by_one(pixels, steps), rtol=0, atol=1e-5
    )


def test_seed_decides_the_future(pixels: torch.Tensor) -> None:
    encoder, state = build(world_seed=1), torch.get_rng_state()
    features = encoder.encode(pixels, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(encoder.encode(pixels, 2), features)
    assert torch.equal(build(world_seed=8).encode(pixels, 2, seed=1), features)
    assert not torch.equal(encoder.encode(pixels, 2, seed=2), features)
    assert torch.equal(encoder.encode(pixels, seed=2), encoder.encode(pixels))  # without a future, no noise


def test_sizes_are_told_without_running(pixels: torch.Tensor) -> None:
    encoder = build()
    for steps in (0, 1, 3):
        features = encoder.encode(pixels[:1], steps)
        assert (encoder.feature_dim, *encoder.grid(SIZE, SIZE, steps)) == tuple(features.shape[1:])
    with pytest.raises(ValueError, match="set world_image_size to a multiple of 16"):
        encoder.grid(SIZE + 8, SIZE, 0)


def test_fingerprint_names_what_the_features_depend_on() -> None:
    base = build().fingerprint()
    changes: list[dict[str, Any]] = [
        {"world_feature_block": 0},
        {"world_feature_sigma": 2.0},
        {"world_seed": 1},
        {"world_fps": 4},
    ]
    prints = [build(**change).fingerprint() for change in changes]
    prints.append(build().to(torch.bfloat16).fingerprint())
    assert all(fingerprint != base for fingerprint in prints)
    assert build(world_feature_block=1, world_inference_steps=3).fingerprint() == base


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"world_prompt": ""}, "world_prompt='': cosmos_features takes no text"),
        ({"world_guidance_scale": 7.0}, "world_guidance_scale=7.0: cosmos_features runs one forward"),
        ({"world_feature_block": 2}, "world_feature_block=2: the transformer has the blocks 0 to 1"),
        ({"world_image_size": 40}, "set world_image_size to a multiple of 16"),
    ],
)
def test_what_it_cannot_do_is_said_when_it_is_loaded(load: Load, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(world_encoder="cosmos_features", **settings)


def test_it_does_not_decode(pixels: torch.Tensor) -> None:
    encoder = build()
    assert not encoder.can_decode
    with pytest.raises(ValueError, match="cannot decode"):
        encoder.decode(encoder.encode(pixels))


def test_its_transformer_is_loaded_and_counted_without_a_future(load: Load, cosmos_folder: Path) -> None:
    model = load(world_encoder="cosmos_features")
    encoder = model.model.world_encoder
    held = sum(parameter.numel() for parameter in encoder.parameters())
    assert CosmosFeaturesWorldEncoder.parameter_count(model.config, Source(str(cosmos_folder))) == held
    assert CosmosWorldEncoder.parameter_count(model.config, Source(str(cosmos_folder))) < held
    assert encoder.fingerprint()["block"] == 1
    before = cache_fingerprint(encoder, model.config)
    with torch.no_grad():
        encoder.transformer.transformer_blocks[0].ff.net[2].weight.add_(1)
    assert cache_fingerprint(encoder, model.config) != before


@pytest.mark.parametrize("frozen", [True, False])
def test_a_trained_vae_gets_its_gradient_through_the_transformer(load: Load, frozen: bool) -> None:
    model = load(world_encoder="cosmos_features", freeze_cosmos_vae=frozen)
    encoder = model.model.world_encoder
    features = encoder.encode(torch.rand(1, 3, SIZE, SIZE), 1)
    assert features.requires_grad != frozen
    assert not any(parameter.requires_grad for parameter in encoder.transformer.parameters())
    if not frozen:
        features[:, 0, 1].sum().backward()
        assert encoder.vae.encoder.conv_in.weight.grad.any()


def test_bf16_features_are_close_to_the_fp32_ones(pixels: torch.Tensor) -> None:
    half = build(transformer=tiny.tiny_transformer().to(torch.bfloat16)).to(torch.bfloat16)
    features = half.encode(pixels, 2)
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(features.float(), build().encode(pixels, 2), rtol=0, atol=0.1)


def test_weights_with_a_padding_mask_channel(load: Load, cosmos_folder: Path, tmp_path: Path) -> None:
    """NVIDIA's weights have one, which the condition mask stands in for; a full save keeps it."""
    folder = tmp_path / "cosmos"
    tiny.write_tiny_cosmos(folder)
    tiny.tiny_transformer(concat_padding_mask=True).save_pretrained(folder / "transformer")
    model = load(world_encoder="cosmos_features", cosmos_model_name=str(folder))
    pixels = torch.rand(1, 3, SIZE, SIZE)
    features = model.model.world_encoder.encode(pixels, 1)
    model.save_pretrained(tmp_path / "full", full=True)
    again = TheWorld.from_pretrained(tmp_path / "full")
    assert torch.equal(again.model.world_encoder.encode(pixels, 1), features)
