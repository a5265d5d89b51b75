"""Alignment: what it regresses on what, which clips it can use, and that it needs no language model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.model.helpers import WORLD, load_world
from tests.training.runs import history, tiny_run
from theworld import TheWorld
from theworld.data.latent_cache import LatentCache, content_key
from theworld.data.schema import Example, Message, Skipped
from theworld.data.skips import SkipLog
from theworld.model.fusion import fit_grid
from theworld.training.align import AlignCollator, AlignModel, encode_rows
from theworld.training.config import TrainingConfig
from theworld.training.run import train

STEPS = 1
FRAMES = 1 + 4 * STEPS
TOKENS = 16  # world tokens of a frame
SIZE = 32


def clip(seed: int, frames: int = FRAMES) -> tuple[np.ndarray, ...]:
    pictures = np.random.default_rng(seed).integers(0, 256, (frames, SIZE, SIZE, 3), dtype=np.uint8)
    return tuple(pictures)


def example(name: str, *frames: Any) -> Example:
    return Example(name, (Message("user", "What happens?"),), images=frames[:1], clip=frames)


def load(gemma: Path, cosmos: Path, **settings: Any) -> AlignModel:
    world = {**WORLD, "cosmos_model_name": str(cosmos), "num_world_steps": STEPS}
    torch.manual_seed(0)
    return AlignModel.from_pretrained(gemma, **{**world, **settings})


@pytest.fixture(scope="module")
def model(gemma_folder: Path, cosmos_folder: Path) -> AlignModel:
    """Never trained."""
    return load(gemma_folder, cosmos_folder)


@pytest.fixture(scope="module")
def collator(model: AlignModel) -> AlignCollator:
    return AlignCollator(model.processor)


@pytest.fixture(scope="module")
def batch(collator: AlignCollator) -> dict[str, Tensor]:
    made = collator([example(str(seed), *clip(seed)) for seed in range(3)])
    assert made.pop("skipped") == []
    return made


def test_the_collator_opens_the_clip_and_the_frames_that_latents_stand_for(
    batch: dict[str, Tensor], model: AlignModel
) -> None:
    assert batch["clip_pixel_values"].shape == (3, FRAMES, 3, SIZE, SIZE)
    assert torch.equal(batch["world_pixel_values"], batch["clip_pixel_values"][:, 0])
    assert batch["target_pixel_values"].shape == (3, 1 + STEPS, 3, 16, 16)
    picture = Image.fromarray(clip(1)[4])
    seen = model.processor.image_processor([picture], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(batch["target_pixel_values"][1, 1], seen)
    assert torch.equal(batch["clip_pixel_values"][1, 4], model.processor.world_pixels([picture])[0])


def test_latents_and_targets_are_those_of_the_frozen_parts(
    batch: dict[str, Tensor], model: AlignModel, gemma_folder: Path
) -> None:
    features = model.encode(**batch)
    encoder = model.model.world_encoder
    first = batch["clip_pixel_values"][:, 0]
    assert torch.equal(features["world_latents"], encoder.encode(first, STEPS))
    assert torch.allclose(features["clip_latents"][:, :, :1], encoder.encode(first), atol=1e-5)
    assert not torch.allclose(features["clip_latents"], features["world_latents"], atol=1e-2)
    whole = TheWorld.from_pretrained(gemma_folder, enable_world=False)
    with torch.no_grad():
        tokens = whole.get_image_features(batch["target_pixel_values"][:, 1], return_dict=True).pooler_output
    assert features["targets"].shape == (3, 1 + STEPS, TOKENS, tokens.shape[-1])
    assert torch.allclose(features["targets"][:, 1], fit_grid(tokens, (2, 2), (4, 4)), atol=1e-5)


def test_the_loss_is_the_mean_error_in_units_of_the_targets_variance(model: AlignModel) -> None:
    targets, latents = torch.randn(4, 2, TOKENS, 32) * 3, torch.randn(4, 16, 2, 4, 4)
    output = model(world_latents=latents, targets=targets)
    with torch.no_grad():
        tokens = model.model.world_projector(latents).unflatten(1, (2, TOKENS))
    expected = (tokens - targets).square() / targets.var()
    assert torch.allclose(output.loss, expected.mean())
    assert torch.allclose(output.frame_errors, expected.mean((0, 2, 3)))


@pytest.mark.parametrize(("share", "wanted"), [(0.0, "world"), (1.0, "clip")])
def test_what_no_clip_is_seen_by_is_not_made(
    batch: dict[str, Tensor], model: AlignModel, share: float, wanted: str
) -> None:
    made = AlignCollator(model.processor, true_future_share=share)(
        [example(str(seed), *clip(seed)) for seed in range(3)]
    )
    made.pop("skipped")
    assert set(made) == {"target_pixel_values", f"{wanted}_pixel_values"}
    features = model.encode(**batch)
    only = {name: features[name] for name in (f"{wanted}_latents", "targets")}
    assert set(model.encode(**made)) == set(only)
    assert torch.equal(model(**made).loss, model(**only).loss)


def test_true_futures_are_drawn_clip_by_clip_in_training_only(
    model: AlignModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled, true, targets = torch.zeros(400, 16, 2, 4, 4), torch.ones(400, 16, 2, 4, 4), torch.randn(400, 2, TOKENS, 32)
    seen: list[Tensor] = []
    monkeypatch.setattr(
        model.model.world_projector, "forward", lambda latents: seen.append(latents) or targets.flatten(1, 2)
    )
    for training in (True, False):
        model.train(training)
        model(world_latents=rolled, clip_latents=true, targets=targets)
    assert 70 < seen[0][:, 0, 0, 0, 0].sum() < 130  # a quarter
    assert seen[0].flatten(1).var(1).max() == 0  # never half of a clip
    assert not seen[1].any()


def test_cached_latents_take_the_place_of_the_encoder(
    batch: dict[str, Tensor], model: AlignModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model(**batch).loss
    features = model.encode(**batch)
    cache = LatentCache(tmp_path, {"encoder": "tiny"}, writable=True)
    for pixels, rolled, true in zip(
        batch["clip_pixel_values"], features["world_latents"], features["clip_latents"], strict=True
    ):
        cache.add(content_key(pixels[0]), rolled)
        cache.add(content_key(pixels), true)
    cache.flush()
    collator = AlignCollator(model.processor, latent_cache=LatentCache(tmp_path, {"encoder": "tiny"}))
    cached = collator([example(str(seed), *clip(seed)) for seed in range(3)])
    assert set(cached) == {"target_pixel_values", "world_latents", "clip_latents", "skipped"}
    cached.pop("skipped")
    for method in ("encode", "encode_clip"):
        monkeypatch.setattr(model.model.world_encoder, method, None)
    assert torch.equal(model(**cached).loss, expected)
    with pytest.raises(ValueError, match="theworld precompute"):
        collator([example("new", *clip(7))])


def test_one_step_moves_the_projector_alone(batch: dict[str, Tensor], gemma_folder: Path, cosmos_folder: Path) -> None:
    model = load(gemma_folder, cosmos_folder)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    first = model(**batch).loss
    first.backward()
    optimizer.step()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    projector = {name for name in before if name.startswith("model.world_projector.")}
    # The last time embeddings belong to frames that this run does not reach, but share a tensor with those it does
    assert moved == projector
    assert model(**batch).loss < first


def test_the_checkpoint_is_that_of_a_theworld(
    batch: dict[str, Tensor], gemma_folder: Path, cosmos_folder: Path, tmp_path: Path
) -> None:
    model = load(gemma_folder, cosmos_folder)
    with torch.no_grad():
        model.model.world_projector.output_norm.weight.mul_(1.5)
    model.save_pretrained(tmp_path)
    loaded = TheWorld.from_pretrained(tmp_path)
    assert type(loaded) is TheWorld
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["architectures"] == ["TheWorld"]
    assert len(loaded.model.language_model.layers) == loaded.config.get_text_config().num_hidden_layers > 0
    latents = torch.randn(1, 16, 2, 4, 4)
    assert torch.equal(loaded.model.world_projector(latents), model.model.world_projector(latents))


def test_rows_that_cannot_be_used_are_named_and_left_out(collator: AlignCollator, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    good = clip(0)
    bad_row = Skipped("c", "bad_row", "no frames")
    made = collator(
        [
            example("a", *good[:3]),
            example("b", *good),
            bad_row,
            example("d", *good[:2], tmp_path / "broken.png", *good[3:]),
        ]
    )
    assert [(row.id, row.cause) for row in made["skipped"]] == [
        ("a", "short_clip"),
        ("c", "bad_row"),
        ("d", "not_an_image"),
    ]
    assert len(made["clip_pixel_values"]) == len(made["target_pixel_values"]) == 1


def test_a_batch_without_a_usable_clip_has_a_loss_of_zero_and_a_gradient(
    collator: AlignCollator, model: AlignModel
) -> None:
    made = collator([example("a", *clip(0)[:2])])
    assert made.pop("skipped")
    model.zero_grad()
    loss = model(**made).loss
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert loss.item() == 0
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    model.zero_grad()


def test_a_source_without_clips_is_an_error(collator: AlignCollator) -> None:
    with pytest.raises(ValueError, match="'a' has no clip: objective 'align' needs a source of videos"):
        collator([example("a")])


def test_features_of_every_clip_are_encoded_once(collator: AlignCollator, model: AlignModel, tmp_path: Path) -> None:
    rows: Any = [example(str(seed), *clip(seed)) for seed in range(3)]
    skips = SkipLog(tmp_path / "skipped.jsonl", 0.5, 4)
    features = encode_rows(model, [rows[0], example("short", *clip(3)[:1]), *rows[1:]], collator, skips)
    assert "short" in skips.summary()
    assert len(features) == 3
    expected = model.encode(**{name: value for name, value in collator(rows).items() if name != "skipped"})
    for name, value in features[2].items():
        assert torch.allclose(value, expected[name][2], atol=1e-5), name
    with pytest.raises(ValueError, match="none of the 1 clips can be used: a clip of 1 frames"):
        encode_rows(model, [example("short", *clip(3)[:1])], collator)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six folders of frames, one of them too short."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(6):
        (folder / f"video{seed}").mkdir()
        for index, frame in enumerate(clip(seed, 3 if seed == 5 else FRAMES)):
            Image.fromarray(frame).save(folder / f"video{seed}" / f"{index}.png")
    return folder


def align_run(folder: Path, gemma: Path, cosmos: Path, videos: Path, **keys: Any) -> TrainingConfig:
    settings = {"objective": "align", "dataset_name": "video", "train_dataset_path": str(videos), "image_folder": None}
    world = {"num_world_steps": STEPS, "max_world_steps": 2, "max_steps": 4, "skip_budget": 0.2}
    return tiny_run(folder, gemma, cosmos, **{**settings, **world, "gradient_accumulation_steps": 1, **keys})


def start(gemma: Path, cosmos: Path, folder: Path) -> Path:
    """A fusion whose rollouts take three denoising steps."""
    load_world(gemma, cosmos, world_pooling=2, max_world_steps=2).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("encode_once", [False, True])
def test_a_run_aligns_a_folder_of_videos(
    encode_once: bool, gemma_folder: Path, cosmos_folder: Path, videos: Path, tmp_path: Path
) -> None:
    config = align_run(
        tmp_path,
        start(gemma_folder, cosmos_folder, tmp_path / "start"),
        cosmos_folder,
        videos,
        encode_once=encode_once,
        max_steps=30,
        save_steps=15,
        batch_size=6,
    )
    result = train(config)
    assert result.step == 30
    assert result.skip_causes == "short_clip 1 (video5)"
    frames = history(result.checkpoint or "", "loss", "frame_0", "frame_1")
    loss, first, second = frames[1]
    assert loss == pytest.approx((first + second) / 2)
    assert frames[30][0] < 0.9 * loss
    assert TheWorld.from_pretrained(result.checkpoint or "").config.changed == ["projector"]


def test_an_interrupted_run_goes_on_exactly(
    gemma_folder: Path, cosmos_folder: Path, videos: Path, tmp_path: Path
) -> None:
    first = start(gemma_folder, cosmos_folder, tmp_path / "start")
    keys = {"encode_once": True, "save_steps": 2}
    whole = train(align_run(tmp_path, first, cosmos_folder, videos, output_dir=str(tmp_path / "whole"), **keys))
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "cut" / "checkpoint-2")
    keys |= {"output_dir": str(tmp_path / "cut"), "resume_from": "auto"}
    resumed = train(align_run(tmp_path, first, cosmos_folder, videos, **keys))
    logged = ("loss", "frame_0", "frame_1", "grad_norm", "param_norm/projector")
    assert history(resumed.checkpoint or "", *logged) == history(whole.checkpoint or "", *logged)
    tensors = [load_file(Path(run.checkpoint or "") / "model.safetensors") for run in (whole, resumed)]
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


def test_answers_are_no_clips(gemma_folder: Path, cosmos_folder: Path, videos: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    (tmp_path / "a.png").write_bytes((videos / "video0" / "0.png").read_bytes())
    rows.write_text(json.dumps([{"image": "a.png", "question": "What is it?", "answer": "a ball"}]), encoding="utf-8")
    keys = {"dataset_name": "custom", "train_dataset_path": str(rows), "image_folder": str(tmp_path)}
    with pytest.raises(ValueError, match="has no clip: objective 'align' needs a source of videos"):
        train(align_run(tmp_path, gemma_folder, cosmos_folder, videos, **keys))
    with pytest.raises(ValueError, match="encode_once=True: only for objective='align'"):
        align_run(tmp_path, gemma_folder, cosmos_folder, videos, objective="answers", encode_once=True)


def test_what_else_would_train_is_refused(gemma_folder: Path, cosmos_folder: Path) -> None:
    for setting in ({"freeze_gemma_vision": False}, {"freeze_cosmos_vae": False}, {"enable_world": False}):
        with pytest.raises(ValueError, match="trains the projector alone"):
            load(gemma_folder, cosmos_folder, **setting)
    with pytest.raises(ValueError, match=r"true_future_share=1\.5"):
        load(gemma_folder, cosmos_folder, true_future_share=1.5)


def test_targets_are_interpolated_to_the_world_grid() -> None:
    rows = torch.arange(4.0).repeat_interleave(4).view(1, 16, 1)  # row number of a 4 x 4 grid
    assert torch.equal(fit_grid(rows, (4, 4), (4, 4)), rows)
    assert fit_grid(rows, (4, 4), (2, 2)).flatten().tolist() == pytest.approx([0.6, 0.6, 2.4, 2.4], abs=0.15)
    upscaled = fit_grid(rows, (4, 4), (8, 8)).view(8, 8)
    assert torch.allclose(upscaled, upscaled[:, :1].expand(-1, 8))
    assert upscaled[:, 0].diff().ge(0).all()
