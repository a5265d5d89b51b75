"""A config says what it means, or is refused in one line that names the key."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from theworld.training.config import TrainingConfig, field_types, parse_value

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(path for path in FOLDER.glob("*.json") if not path.name.startswith("eval_"))  # of `theworld evaluate`
TOKEN = "hf_" + "x" * 34
DOCUMENTED = """
model_name cosmos_model_name enable_world num_world_steps max_world_steps freeze_gemma_vision freeze_gemma_language
freeze_cosmos_vae learning_rate batch_size gradient_accumulation_steps num_epochs max_steps warmup_steps
weight_decay max_grad_norm use_gradient_checkpointing mixed_precision output_dir save_steps save_total_limit
resume_from_checkpoint do_eval eval_steps eval_batch_size logging_steps log_to_tensorboard log_to_wandb
wandb_project wandb_run_name max_seq_length num_workers pin_memory persistent_workers prefetch_factor dataset_name
train_dataset_path eval_dataset_path image_folder num_samples streaming question_template draw_bboxes hf_token
push_to_hub hub_model_id hub_strategy hub_private_repo seed
"""


def test_keys_that_readers_are_told_exist() -> None:
    assert set(DOCUMENTED.split()) <= field_types().keys()
    stated = {"learning_rate": 1e-4, "batch_size": 4, "gradient_accumulation_steps": 4, "num_epochs": 3, "seed": 0}
    stated |= {"warmup_steps": 100, "weight_decay": 0.01, "max_grad_norm": 1.0, "output_dir": "./checkpoints"}
    stated |= {"save_steps": 500, "save_total_limit": 3, "log_to_tensorboard": True, "max_seq_length": 2048}
    assert {name: getattr(TrainingConfig(), name) for name in stated} == stated


def test_every_key_is_explained() -> None:
    doc = TrainingConfig.__doc__ or ""
    assert [name for name in field_types() if f"        {name}: " not in doc] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_states_only_what_differs(path: Path) -> None:
    given = {
        name: value for name, value in json.loads(path.read_text(encoding="utf-8")).items() if not name.startswith("_")
    }
    config = TrainingConfig.from_file(path)
    defaults = TrainingConfig().to_dict()
    assert [name for name, value in given.items() if value == defaults[name]] == []
    assert {name: getattr(config, name) for name in given} == given


def test_the_configs_that_readers_are_told_to_use_are_shipped() -> None:
    named = {"default", "smoke_test", "datacomp_test", "datacomp_production", "spatial_rgpt_training", "vsr_training"}
    assert named <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lerning_rate": 1e-3}, "unknown config key 'lerning_rate': did you mean 'learning_rate'"),
        ({"zzz": 1}, "unknown config key 'zzz'"),
        ({"batch_size": "4"}, "batch_size='4': expected a whole number, got str"),
        ({"batch_size": 4.0}, "batch_size=4.0: expected a whole number, got float"),
        ({"batch_size": True}, "batch_size=True: expected a whole number, got bool"),
        ({"batch_size": None}, "batch_size=None: expected a whole number"),
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"streaming": 1}, "streaming=1: expected true or false, got int"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: expected a number"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: expected more than 0"),
        ({"mixed_precision": "int8"}, "mixed_precision='int8': expected one of no, fp16, bf16"),
        ({"mixed_precision": "fp16"}, "mixed_precision='fp16': float16: Gemma 3 overflows"),
        ({"world_position": "end"}, "expected one of after_bos, before_image or null"),
        ({"skip_budget": 5}, "skip_budget=5: expected a share between 0 and 1"),
        ({"lora": [8]}, "lora=[8]: expected an object or null, got list"),
        ({"model_name": ""}, "model_name='': expected a name"),
        ({"do_eval": True}, "without eval_dataset_path"),
        ({"push_to_hub": True}, "without hub_model_id"),
        ({"prefetch_factor": 2}, "num_workers=0"),
        ({"resume_from": "a", "resume_from_checkpoint": "b"}, "two names of one thing"),
        ({"objective": "align"}, "number of latent frames"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises((KeyError, ValueError)) as caught:
        TrainingConfig.from_dict(values)
    assert message in caught.value.args[0]
    assert "\n" not in caught.value.args[0]


def test_file_comments_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"_why": "a test", "batch_size": 2, "learning_rate": 1, "lora": {"r": 4}}', encoding="utf-8")
    config = TrainingConfig.from_file(path, {"batch_size": 8})
    assert (config.batch_size, config.learning_rate, config.lora) == (8, 1, {"r": 4})


@pytest.mark.parametrize(
    ("text", "error"), [("{", "not JSON"), ("// no\n{}", "not JSON"), ("[1]", "expected a JSON object")]
)
def test_unreadable_file_is_named(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=error) as caught:
        TrainingConfig.from_file(path)
    assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such config file"):
        TrainingConfig.from_file(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("batch_size", "8", 8),
        ("learning_rate", "1e-3", 1e-3),
        ("num_epochs", "2", 2),
        ("max_steps", "none", None),
        ("streaming", "true", True),
        ("enable_world", "False", False),
        ("model_name", "nano", "nano"),
        ("num_samples", "null", None),
        ("mixed_precision", "no", "no"),
        ("resume_from", "none", None),
        ("lora", '{"r": 8}', {"r": 8}),
        ("hub_model_id", "1234", "1234"),
    ],
)
def test_command_line_values_take_the_keys_type(name: str, text: str, value: Any) -> None:
    parsed = parse_value(name, text)
    assert parsed == value
    assert type(parsed) is type(value)
    TrainingConfig(**{name: parsed})


@pytest.mark.parametrize(("name", "text"), [("batch_size", "many"), ("streaming", "perhaps"), ("lora", "{r: 8}")])
def test_command_line_values_that_are_none(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=name):
        parse_value(name, text)


def test_token_is_kept_and_never_shown() -> None:
    config = TrainingConfig(hf_token=TOKEN)
    assert config.hf_token == TOKEN
    assert TOKEN not in repr(config) + str(config) + json.dumps(config.to_dict())
    assert TrainingConfig.from_dict(config.to_dict()) == dataclasses.replace(config, hf_token=None)


def test_resume_has_two_names() -> None:
    assert TrainingConfig(resume_from_checkpoint="runs/a").resume == "runs/a"
    assert TrainingConfig(resume_from="runs/a").resume == "runs/a"
