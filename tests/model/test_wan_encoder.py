"""The features are those of diffusers' own forward, at the inputs that its Wan pipelines prepare."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from diffusers.models.normalization import FP32LayerNorm
from PIL import Image
from torch.nn import functional
from transformers import AutoTokenizer, UMT5EncoderModel

from tests import tiny
from tests.hub_server import Hub
from tests.model.helpers import encode, user
from theworld import TheWorld, TheWorldConfig
from theworld.model.world_encoders import WORLD_ENCODERS, WanLatentsWorldEncoder, WanWorldEncoder
from theworld.model.world_encoders.prompt_embeds import encode_prompts
from theworld.utils.frames import image_frames
from theworld.utils.hub import Source

SIZE = 64
SIGMA = {"Wan2.1-T2V": 0.43, "Wan2.2-TI2V": 80.0, "Wan2.2-I2V": 80.0}
KINDS = list(tiny.WAN)

Build = Callable[..., WanWorldEncoder]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: tiny.write_tiny_wan(tmp_path_factory.mktemp(kind), kind, with_text_encoder=True) for kind in KINDS}


@pytest.fixture(scope="module")
def build(folders: dict[str, Path]) -> Build:
    """The encoder of a kind, with fields of the config without their `world_`."""

    def make(kind: str, key: str = "wan", **fields: Any) -> Any:
        given = {f"world_{name}": value for name, value in {"feature_sigma": SIGMA[kind], **fields}.items()}
        encoder = WORLD_ENCODERS[key]
        return encoder.from_pretrained(TheWorldConfig(**given), Source(str(folders[kind])), dtype=torch.float32).eval()

    return make


@pytest.fixture(scope="module")
def pixels(images: list[Image.Image]) -> torch.Tensor:
    return image_frames(images, (SIZE, SIZE))


@pytest.fixture
def components(folders: dict[str, Path]) -> Callable[[str, str], tuple[Any, Any]]:
    """The VAE and a transformer of a kind, as diffusers loads them."""
    return lambda kind, name: (
        AutoencoderKLWan.from_pretrained(folders[kind] / "vae").eval(),
        WanTransformer3DModel.from_pretrained(folders[kind] / name).eval(),
    )


def stock_latents(vae: Any, frames: torch.Tensor) -> torch.Tensor:
    latents = vae.encode(frames).latent_dist.mode()
    mean, std = (torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (latents - mean) / std


def hooked(transformer: Any, block: int, rows: int, **inputs: torch.Tensor) -> torch.Tensor:
    """Layer-normalised output of a block in the library's own, whole forward."""
    seen: list[torch.Tensor] = []
    handle = transformer.blocks[block].register_forward_hook(lambda module, args, output: seen.append(output))
    transformer(**inputs)
    handle.remove()
    hidden = functional.layer_norm(seen[0], seen[0].shape[-1:])
    frames = inputs["hidden_states"].shape[2]
    return hidden.view(len(hidden), frames, rows, -1, hidden.shape[-1]).permute(0, 4, 1, 2, 3)


def noise_of(seed: int, like: torch.Tensor, frames: int) -> torch.Tensor:
    shape = (1, like.shape[1], frames, *like.shape[-2:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


NO_TEXT = torch.zeros(1, 512, tiny.TEXT_WIDTH)


# ---------------------------------------------------------------------------------- the library's own forward


@pytest.mark.parametrize("block", [0, 2])
@pytest.mark.parametrize("steps", [0, 2])
@torch.no_grad()
def test_wan_22_ti2v(pixels: torch.Tensor, build: Build, components: Any, steps: int, block: int) -> None:
    """As `WanImageToVideoPipeline` with `expand_timesteps`: the frame clean at timestep 0, the others noise."""
    vae, transformer = components("Wan2.2-TI2V", "transformer")
    pipeline = WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=None, transformer=transformer, expand_timesteps=True
    )
    time = 80 / 81
    noise = time * noise_of(0, stock_latents(vae, pixels[:1].unsqueeze(2)), 1 + steps)
    latents, condition, mask = pipeline.prepare_latents(
        pixels[:1], 1, 48, SIZE, SIZE, 1 + 4 * steps, torch.float32, torch.device("cpu"), latents=noise
    )
    model_input = (1 - mask) * condition + mask * latents
    timestep = (mask[0][0][:, ::2, ::2] * 1000 * time).flatten().unsqueeze(0)
    expected = hooked(
        transformer, block, 2, hidden_states=model_input, timestep=timestep, encoder_hidden_states=NO_TEXT
    )
    ours = build("Wan2.2-TI2V", feature_block=block).encode(pixels[:1], steps)
    assert ours.shape == (1, 24, 1 + steps, 2, 2)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(("sigma", "name"), [(80.0, "transformer"), (2.0, "transformer_2")])
@torch.no_grad()
def test_wan_22_i2v(pixels: torch.Tensor, build: Build, components: Any, sigma: float, name: str, steps: int) -> None:
    """As `WanImageToVideoPipeline` with a `boundary_ratio`: the frame in channels, all frames at one timestep."""
    vae, transformer = components("Wan2.2-I2V", name)
    pipeline = WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=None, transformer=transformer, boundary_ratio=0.9
    )
    time, image = sigma / (sigma + 1) if steps else {"transformer": 0.9, "transformer_2": 0.0}[name], pixels[:1]
    first = stock_latents(vae, image.unsqueeze(2))
    clean = torch.cat([first, *[torch.zeros_like(first)] * steps], dim=2)
    noisy = (1 - time) * clean + time * noise_of(0, first, 1 + steps)
    latents, condition = pipeline.prepare_latents(
        image, 1, 16, SIZE, SIZE, 1 + 4 * steps, torch.float32, torch.device("cpu"), latents=noisy
    )
    expected = hooked(
        transformer,
        2,
        4,
        hidden_states=torch.cat([latents, condition], dim=1),
        timestep=torch.tensor([1000 * time]),
        encoder_hidden_states=NO_TEXT,
    )
    ours = build("Wan2.2-I2V", feature_sigma=sigma).encode(image, steps)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1])
@torch.no_grad()
def test_wan_21_t2v(pixels: torch.Tensor, build: Build, components: Any, steps: int) -> None:
    """All frames at one noise level and timestep, as text to video is trained; K = 0 is the tap of VEGA-3D."""
    vae, transformer = components("Wan2.1-T2V", "transformer")
    first = stock_latents(vae, pixels[:1].unsqueeze(2))
    time = 0.43 / 1.43
    clean = torch.cat([first, *[torch.zeros_like(first)] * steps], dim=2)
    expected = hooked(
        transformer,
        1,
        4,
        hidden_states=(1 - time) * clean + time * noise_of(5, first, 1 + steps),
        timestep=torch.tensor([1000 * time]),
        encoder_hidden_states=NO_TEXT,
    )
    ours = build("Wan2.1-T2V", feature_block=1, seed=5).encode(pixels[:1], steps)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert round(1000 * time) == 301


@pytest.mark.parametrize(("kind", "size"), [("Wan2.1-T2V", 8), ("Wan2.2-TI2V", 4)])
@torch.no_grad()
def test_latents_are_the_normalised_mode(
    pixels: torch.Tensor, build: Build, components: Any, kind: str, size: int
) -> None:
    vae, _ = components(kind, "transformer")
    encoder = build(kind, "wan_latents")
    latents = encoder.encode(pixels)
    assert latents.shape == (3, {"Wan2.1-T2V": 16, "Wan2.2-TI2V": 48}[kind], 1, size, size)
    torch.testing.assert_close(latents, stock_latents(vae, pixels.unsqueeze(2)), rtol=0, atol=1e-5)
    assert encoder.decode(latents).shape == (3, 1, 3, SIZE, SIZE)


@pytest.mark.parametrize("prompt", ["", "a ball falls"])
def test_embedding_is_the_stock_pipelines(folders: dict[str, Path], prompt: str) -> None:
    folder = folders["Wan2.1-T2V"]
    pipeline = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        vae=tiny.tiny_vae(),
        scheduler=None,
    )
    (ours,) = encode_prompts(str(folder), [prompt], device=torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(ours, pipeline._get_t5_prompt_embeds(prompt, max_sequence_length=512))
    assert prompt or (ours.abs().sum(-1) > 0).sum() == 1


# --------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("kind", KINDS)
def test_grid_batch_and_seed(pixels: torch.Tensor, build: Build, kind: str) -> None:
    encoder = build(kind)
    features = encoder.encode(pixels, 2)
    assert features.shape == (3, encoder.feature_dim, *encoder.grid(SIZE, SIZE, 2))
    torch.testing.assert_close(encoder.encode(pixels[1:2], 2), features[1:2], rtol=0, atol=1e-5)
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(encoder.encode(pixels, 2), features)
    assert torch.equal(build(kind, seed=4).encode(pixels, 2, seed=0), features)
    assert not torch.equal(encoder.encode(pixels, 2, seed=4), features)
    both = encoder.encode(pixels[:1].expand(2, -1, -1, -1), 2, seed=[0, 4])
    torch.testing.assert_close(both[:1], features[:1], rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1:], encoder.encode(pixels[:1], 2, seed=4), rtol=0, atol=1e-5)
    assert features.mean(1).abs().max() < 1e-5
    torch.testing.assert_close(features.var(1, unbiased=False), torch.ones(3, *features.shape[2:]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_reaches_every_frame(pixels: torch.Tensor, build: Build, kind: str) -> None:
    features = build(kind).encode(pixels, 2)
    for frame in range(3):
        assert (features[0, :, frame] - features[1, :, frame]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("kind", "sigma", "times"),
    [
        ("Wan2.2-TI2V", 80.0, [0, 0]),
        ("Wan2.2-I2V", 80.0, [0.9, 0.9]),  # the transformer for much noise was trained from 0.9 on
        ("Wan2.2-I2V", 2.0, [0, 0]),
        ("Wan2.1-T2V", 1.0, [0.5, 0.5]),  # was trained on frames of one level only
    ],
)
def test_given_frames_have_the_least_noise(
    pixels: torch.Tensor, build: Build, kind: str, sigma: float, times: list[float]
) -> None:
    encoder = build(kind, feature_sigma=sigma)
    assert encoder.times(2, 2) == times
    same = torch.equal(encoder.encode(pixels, 0, seed=1), encoder.encode(pixels, 0, seed=2))
    assert same == (times[0] == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_clips(pixels: torch.Tensor, build: Build, kind: str) -> None:
    encoder = build(kind)
    clip = torch.stack([pixels[:1]] + [pixels[1:2]] * 4, dim=2)
    features = encoder.encode_clip(clip)
    assert features.shape == (1, encoder.feature_dim, *encoder.grid(SIZE, SIZE, 1))
    assert not torch.allclose(features[:, :, 1], encoder.encode(pixels[:1], 1)[:, :, 1], atol=1e-3)
    still = encoder.encode_clip(pixels[:1].unsqueeze(2))
    assert torch.equal(still, encoder.encode(pixels[:1]))


def test_fingerprint_names_what_the_features_depend_on(build: Build) -> None:
    kind = "Wan2.2-TI2V"
    base = build(kind).fingerprint()
    changes: list[dict[str, Any]] = [{"feature_block": 1}, {"feature_sigma": 3.0}, {"seed": 1}, {"prompt": ""}]
    changes += [{"key": "wan_latents"}]
    prints = [build(kind, **change).fingerprint() for change in changes]
    prints.append(build(kind).to(torch.bfloat16).fingerprint())
    assert all(fingerprint != base for fingerprint in prints)
    assert build(kind, inference_steps=3, feature_block=2).fingerprint() == base
    json.dumps(base)


def test_prompt_reaches_the_features(pixels: torch.Tensor, build: Build) -> None:
    texts = [build("Wan2.2-TI2V", prompt=prompt).encode(pixels[:1], 1) for prompt in (None, "", "a ball")]
    for earlier, later in ((0, 1), (1, 2)):
        assert not torch.allclose(texts[earlier], texts[later], atol=1e-6)


def test_blocks_behind_the_last_are_not_held(build: Build, folders: dict[str, Path], pixels: torch.Tensor) -> None:
    encoder = build("Wan2.2-TI2V", feature_block=0)
    names = encoder.state_dict().keys()
    encoder.encode(pixels)
    assert encoder.state_dict().keys() == names  # the view that keeps hidden states is of one call
    assert isinstance(encoder.transformer.norm_out, FP32LayerNorm)
    assert len(encoder.transformer.blocks) == 1
    source = Source(str(folders["Wan2.2-TI2V"]))
    for config in (TheWorldConfig(world_feature_block=0), TheWorldConfig(world_feature_block=0, num_world_steps=2)):
        assert WanWorldEncoder.parameter_count(config, source) == sum(p.numel() for p in encoder.parameters())
    latents = build("Wan2.2-TI2V", "wan_latents")
    counted = WanLatentsWorldEncoder.parameter_count(TheWorldConfig(), source)
    assert counted == sum(p.numel() for p in latents.parameters())


def test_calls_side_by_side_do_not_mix(pixels: torch.Tensor, build: Build) -> None:
    from concurrent.futures import ThreadPoolExecutor

    encoder = build("Wan2.2-TI2V")
    encoder.vae.requires_grad_(False)  # diffusers' own encoding, of a VAE that trains, keeps state between frames
    encode = partial(encoder.encode, num_world_steps=1)
    alone = [encode(frame) for frame in pixels.split(1)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(encode, pixels.split(1) * 5))
    for index, features in enumerate(together):
        torch.testing.assert_close(features, alone[index % 3], rtol=0, atol=1e-5)


def test_bf16(pixels: torch.Tensor, folders: dict[str, Path], build: Build) -> None:
    kind = "Wan2.2-TI2V"
    half = WanWorldEncoder.from_pretrained(TheWorldConfig(), Source(str(folders[kind])), dtype=torch.bfloat16)
    features = half.encode(pixels, 1)
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(features.float(), build(kind).encode(pixels, 1), rtol=0, atol=0.3)


# ------------------------------------------------------------------------------------------------- the model


def load(gemma: Path, wan: Path, **fields: Any) -> TheWorld:
    fields = {"world_encoder": "wan", "world_image_size": SIZE, **fields}
    return TheWorld.from_pretrained(gemma, cosmos_model_name=str(wan), **fields)


@pytest.mark.parametrize("fields", [{}, {"world_prompt": ""}, {"world_feature_block": 1, "num_world_steps": 2}])
@pytest.mark.parametrize(("kind", "sigma"), [("Wan2.2-TI2V", 80.0), ("Wan2.2-I2V", 2.0)])
def test_standalone_checkpoint(
    gemma_folder: Path, folders: dict[str, Path], images: Any, tmp_path: Path, kind: str, sigma: float, fields: Any
) -> None:
    wan = tmp_path / "wan"
    shutil.copytree(folders[kind], wan)
    model = load(gemma_folder, wan, world_feature_sigma=sigma, **fields)
    inputs = encode(model.processor, [user("Hi?", images[0])], num_world_steps=1)
    expected = model(**inputs).logits
    model.save_pretrained(tmp_path / "full", full=True)
    shutil.rmtree(wan)
    # Weights of fewer blocks lie elsewhere in their file, and some kernels round by the place in memory
    again = TheWorld.from_pretrained(tmp_path / "full")(**inputs).logits
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5 if "world_feature_block" in fields else 0)
    assert not (tmp_path / "full" / "cosmos" / "text_encoder").exists()


def test_from_the_hub(hub: Hub, gemma_folder: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    """Only the transformer for the noise level is downloaded, and the checkpoint keeps to the commit."""
    commit = hub.publish("Wan-AI/tiny", folders["Wan2.2-I2V"]).commits[-1].id
    model = TheWorld.from_pretrained(
        gemma_folder,
        cosmos_model_name="Wan-AI/tiny",
        world_encoder="wan",
        world_image_size=SIZE,
        world_feature_sigma=2.0,
        token=hub.token,
    )
    assert (model.config.cosmos_model_name, model.config.cosmos_revision) == ("Wan-AI/tiny", commit)
    got = {request.rpartition("/resolve/")[2].partition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert {"vae/diffusion_pytorch_model.safetensors", "transformer_2/diffusion_pytorch_model.safetensors"} <= got
    assert not any(name.startswith(("transformer/", "text_encoder/", "tokenizer/")) for name in got)


def test_card_names_apache(gemma_folder: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    load(gemma_folder, folders["Wan2.2-TI2V"]).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "license_name: gemma-terms-and-apache-2.0" in card
    assert "Wan under the Apache License 2.0" in card
    assert "NVIDIA" not in card


def test_trained_vae_gets_its_gradient(gemma_folder: Path, folders: dict[str, Path], pixels: torch.Tensor) -> None:
    encoder: Any = load(gemma_folder, folders["Wan2.2-TI2V"], freeze_cosmos_vae=False).model.world_encoder
    encoder.encode(pixels, 1).square().mul(torch.linspace(0, 1, encoder.feature_dim).view(-1, 1, 1, 1)).sum().backward()
    assert encoder.vae.encoder.conv_in.weight.grad.any()
    assert all(parameter.grad is None for parameter in encoder.transformer.parameters())


# --------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("Wan2.2-TI2V", {"world_feature_block": 3}, r"world_feature_block=3: the transformer has the blocks 0 to 2"),
        ("Wan2.2-TI2V", {"world_guidance_scale": 2.0}, r"world_guidance_scale=2.0: .*without guidance"),
        ("Wan2.1-T2V", {}, r"world_feature_sigma=80.0: .* one noise level for all frames.* at most 9, such as 0.43"),
        ("Wan2.2-TI2V", {"world_encoder": "wan_latents", "num_world_steps": 2}, r"num_world_steps=2: wan_latents"),
        ("Wan2.2-TI2V", {"world_image_size": 48}, r"world_image_size=\[48, 48\]: .* multiples of 32"),
        ("Wan2.2-TI2V", {"world_image_size": 24, "world_encoder": "wan_latents"}, r"multiples of 16"),
    ],
)
def test_refused(gemma_folder: Path, folders: dict[str, Path], kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load(gemma_folder, folders[kind], **fields)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["wan", "wan_latents"])
def test_cosmos_repository(gemma_folder: Path, cosmos_folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match="holds a Cosmos2VideoToWorldPipeline; set cosmos_model_name to a Wan repo"):
        load(gemma_folder, cosmos_folder, world_encoder=key)


def test_image_encoder(gemma_folder: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    """Wan 2.1's image-to-video models see the image through CLIP as well."""
    shutil.copytree(folders["Wan2.2-I2V"], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "transformer" / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "image_dim": 8}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"in_channels=36, image_dim=8: expected .* no image encoder"):
        load(gemma_folder, tmp_path)


@pytest.mark.parametrize(
    ("file", "fields"),
    [("model_index.json", {"boundary_ratio": "x"}), ("transformer/config.json", {"num_layers": "x"})],
)
def test_damaged(
    gemma_folder: Path, folders: dict[str, Path], tmp_path: Path, file: str, fields: dict[str, Any]
) -> None:
    shutil.copytree(folders["Wan2.2-I2V"], tmp_path, dirs_exist_ok=True)
    path = tmp_path / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")
    with pytest.raises(ValueError, match="download it again") as raised:
        load(gemma_folder, tmp_path)
    assert "\n" not in str(raised.value)


def test_old_configs_without_fields_of_today(
    folders: dict[str, Path], tmp_path: Path, pixels: torch.Tensor, build: Build
) -> None:
    """As Wan 2.1's repositories have them."""
    kind = "Wan2.1-T2V"
    shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
    for name, fields in {
        "transformer": ("image_dim", "pos_embed_seq_len"),
        "vae": ("scale_factor_spatial", "patch_size"),
    }.items():
        path = tmp_path / name / "config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(
            json.dumps({key: value for key, value in settings.items() if key not in fields}), encoding="utf-8"
        )
    config = TheWorldConfig(world_feature_sigma=SIGMA[kind])
    encoder = WanWorldEncoder.from_pretrained(config, Source(str(tmp_path)), dtype=torch.float32)
    assert torch.equal(encoder.encode(pixels), build(kind).encode(pixels))


def test_later_calls_for_the_future_of_latents(build: Build, pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="num_world_steps=1: wan_latents encodes the current frame only"):
        build("Wan2.2-TI2V", "wan_latents").encode(pixels, 1)
