"""Operating points set plain fields; untrained rollouts warn; progress bars are for terminals."""

import logging
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.model.conftest import Load
from theworld import TheWorld, TheWorldConfig, TrainingConfig
from theworld.cli.loading import OPTIONS
from theworld.cli.main import main
from theworld.model.world_encoders import CosmosWorldEncoder, cosmos
from theworld.utils import logging as package_logging
from theworld.utils.hub import Source
from theworld.utils.operating_points import OPERATING_POINTS, TRAINED_SIZES, operating_point, outside_training

CHEAP: dict[str, Any] = {"world_image_size": 32, "world_pooling": 1, "world_prompt": None, "world_guidance_scale": 1}


@pytest.mark.parametrize("name", OPERATING_POINTS)
def test_every_point_is_a_config_of_at_most_260_tokens_a_frame(name: str) -> None:
    fields = OPERATING_POINTS[name]
    config = TheWorldConfig(**fields)
    assert {field: getattr(config, field) for field in fields} == fields
    assert fields["world_image_fit"] != "squash"
    assert name == "fast" or config.world_tokens_per_frame <= 260
    if config.num_world_steps:
        height, width = config.world_image_shape
        assert (min(height, width), max(height, width)) in TRAINED_SIZES
        assert height % 16 == width % 16 == 0  # patches of 2 x 2 latent positions


def test_points_are_those_documented() -> None:
    default, fast = TheWorldConfig(), TheWorldConfig(**OPERATING_POINTS["fast"])
    assert fast.to_dict() == default.to_dict()
    native, full = OPERATING_POINTS["native"], OPERATING_POINTS["full"]
    assert (native["num_world_steps"], native["world_prompt"], native["world_guidance_scale"]) == (4, None, 1)
    assert (full["world_guidance_scale"], full["world_inference_steps"]) == (7, 35)
    assert full["world_prompt"]
    assert OPTIONS["operating_point"]["choices"] == list(OPERATING_POINTS)


def test_fields_given_beside_a_point_hold_and_the_point_is_not_stored(load: Load, tmp_path: Path) -> None:
    model = load(operating_point="full", **CHEAP, num_world_steps=2, world_inference_steps=2)
    assert (model.config.num_world_steps, model.config.world_guidance_scale) == (2, 1)
    assert "operating_point" not in model.config.to_dict()
    model.save_pretrained(tmp_path)
    assert "operating_point" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert TheWorld.from_pretrained(tmp_path).config.num_world_steps == 2


def test_a_point_reaches_the_fields_of_a_model(gemma_folder: Path, cosmos_folder: Path) -> None:
    model = TheWorld.from_pretrained(gemma_folder, cosmos_model_name=str(cosmos_folder), operating_point="native_wide")
    fields = OPERATING_POINTS["native_wide"]
    assert {name: getattr(model.config, name) for name in fields} == fields
    assert model.config.world_tokens_per_frame == 144


def test_key_of_a_run_is_stored_as_the_keys_it_stands_for() -> None:
    config = TrainingConfig(operating_point="native", num_world_steps=2)
    assert (config.world_image_size, config.world_pooling, config.num_world_steps) == (480, 4, 2)
    saved = config.to_dict()
    assert "operating_point" not in saved
    assert TrainingConfig.from_dict(saved) == config


@pytest.mark.parametrize(
    "make",
    [
        lambda: operating_point("fats"),
        lambda: TrainingConfig.from_dict({"operating_point": "fats"}),
        lambda: TheWorld.from_pretrained("nano", operating_point="fats"),
    ],
)
def test_unknown_point_is_named(make: Any) -> None:
    with pytest.raises(ValueError, match=r"operating_point='fats': expected one of fast, native, native_wide, full"):
        make()


def test_a_config_does_not_take_a_point() -> None:
    with pytest.raises(ValueError, match=r"operating_point='native': an argument of from_pretrained"):
        TheWorldConfig(operating_point="native")  # type: ignore[call-arg]


def test_a_point_that_a_checkpoint_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    image = "src/theworld/nano/examples/drop.png"
    assert main(["ask", image, "Where?", "--operating_point", "native"]) == 2
    assert "num_world_steps=4: expected 0 to max_world_steps=3" in (told := capsys.readouterr().err)
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ((480, 480, 24, 16), []),
        ((768, 432, 16, 10), []),
        ((480, 480, 5, 16), ["5 latent frames at 16 fps (trained: 24 at 16 fps, 16 at 10 fps)"]),
        ((224, 224, 24, 16), ["224 x 224 pixels (trained: 480 x 480, 480 x 640, 432 x 768"]),
        ((224, 224, 2, 8), ["224 x 224 pixels", "2 latent frames at 8 fps"]),
    ],
)
def test_what_is_outside_of_the_training(call: Any, told: list[str]) -> None:
    line = outside_training(*call)
    assert bool(line) == bool(told)
    assert all(part in line for part in told)


def make_encoder(**settings: Any) -> CosmosWorldEncoder:
    config = TheWorldConfig(world_image_size=32, world_inference_steps=4, **settings)
    encoder = CosmosWorldEncoder(tiny.tiny_vae(), config, Source(""), {})
    encoder.transformer, encoder.scheduler = tiny.tiny_transformer(), tiny.tiny_scheduler()
    return encoder.eval()


def test_a_rollout_outside_of_the_training_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    package_logging.warn_once.cache_clear()
    encoder, pixels = make_encoder(), torch.zeros(1, 3, 32, 32)
    encoder.encode(pixels, 1)
    assert not caplog.records, "a model that is not Cosmos-Predict2"
    encoder.transformer.register_to_config(max_size=cosmos.MAX_SIZE)  # type: ignore[union-attr]
    encoder.encode(pixels, 0)
    assert not caplog.records, "no rollout"
    encoder.encode(pixels, 1)
    encoder.encode(pixels, 1)
    (record,) = caplog.records
    assert "32 x 32 pixels" in record.getMessage()
    assert "\n" not in record.getMessage()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "level", "training", "rank", "shown"),
    [
        (Terminal, logging.WARNING, False, "0", True),
        (StringIO, logging.WARNING, False, "0", False),
        (Terminal, logging.ERROR, False, "0", False),
        (Terminal, logging.WARNING, True, "0", False),
        (Terminal, logging.WARNING, False, "1", False),
    ],
)
def test_progress_is_shown_on_terminals_only(
    monkeypatch: pytest.MonkeyPatch, stream: Any, level: int, training: bool, rank: str, shown: bool
) -> None:
    monkeypatch.setattr(package_logging, "PROGRESS_DELAY", 0)
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setenv("RANK", rank)
    package_logging.logger.setLevel(level)
    encoder = make_encoder()
    encoder.train(training)
    encoder.encode(torch.zeros(1, 3, 32, 32), 1)
    assert ("rollout" in sys.stderr.getvalue()) == shown  # type: ignore[attr-defined]


def test_short_rollouts_show_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    make_encoder().encode(torch.zeros(1, 3, 32, 32), 1)
    assert not sys.stderr.getvalue()  # type: ignore[attr-defined]
