"""Every world encoder, and one of ten lines: trained, saved, reloaded, cached, evaluated, and no other file changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional

from tests import tiny
from tests.evaluation.test_run import TASK
from tests.model.helpers import assistant, encode, user
from tests.training.runs import tiny_run, write_rows
from theworld import TheWorld
from theworld.evaluation.run import evaluate_tasks
from theworld.evaluation.settings import EvaluationSettings
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


def vjepa2(folder: Path) -> dict[str, Any]:
    tiny.tiny_vjepa2().save_pretrained(folder)
    return {"cosmos_model_name": str(folder)}


SETTINGS: dict[str, Callable[[Path], dict[str, Any]]] = {  # writes its weights to a folder -> settings of a fusion
    "mean_colours": lambda folder: {"world_image_size": [32, 64]},
    "vjepa2": vjepa2,
}


@pytest.fixture(params=SETTINGS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return {"world_encoder": request.param, "world_image_size": 32, **SETTINGS[request.param](tmp_path / "world")}


@pytest.fixture
def model(gemma_folder: Path, settings: dict[str, Any]) -> TheWorld:
    return TheWorld.from_pretrained(gemma_folder, **settings)


@pytest.mark.parametrize("settings", ["mean_colours"], indirect=True)
def test_its_sizes_are_taken_over(model: TheWorld) -> None:
    assert model.config.world_latent_channels == 3
    assert model.config.world_grid == (2, 4)
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
    assert output.num_world_tokens == model.config.world_tokens(2)
    for full in (False, True):
        model.save_pretrained(tmp_path / str(full), full=full)
        assert torch.equal(TheWorld.from_pretrained(tmp_path / str(full))(**example).logits, output.logits)


def test_theworld_train_with_a_latent_cache(
    settings: dict[str, Any], gemma_folder: Path, cosmos_folder: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path)
    keys = {"num_world_steps": 2, "latent_cache": str(tmp_path / "latents"), "max_steps": 20, "num_epochs": 7}
    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, **{**keys, "save_steps": 20, **settings})
    assert precompute(config).computed > 0
    result = train(config)
    assert result.step == 20
    saved = json.loads((Path(result.checkpoint or "") / "config.json").read_text(encoding="utf-8"))
    assert saved["world_encoder"] == settings["world_encoder"]
    assert saved["trained_steps"] == {"projector": 20}


def test_it_cannot_decode_and_says_so(model: TheWorld, images: list[Image.Image]) -> None:
    from theworld.analysis.imagine import imagine

    with pytest.raises(ValueError, match="can decode"):
        imagine(model, images[0])


def test_evaluated(model: TheWorld, tmp_path: Path) -> None:
    model.config.trained_steps = {"projector": 1}
    model.save_pretrained(tmp_path / "checkpoint")
    settings = EvaluationSettings(
        model=str(tmp_path / "checkpoint"),
        output=str(tmp_path / "out"),
        arms="gemma,world,other_future",
        num_world_steps=[0, 2],
    )
    result = evaluate_tasks([TASK], settings)[0]
    assert set(result.predictions) == {"gemma", "world", "other_future"}
    answers = {arm: [row.output for row in rows if not row.failed] for arm, rows in result.predictions.items()}
    assert all(answers.values())
