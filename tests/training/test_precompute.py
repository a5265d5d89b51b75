"""The cache holds what training computes, bit for bit, whoever fills it and however often he is killed."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import tiny
from tests.model.helpers import load_world
from tests.processes import CONTEXT, theworld, torchrun
from tests.training.runs import history, tiny_run, write_rows
from theworld import TheWorld
from theworld.data import latent_cache
from theworld.data.latent_cache import LatentCache
from theworld.data.schema import Example, Message
from theworld.model.world_encoders import CosmosWorldEncoder, cache_fingerprint
from theworld.training import precompute as precomputing
from theworld.training.align import AlignCollator, AlignModel
from theworld.training.config import TrainingConfig
from theworld.training.objectives import OBJECTIVES
from theworld.training.precompute import Images, encode, precompute, process_of
from theworld.training.run import train
from theworld.training.stages import load_model


def fingerprint_of(model: TheWorld) -> dict[str, Any]:
    encoder = model.model.world_encoder
    assert encoder is not None
    return cache_fingerprint(encoder, model.config)


def cached(folder: Path, gemma: Path, cosmos: Path, **keys: Any) -> TrainingConfig:
    return tiny_run(folder, gemma, cosmos, **{"latent_cache": str(folder / "latents"), **keys})


def nano_run(folder: Path, **keys: Any) -> TrainingConfig:
    """A run of the nano model on current frames: one epoch of ten rows in batches of four, all three steps logged."""
    nano = {"model_name": "nano", "cosmos_model_name": None, "world_image_size": None, "world_pooling": None}
    shape = {"num_world_steps": 0, "batch_size": 4, "gradient_accumulation_steps": 1, "num_epochs": 1}
    return tiny_run(folder, Path(), Path(), **{**nano, **shape, **keys})


def shards(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("latents/*/shards/*")}


def weights(checkpoint: str | None) -> dict[str, torch.Tensor]:
    return load_file(Path(str(checkpoint)) / "model.safetensors")


def refuse(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("the world encoder was called")


# ---------------------------------------------------------------------------------------------- the same training


def test_nano_learns_the_same_with_the_cache_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = train(nano_run(tmp_path))
    expected = history(without.checkpoint)
    assert len(set(expected.values())) == without.step == 3
    config = nano_run(tmp_path, latent_cache=str(tmp_path / "latents"), output_dir=str(tmp_path / "cached"))
    assert precompute(config).computed == 10
    monkeypatch.setattr(CosmosWorldEncoder, "encode", refuse)
    with_cache = train(config)
    assert history(with_cache.checkpoint) == expected
    ours, theirs = weights(with_cache.checkpoint), weights(without.checkpoint)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_rollouts_and_evaluation_are_the_same(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = load_world(gemma_folder, cosmos_folder, num_world_steps=1)  # of few denoising steps
    start.save_pretrained(tmp_path / "start")
    write_rows(tmp_path, 4)
    evaluation = {"do_eval": True, "eval_steps": 1, "eval_dataset_path": str(write_rows(tmp_path, 2, "eval.jsonl"))}

    def config(name: str, **keys: Any) -> TrainingConfig:
        world = {"model_name": str(tmp_path / "start"), "world_image_size": None, "world_pooling": None}
        keys = {"output_dir": str(tmp_path / name), "num_workers": 1, **world, **evaluation, **keys}
        return tiny_run(tmp_path, gemma_folder, cosmos_folder, **keys)

    without = train(config("without"))
    cache = config("cached", latent_cache=str(tmp_path / "latents"))
    assert precompute(cache).computed == 4  # two of them are those of the evaluation
    monkeypatch.setattr(CosmosWorldEncoder, "encode", refuse)
    with_cache = train(cache)
    assert history(with_cache.checkpoint) == history(without.checkpoint)
    assert with_cache.metrics["eval_loss"] == without.metrics["eval_loss"]


def test_drawn_steps_learn_the_same_with_the_cache_bit_for_bit(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    start = load_world(gemma_folder, cosmos_folder, num_world_steps=1)
    start.save_pretrained(tmp_path / "start")
    write_rows(tmp_path, 8)
    evaluation = {"do_eval": True, "eval_steps": 1, "eval_dataset_path": str(write_rows(tmp_path, 2, "eval.jsonl"))}

    def config(name: str, **keys: Any) -> TrainingConfig:
        world = {"model_name": str(tmp_path / "start"), "world_image_size": None, "world_pooling": None}
        keys = {"output_dir": str(tmp_path / name), **world, **evaluation, "train_world_steps": [0, 1], **keys}
        return tiny_run(tmp_path, gemma_folder, cosmos_folder, **keys)

    without = train(config("without"))
    always = train(config("always", train_world_steps=None))
    cache = config("cached", latent_cache=str(tmp_path / "latents"))
    precompute(cache)
    with_cache = train(cache)
    assert history(with_cache.checkpoint) == history(without.checkpoint) != history(always.checkpoint)
    assert with_cache.metrics["eval_loss"] == without.metrics["eval_loss"]


@pytest.mark.parametrize(("mixed_precision", "size"), [("no", 4), ("bf16", 2)])
def test_latents_take_the_bytes_of_the_encoders_dtype(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path, mixed_precision: str, size: int
) -> None:
    precompute(cached(tmp_path, gemma_folder, cosmos_folder, mixed_precision=mixed_precision))
    (shard,) = tmp_path.glob("latents/*/shards/*")
    latents = load_file(shard)["latents"]
    assert latents.shape == (10, tiny.LATENT_CHANNELS, 1, 4, 4)
    assert latents.element_size() == size


def test_clips_and_rollouts_of_their_first_frames(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder, objective="align", num_world_steps=1)
    model = load_model(config, gemma_folder, AlignModel)
    encoder = model.model.world_encoder
    assert encoder is not None
    cache = LatentCache(tmp_path / "latents", fingerprint_of(model), writable=True)
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    clip = Example("clip", (Message("user", "-"),), clip=tuple(frames))
    collator = OBJECTIVES["align"].collator(replace(config, latent_cache=None), model)
    count, found, _ = Images(collator, cache)([clip])
    assert (count, len(found)) == (1, 2)
    for key, pixels in found.items():
        assert pixels is not None
        cache.add(key, encode(encoder, pixels[None], 1)[0])
    cache.flush()
    expected = model.encode(**{name: value for name, value in collator([clip]).items() if name != "skipped"})
    read = AlignCollator(model.processor, latent_cache=LatentCache(tmp_path / "latents", fingerprint_of(model)))
    batch = read([clip])
    assert torch.equal(batch["world_latents"], expected["world_latents"])
    assert torch.equal(batch["clip_latents"], expected["clip_latents"])
    assert not torch.equal(batch["world_latents"], batch["clip_latents"])


def test_several_pictures_in_one_batch_have_the_latents_of_each_but_for_rounding(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder)
    found: list[dict[bytes, torch.Tensor]] = []
    for together in (1, 4):  # ten pictures: two batches and what is left
        folder = tmp_path / f"latents-{together}"
        config = replace(config, latent_cache=str(folder))
        assert precompute(config, together=together).computed == 10
        (shard,) = folder.glob("*/shards/*")
        tensors = load_file(shard)
        keys = [bytes(key.tolist()) for key in tensors["keys"]]
        found.append(dict(zip(keys, tensors["latents"], strict=True)))
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(value, found[1][key], atol=1e-5) for key, value in found[0].items())


# -------------------------------------------------------------------------------------------------------- filling


def test_running_again_does_nothing(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder)
    first = precompute(config)
    assert (first.rows, first.computed, first.present, first.skipped) == (10, 10, 0, 0)
    files = shards(tmp_path)
    again = precompute(config)
    assert (again.rows, again.computed, again.present) == (10, 0, 10)
    assert shards(tmp_path) == files


def test_a_picture_is_encoded_once(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    rows = write_rows(tmp_path)
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    rows.write_text(
        "".join(json.dumps({**line, "image": f"{index // 2}.png"}) + "\n" for index, line in enumerate(lines)),
        encoding="utf-8",
    )
    result = precompute(cached(tmp_path, gemma_folder, cosmos_folder))
    assert (result.rows, result.computed, result.present) == (10, 5, 5)


def test_damage_is_repaired(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder)
    precompute(config)
    (shard,) = tmp_path.glob("latents/*/shards/*")
    os.truncate(shard, shard.stat().st_size - 1)
    with pytest.raises(ValueError, match="theworld precompute"):
        train(config)
    result = precompute(config)
    assert (result.repaired, result.computed) == (10, 10)
    assert train(config).step == 6


def test_bad_pictures_are_listed_within_the_budget(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder, skip_budget=0.2)
    for name in ("3.png", "7.png"):
        (tmp_path / name).write_bytes(b"no picture")
    result = precompute(config)
    assert (result.computed, result.skipped) == (8, 2)
    assert "not_an_image 2 (row3, row7)" in result.skip_causes
    listed = (Path(config.output_dir) / "precompute" / "skipped.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["id"] for line in listed.splitlines()] == ["row3", "row7"]
    with pytest.raises(ValueError, match=r"2 of 10 rows cannot be used, more than skip_budget=0\.1"):
        precompute(replace(config, skip_budget=0.1))
    Image.new("RGB", (32, 32), "red").save(tmp_path / "3.png")
    assert precompute(config).skipped == 1


# -------------------------------------------------------------------------------------------------------- refusals


def test_a_row_without_latents_stops_the_run(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder)
    precompute(config)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "3.png")
    with pytest.raises(ValueError, match=r"have no latents.*theworld precompute"):
        train(config)


def test_latents_of_other_settings_are_refused(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder)
    with pytest.raises(FileNotFoundError, match=r"no latent cache.*theworld precompute"):
        train(config)
    precompute(config)
    with pytest.raises(ValueError, match=r"another encoder \(num_world_steps is 0 there, 1 here, weights is "):
        train(replace(config, num_world_steps=1))


def test_a_cache_needs_a_frozen_world(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    with pytest.raises(ValueError, match="latent_cache is not set"):
        precompute(tiny_run(tmp_path, gemma_folder, cosmos_folder))
    for key in ({"enable_world": False, "freeze_gemma_vision": False}, {"freeze_cosmos_vae": False}):
        for run in (precompute, train):
            with pytest.raises(ValueError, match="only the latents of a frozen world encoder"):
                run(cached(tmp_path, gemma_folder, cosmos_folder, **key))


def test_the_encoder_is_told_by_its_weights(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder)
    model = load_model(config, gemma_folder)
    encoder = model.model.world_encoder
    assert isinstance(encoder, CosmosWorldEncoder)
    before = fingerprint_of(model)
    assert str(cosmos_folder) not in json.dumps(before)
    encoder.prepare(1)  # of no use to the current frame
    with torch.no_grad():
        encoder.vae.decoder.conv_in.bias.add_(1)
    assert fingerprint_of(model) == before
    with torch.no_grad():
        encoder.vae.encoder.conv_in.bias.add_(1)
    assert fingerprint_of(model) == {**before, "weights": fingerprint_of(model)["weights"]} != before
    model.config.num_world_steps = 1
    rolled_out = fingerprint_of(model)
    assert encoder.transformer is not None
    with torch.no_grad():
        next(encoder.transformer.parameters()).add_(1)
    assert fingerprint_of(model) != rolled_out


# ------------------------------------------------------------------------------------------------------- processes


def shares_of(rows: list[Example]) -> list[list[Example]]:
    return [[row for row in rows if process_of(row, 3) == rank] for rank in range(3)]


def test_shares_hold_every_row_once_and_a_picture_in_one_of_them() -> None:
    named = [Example(str(i), (Message("user", "-"),), images=(Path(f"{i // 3}.png"),)) for i in range(30)]
    opened = [Example(str(i), (Message("user", "-"),), images=(Image.new("RGB", (8, 8)),)) for i in range(30)]
    for rows in (named, opened):
        assert all(shares_of(rows))
        assert sorted(row.id for share in shares_of(rows) for row in share) == sorted(row.id for row in rows)
    assert sum(len({row.images for row in share}) for share in shares_of(named)) == 10


def slowly(config: TrainingConfig) -> None:
    """`precompute` with a pause before every batch and a shard for each."""

    def slow(*args: Any) -> torch.Tensor:
        time.sleep(0.2)
        return encode(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_cache, "FLUSH_SECONDS", 0.0)
        patch.setattr(precomputing, "encode", slow)
        precompute(config)


def test_killed_at_any_time_it_goes_on(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder)
    expected = precompute(replace(config, latent_cache=str(tmp_path / "undisturbed")))
    process = CONTEXT.Process(target=slowly, args=(config,))
    process.start()
    deadline = time.monotonic() + 240
    while len(list(tmp_path.glob("latents/*/shards/*.safetensors"))) < 3 and time.monotonic() < deadline:
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    result = precompute(config)
    assert result.repaired == 0
    assert result.present >= 3
    assert result.computed == expected.computed - result.present > 0
    latents = [latents_by_key(Path(folder)) for folder in (result.folder, expected.folder)]
    assert latents[0].keys() == latents[1].keys()
    assert all(torch.equal(latents[0][key], latents[1][key]) for key in latents[0])


def test_two_processes_share_the_work(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    config = cached(tmp_path, gemma_folder, cosmos_folder, skip_budget=0.3)
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"no picture")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    command = ["precompute", "--config", str(tmp_path / "config.json"), "--json"]
    result = json.loads(torchrun(tmp_path / "logs", theworld, *command))
    assert (result["rows"], result["computed"], result["present"], result["skipped"]) == (10, 7, 0, 3)
    files = list(tmp_path.glob("latents/*/shards/*"))
    assert len(files) == 2
    assert sum(len(load_file(file)["keys"]) for file in files) == 7  # no image twice
    assert len(latents_by_key(Path(result["folder"]))) == 7
    alone = precompute(config)
    assert (alone.computed, alone.present, alone.folder) == (0, 7, result["folder"])


def latents_by_key(folder: Path) -> dict[bytes, torch.Tensor]:
    cache = LatentCache(folder.parent, json.loads((folder / "fingerprint.json").read_text(encoding="utf-8")))
    keys = [key.ljust(32, b"\0") for key in cache._index.rows["key"].tolist()]
    return dict(zip(keys, cache.get(keys), strict=True))
