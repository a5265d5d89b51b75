"""V-JEPA 2 features are those of the library's own forward, at every image size, alone and in a batch."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import VJEPA2Model
from transformers.models.vjepa2.video_processing_vjepa2 import VJEPA2VideoProcessor

from tests import tiny
from tests.hub_server import Hub
from tests.model.helpers import encode, user
from tests.training.runs import tiny_run
from theworld import TheWorld, TheWorldConfig
from theworld.constants import DEFAULT_COSMOS_MODEL
from theworld.model.world_encoders.vjepa2 import VJEPA2WorldEncoder
from theworld.training.rows import clip_settings
from theworld.training.run import train
from theworld.utils.hub import Source

SIZE, PATCH, WIDTH = 32, 8, 24
N = (SIZE // PATCH) ** 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A V-JEPA 2 repository whose crop size is not that of these images."""
    folder = tmp_path_factory.mktemp("vjepa2")
    tiny.tiny_vjepa2().save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(folder: Path) -> VJEPA2WorldEncoder:
    config = TheWorldConfig(world_encoder="vjepa2", world_image_size=SIZE)
    return VJEPA2WorldEncoder.from_pretrained(config, Source(str(folder)), dtype=torch.float32).eval()


@pytest.fixture
def stock(folder: Path) -> VJEPA2Model:
    """The library's model of the same weights, told the size of these images."""
    return VJEPA2Model.from_pretrained(folder, crop_size=SIZE).eval()


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.rand(2, 3, 5, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def stock_video(frames: torch.Tensor) -> torch.Tensor:
    """(B, 3, F, H, W) in [-1, 1] as V-JEPA 2's own processor normalises it: (B, F, 3, H, W)."""
    processor = VJEPA2VideoProcessor
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    return ((frames.transpose(1, 2) + 1) / 2 - mean) / std


def as_features(tokens: torch.Tensor) -> torch.Tensor:
    side = SIZE // PATCH
    return functional.layer_norm(tokens, (WIDTH,)).view(len(tokens), -1, side, side, WIDTH).permute(0, 4, 1, 2, 3)


@torch.no_grad()
def test_present_and_future_are_the_librarys(encoder: Any, stock: Any, clips: torch.Tensor) -> None:
    pixels = clips[:, :, 0]
    present = stock(stock_video(pixels.unsqueeze(2)), skip_predictor=True).last_hidden_state  # repeats one frame itself
    places = torch.arange(3 * N).expand(2, -1)
    predicted = stock.predictor(present, context_mask=[places[:, :N]], target_mask=[places[:, N:]]).last_hidden_state
    features = encoder.encode(pixels, 2)
    assert features.shape == (2, WIDTH, *encoder.grid(SIZE, SIZE, 2)) == (2, WIDTH, 3, 4, 4)
    torch.testing.assert_close(features, as_features(torch.cat([present, predicted], dim=1)))
    torch.testing.assert_close(encoder.encode(pixels), features[:, :, :1])
    assert not torch.allclose(features[:, :, 1], features[:, :, 2])  # each step has its own positions


@torch.no_grad()
def test_a_clip_is_the_librarys_but_its_present_is_alone(encoder: Any, stock: Any, clips: torch.Tensor) -> None:
    video = stock_video(torch.cat([clips[:, :, :1], clips], dim=2))
    features = encoder.encode_clip(clips)
    assert features.shape == (2, WIDTH, 3, 4, 4)
    torch.testing.assert_close(features[:, :, 1:], as_features(stock(video).last_hidden_state)[:, :, 1:])
    assert torch.equal(features[:, :, :1], encoder.encode(clips[:, :, 0]))
    assert torch.equal(encoder.encode_clip(clips[:, :, :1]), features[:, :, :1])
    with pytest.raises(ValueError, match=r"a clip of 4 frames: V-JEPA 2 takes 1 \+ 2 K"):
        encoder.encode_clip(clips[:, :, :4])


@torch.no_grad()
def test_positions_are_those_of_the_image_size(encoder: Any, folder: Path, clips: torch.Tensor) -> None:
    at_crop_size = VJEPA2Model.from_pretrained(folder).eval()
    video = stock_video(clips[:, :, :1])
    wrong = at_crop_size(video, skip_predictor=True).last_hidden_state
    assert not torch.allclose(encoder.encode(clips[:, :, 0]), as_features(wrong), atol=1e-3)
    large = functional.interpolate(clips[:, :, 0], (64, 64))
    own = at_crop_size(stock_video(large.unsqueeze(2)), skip_predictor=True).last_hidden_state
    torch.testing.assert_close(
        encoder.encode(large)[:, :, 0].flatten(2).transpose(1, 2), functional.layer_norm(own, (WIDTH,))
    )


@torch.no_grad()
def test_an_image_has_the_same_features_alone_and_in_a_batch(encoder: Any, clips: torch.Tensor) -> None:
    pixels = clips[:, :, 0]
    features = encoder.train().encode(pixels, 2)
    torch.testing.assert_close(encoder.encode(pixels[1:], 2), features[1:])
    assert torch.equal(encoder.encode(pixels, 2, seed=5), features)
    assert torch.equal(encoder.encode_one_by_one(pixels, 2)[1:], encoder.encode(pixels[1:], 2))
    assert not torch.allclose(features[0], features[1])
    assert features.mean(1).abs().max() < 1e-5
    assert (features.var(1, correction=0) - 1).abs().max() < 1e-2


def test_it_is_frozen_saved_whole_and_said_in_the_card(
    gemma_folder: Path, folder: Path, images: list[Image.Image], tmp_path: Path
) -> None:
    settings = {"world_encoder": "vjepa2", "cosmos_model_name": str(folder), "world_image_size": SIZE}
    model = TheWorld.from_pretrained(gemma_folder, num_world_steps=2, **settings)
    encoder = model.model.world_encoder
    assert encoder is not None
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    source, config = Source(str(folder)), model.config
    assert encoder.parameter_count(config, source) == sum(parameter.numel() for parameter in encoder.parameters())
    assert (config.world_spatial_compression, config.world_temporal_compression) == (PATCH, 2)
    model.save_pretrained(tmp_path / "full", full=True)
    saved = json.loads((tmp_path / "full" / "cosmos" / "config.json").read_text(encoding="utf-8"))
    assert saved["crop_size"] == 64
    assert str(folder) not in json.dumps(saved)
    card = (tmp_path / "full" / "README.md").read_text(encoding="utf-8")
    assert "license_name: gemma-terms-and-mit-or-apache-2.0" in card
    assert "V-JEPA 2 under MIT or Apache-2.0" in card
    assert "NVIDIA" not in card
    inputs = encode(model.processor, [user("Hi?", images[0])])
    again = TheWorld.from_pretrained(shutil.move(tmp_path / "full", tmp_path / "moved"))
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)


def test_alignment_takes_clips_at_its_own_rate(gemma_folder: Path, folder: Path, tmp_path: Path) -> None:
    video = tmp_path / "videos" / "0"
    video.mkdir(parents=True)
    for place in range(10):
        Image.effect_noise((SIZE, SIZE), 20 + 10 * place).convert("RGB").save(video / f"{place}.png")
    keys = {"world_encoder": "vjepa2", "num_world_steps": 2, "max_steps": 1, "objective": "align", "image_folder": None}
    keys |= {"dataset_name": "video", "train_dataset_path": str(video.parent), "gradient_accumulation_steps": 1}
    config = tiny_run(tmp_path, gemma_folder, folder, **keys)
    assert clip_settings(config, "video", None) == {"clip_frames": 5, "frames_per_step": 2, "clip_fps": 4}
    assert train(config).step == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights.pop("predictor.proj.bias"), r"missing keys: predictor\.proj\.bias"),
        (lambda weights: weights.update({"more.weight": torch.zeros(2)}), r"unexpected keys: more\.weight"),
        (
            lambda weights: weights.update({"predictor.proj.bias": torch.zeros(3)}),
            r"mismatched keys: predictor\.proj\.bias \(3,\) in place of \(24,\)",
        ),
    ],
)
def test_wrong_weights_are_refused(gemma_folder: Path, folder: Path, tmp_path: Path, damage: Any, message: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    damage(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        TheWorld.from_pretrained(
            gemma_folder, world_encoder="vjepa2", cosmos_model_name=str(tmp_path), world_image_size=SIZE
        )


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        ({}, {"world_image_size": [32, 64]}, r"an image of 32 x 64: V-JEPA 2 takes squares"),
        (
            {},
            {"cosmos_model_name": DEFAULT_COSMOS_MODEL},
            r"the default: expected .*such as 'facebook/vjepa2-vitl-fpc6",
        ),
        ({}, {"world_prompt": "a ball"}, "world_prompt='a ball': vjepa2 takes no text"),
        ({}, {"world_guidance_scale": 7.0}, "world_guidance_scale=7.0: vjepa2 runs one forward without guidance"),
        ({"tubelet_size": 4}, {}, r"tubelet_size=4; .* expects 2"),
        ({"model_type": "vit"}, {}, r"model type 'vit'; .* set cosmos_model_name to one"),
    ],
)
def test_what_it_cannot_encode_is_refused(
    gemma_folder: Path, folder: Path, tmp_path: Path, config: Any, settings: Any, message: str
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **config}), encoding="utf-8")
    given = {"world_encoder": "vjepa2", "cosmos_model_name": str(tmp_path), "world_image_size": SIZE, **settings}
    with pytest.raises(ValueError, match=message):
        TheWorld.from_pretrained(gemma_folder, **given)


@pytest.mark.parametrize("gated", [False, True])
def test_it_comes_from_the_hub_at_a_commit(
    hub: Hub, gemma_folder: Path, folder: Path, tmp_path: Path, gated: bool
) -> None:
    hub.publish("facebook/tiny", folder, gated=gated)
    given: dict[str, Any] = {"world_encoder": "vjepa2", "cosmos_model_name": "facebook/tiny", "world_image_size": SIZE}
    given["cache_dir"] = str(tmp_path / "cache")
    if gated:
        with pytest.raises(OSError, match="facebook/tiny: you have no access to this gated repository"):
            TheWorld.from_pretrained(gemma_folder, **given)
        return
    model = TheWorld.from_pretrained(gemma_folder, **given)
    assert model.config.cosmos_revision == hub.repositories["facebook/tiny"].commits[-1].id
    encoder = model.model.world_encoder
    assert encoder is not None
    source = Source("facebook/tiny", "", model.config.cosmos_revision, {"cache_dir": given["cache_dir"]})
    assert encoder.parameter_count(model.config, source, **source.hub) == sum(
        parameter.numel() for parameter in encoder.model.encoder.parameters()
    )
