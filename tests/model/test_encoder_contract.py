"""World encoders are trained, saved, reloaded, cached and evaluated: one of the package, and one of ten lines.

No other file changes for the latter.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional

from tests import tiny
from tests.evaluation.test_run import TASK
from tests.model.helpers import assistant, encode, user
from tests.training.runs import history, tiny_run, write_rows
from theworld import TheWorld
from theworld.evaluation.run import evaluate_tasks
from theworld.evaluation.settings import EvaluationSettings
from theworld.evaluation.store.predictions import read_manifest
from theworld.model.world_encoders import WORLD_ENCODERS, WorldEncoder
from theworld.training.precompute import precompute
from theworld.training.run import train


class MeanColours(WorldEncoder):
    """The mean colour of every 16 x 16 pixels, and a future that fades."""

    feature_dim = 3  # type: ignore[assignment]

    @classmethod
    def from_pretrained(cls, config: Any, source: Any, *, dtype: torch.dtype, **hub: Any) -> "MeanColours":
        return cls()

    def grid(self, height: int, width: int, num_world_steps: int) -> tuple[int, int, int]:
        return 1 + num_world_steps, height // 16, width // 16

    def encode(self, pixels: torch.Tensor, num_world_steps: int = 0, seed: int | None = None) -> torch.Tensor:
        frame = functional.avg_pool2d(pixels, 16).unsqueeze(2)
        return torch.cat([frame / (1 + step) for step in range(1 + num_world_steps)], dim=2)

    def fingerprint(self) -> dict[str, Any]:
        return {"encoder": "mean_colours"}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WORLD_ENCODERS, "mean_colours", MeanColours)


CHANNELS = {"mean_colours": 3, "cosmos_features": 32, "vjepa2": 24, "wan": 24}
SIZES = {"mean_colours": [32, 64], "cosmos_features": [32, 64], "vjepa2": [32, 32], "wan": [64, 128]}
GRIDS = {"mean_colours": (2, 4), "cosmos_features": (2, 4), "vjepa2": (4, 4), "wan": (2, 4)}
"""By encoder: channels of its features, size of the image in pixels, and rows and columns of the features."""


@pytest.fixture(params=CHANNELS)
def encoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def vjepa2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vjepa2")
    tiny.tiny_vjepa2().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_wan(tmp_path_factory.mktemp("wan"), "Wan2.2-TI2V")


@pytest.fixture
def world(cosmos_folder: Path, vjepa2_folder: Path, wan_folder: Path, encoder: str) -> dict[str, Any]:
    folder = {"vjepa2": vjepa2_folder, "wan": wan_folder}.get(encoder, cosmos_folder)
    return {"world_encoder": encoder, "world_image_size": SIZES[encoder], "cosmos_model_name": str(folder)}


@pytest.fixture
def model(gemma_folder: Path, world: dict[str, Any]) -> TheWorld:
    return TheWorld.from_pretrained(gemma_folder, **world)


def test_its_sizes_are_taken_over(model: TheWorld, encoder: str) -> None:
    assert model.config.world_latent_channels == CHANNELS[encoder]
    assert model.config.world_grid == GRIDS[encoder]
    assert "world_encoder" not in model.get_submodule("model").state_dict()


def test_trained_saved_and_reloaded(model: TheWorld, images: list[Image.Image], tmp_path: Path) -> None:
    chat = [user("Which bin?", images[0]), assistant("The red bin.")]
    inputs = encode(model.processor, chat, add_generation_prompt=False, num_world_steps=2)
    example = {**inputs, "labels": inputs["input_ids"]}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    before = model(**example).loss
    for _ in range(3):
        model.train()(**example).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    output = model.eval()(**example)
    assert output.loss < before
    assert output.num_world_tokens == 3 * model.config.world_tokens_per_frame
    for full in (False, True):
        model.save_pretrained(tmp_path / str(full), full=full)
        assert torch.equal(TheWorld.from_pretrained(tmp_path / str(full))(**example).logits, output.logits)


def test_theworld_train_with_a_latent_cache(
    gemma_folder: Path, cosmos_folder: Path, images: list[Image.Image], world: dict[str, Any], tmp_path: Path
) -> None:
    # 1. The same losses with the cache and without
    write_rows(tmp_path)
    keys: dict[str, Any] = {**world, "num_world_steps": 1, "max_steps": 20, "save_steps": 20}
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, **keys, latent_cache=str(tmp_path / "latents"))
    assert precompute(config).computed > 0
    result = train(config)
    assert result.step == 20
    without = train(tiny_run(tmp_path, gemma_folder, cosmos_folder, **keys, output_dir=str(tmp_path / "without")))
    losses = history(result.checkpoint or "")
    assert losses == history(without.checkpoint or "")
    assert losses[20] < losses[1]
    # 2. What was saved
    saved = json.loads((Path(result.checkpoint or "") / "config.json").read_text(encoding="utf-8"))
    assert saved["world_encoder"] == world["world_encoder"]
    assert saved["trained_steps"] == {"projector": 20}
    # 3. The trained model loads, and saves whole, with the same answers
    model = TheWorld.from_pretrained(result.checkpoint or "")
    inputs = encode(model.processor, [user("Which bin?", images[0])])
    model.save_pretrained(tmp_path / "full", full=True)
    assert torch.equal(TheWorld.from_pretrained(tmp_path / "full")(**inputs).logits, model(**inputs).logits)


def test_an_encoder_that_cannot_decode_says_so(model: TheWorld, images: list[Image.Image]) -> None:
    from theworld.analysis.imagine import imagine

    with pytest.raises(ValueError, match="cannot decode its features"):
        imagine(model, images[0])


def test_evaluated(model: TheWorld, encoder: str, tmp_path: Path) -> None:
    model.config.trained_steps = {"projector": 1}
    model.save_pretrained(tmp_path / "checkpoint")
    settings = EvaluationSettings(
        model=str(tmp_path / "checkpoint"),
        output=str(tmp_path / "out"),
        arms="gemma,world,world_0,other_future",
        num_world_steps=[0, 2],
    )
    result = evaluate_tasks([TASK], settings)[0]
    assert set(result.predictions) == {"gemma", "world", "world_0", "other_future"}
    answers = {arm: [row.output for row in rows if not row.failed] for arm, rows in result.predictions.items()}
    assert all(answers.values())
    # The present alone is encoded anew where it depends on the future
    seen = read_manifest(tmp_path / "out" / "custom" / "world_0")["identity"]["world_encoder"]
    assert seen["num_world_steps"] == (2 if WORLD_ENCODERS[encoder].causal else 0)


def test_card_of_an_encoder_without_a_repository_names_no_other_model(gemma_folder: Path, tmp_path: Path) -> None:
    model = TheWorld.from_pretrained(gemma_folder, world_encoder="mean_colours", world_image_size=[32, 64])
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| world model | world encoder mean_colours, without a repository |" in card
    assert "Cosmos" not in card
    assert "under its own terms" in card
