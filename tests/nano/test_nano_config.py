"""`NanoConfig`: one record a key, checked at construction, the same in files, options and documentation."""

import inspect
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from theworld.cli.main import main
from theworld.nano.scenes import SIZES, SPLITS, make_clip
from theworld.recipes.nano_config import SMOKE, NanoConfig
from theworld.utils.errors import TheWorldError
from theworld.utils.settings import keys

DEFAULTS = NanoConfig()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"dynamics_step": 3}, "unknown config key 'dynamics_step': did you mean 'dynamics_steps'?"),
        ({"kinds": ["peg"]}, "kinds: unknown name 'peg': did you mean 'pegs'?"),
        ({"kinds": []}, "kinds=[]: expected different kinds, at least one"),
        ({"kinds": ["pegs", "pegs"]}, "kinds=['pegs', 'pegs']: expected different kinds, at least one"),
        ({"kinds": ["pegs"], "test": {"drop": 3}}, "test: unknown name 'drop': expected some of pegs"),
        (
            {"kinds": ["pegs"], "test": {"pegs": 0}},
            "test={'pegs': 0}: expected numbers of scenes from 0 to 10000000, and one",
        ),
        ({"train": {"pegs": 10_000_001}}, "train={'drop': 2500, "),
        ({"start_from": "~nobody-of-this-name/x"}, "start_from='~nobody-of-this-name/x': has no gemma/config.json"),
        ({"levels": {"pegs": 3}}, "levels={'pegs': 3}: expected 0 to 2 of pegs"),
        ({"law": "none"}, "law='none': expected one of usual, tilted"),
        ({"world_steps": 1}, "world_steps=1: expected 2 to 7"),
        ({"image_size": 40}, "image_size=40: expected a multiple of 16"),
        ({"start_from": "nowhere"}, "start_from='nowhere': has no gemma/config.json"),
        ({"align_learning_rate": 10**400}, "align_learning_rate=1000"),
        ({"workers": 257}, "workers=257: expected 1 to 256"),
        ({"seed": -1}, "seed=-1: expected 0 to 4294967295"),
    ],
)
def test_mistakes_are_named_with_what_was_expected(values: dict[str, Any], told: str) -> None:
    with pytest.raises((TheWorldError, FileNotFoundError)) as error:
        NanoConfig.from_dict(values)
    assert str(error.value).startswith(told)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"vae": {"base_dims": 16}}, "vae: unknown name 'base_dims': did you mean 'base_dim'?"),
        ({"vae": {"dim_mult": [1, 2]}}, "vae={'dim_mult': [1, 2]}: expected four numbers"),
        ({"vision": {"image_size": 64}}, "vision: unknown name 'image_size'"),
        ({"text": {"num_key_value_heads": 3}}, "text={'num_key_value_heads': 3}: no model has these sizes ("),
        ({"text": {"head_dim": 31}}, "text={'head_dim': 31}: no model has these sizes ("),
        ({"vision": {"num_attention_heads": 5}}, "vision={'num_attention_heads': 5}: no model has these sizes ("),
        (
            {"vision": {"patch_size": 5}},
            "vision={'patch_size': 5}: no model has these sizes (patches of 5 pix",
        ),
        ({"vision": {"patch_size": 16}}, "vision={'patch_size': 16}: no model has these sizes ("),
        ({"transformer": {"attention_head_dim": 8}}, "transformer={'attention_head_dim': 8}: no model has these sizes"),
        ({"text": {"hidden_size": "128"}}, "text: hidden_size='128': expected a value like 128"),
        ({"text": {"hidden_size": 0}}, "text: hidden_size=0: expected a value like 128"),
        ({"text": {"num_hidden_layers": True}}, "text: num_hidden_layers=True: expected a value like 5"),
        ({"text": {"head_dim": 32.5}}, "text: head_dim=32.5: expected a value like 32"),
        ({"transformer": {"mlp_ratio": None}}, "transformer: mlp_ratio=None: expected a value like 4.0"),
        ({"transformer": {"mlp_ratio": float("inf")}}, "transformer: mlp_ratio=inf: expected a value like 4.0"),
        ({"vae": {"dim_mult": 4}}, "vae: dim_mult=4: expected a value like [1, 2, 4, 4]"),
        ({"vae": {"base_dim": 10**9}}, "vae: base_dim=1000000000: expected a value like 8, from 1 to 4096"),
    ],
)
def test_only_sizes_of_the_nano_models_may_change(values: dict[str, Any], told: str) -> None:
    with pytest.raises(TheWorldError) as error:
        NanoConfig.from_dict(values)
    assert str(error.value).startswith(told)


def test_sizes_that_make_models_are_taken() -> None:
    larger = {"vae": {"base_dim": 12}, "transformer": {"num_layers": 2}, "text": {"hidden_size": 192}}
    assert NanoConfig.from_dict({**larger, "vision": {"patch_size": 8}, "image_size": 48}).vae == {"base_dim": 12}


def test_the_defaults_are_the_stages_own() -> None:
    from theworld.nano.dynamics import train_dynamics
    from theworld.nano.vae import train_vae
    from theworld.nano.vlm import train_vlm

    config = NanoConfig(device="cpu")
    for stage, told in (
        (train_vae, config.of_vae()),
        (train_dynamics, config.of_dynamics()),
        (train_vlm, config.of_vlm()),
    ):
        defaults = {name: entry.default for name, entry in inspect.signature(stage).parameters.items()}
        assert told == {name: defaults[name] for name in told}
        assert not told.keys() ^ {name for name, value in defaults.items() if value is not inspect.Parameter.empty} - {
            "decoder_steps"
        }


def test_counts_override_the_shipped_ones_of_the_chosen_kinds() -> None:
    assert all(DEFAULTS.counts(split) == SIZES[split] for split in SPLITS)
    config = NanoConfig(kinds=["pegs", "drop"], train={"pegs": 7})
    assert config.counts("train") == {"drop": SIZES["train"]["drop"], "pegs": 7}


def test_a_file_is_a_delta_with_comments(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"_why": "a test", "world_steps": 4, "seed": 3}), encoding="utf-8")
    config = NanoConfig.from_file(path, {"seed": 5})
    assert (config.frames, config.seed) == (17, 5)
    assert config.changes(DEFAULTS.to_dict()) == ["world_steps (3 -> 4)", "seed (0 -> 5)"]
    assert NanoConfig.from_dict(config.to_dict()) == config


def test_the_smoke_test_states_only_what_differs() -> None:
    given = {
        name: value for name, value in json.loads(SMOKE.read_text(encoding="utf-8")).items() if not name.startswith("_")
    }
    assert not [name for name, value in given.items() if value == getattr(DEFAULTS, name)]
    assert NanoConfig.from_file(SMOKE).workers == 1


def test_the_command_lists_every_key_and_takes_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["nano", "train", "--help"])
    shown = capsys.readouterr().out
    assert not [
        name for name in keys(NanoConfig) if f"--{name} VALUE" not in shown and f"--{name} [VALUE]" not in shown
    ]
    with pytest.raises(SystemExit, match="2"):
        main(["nano", "train", "--smoke", "--config", "mine.json"])
    assert "not allowed with" in capsys.readouterr().err
    assert main(["nano", "train", "--image_size", "40"]) == 2
    assert "image_size=40: expected a multiple of 16" in capsys.readouterr().err


def test_the_page_lists_the_keys_as_they_are() -> None:
    page = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "configuration_page.py"))
    assert page["NANO_PAGE"].read_text(encoding="utf-8") == page["nano_page"](), (
        "run python scripts/configuration_page.py"
    )


@pytest.mark.parametrize(("frames", "size"), [(9, 48), (17, 64)])
def test_clips_have_the_length_and_the_size_that_is_asked_for(frames: int, size: int) -> None:
    images, classes, record = make_clip(3, "drop", frames=frames, size=size)
    assert images.shape == (frames, size, size, 3)
    assert classes.shape == (frames, size, size)
    assert len(record["ball_xy"]) == len(record["ramp_lit"]) == frames
    assert record["outcomes"]


def test_a_larger_image_shows_the_same_scene() -> None:
    small, *_ = make_clip(3, "pegs")
    large, *_ = make_clip(3, "pegs", size=64)
    averaged = large.reshape(len(large), 32, 2, 32, 2, 3).mean((2, 4))
    assert abs(averaged - small).mean() < 1
