"""A config says what it means, or is refused in one line that names the key."""

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from tests.training.runs import history, tiny_run, write_rows
from theworld import TheWorldConfig
from theworld.model.components import FUSIONS, PROJECTORS, WORLD_ENCODERS
from theworld.training.arguments import training_arguments
from theworld.training.config import NEEDS, REFUSED, RunSettings, TrainingConfig
from theworld.training.objectives import OBJECTIVES
from theworld.training.run import train
from theworld.utils.errors import TheWorldError
from theworld.utils.settings import keys
from theworld.utils.world_settings import WorldSettings

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
    assert set(DOCUMENTED.split()) <= keys(TrainingConfig).keys()
    stated = {"learning_rate": 1e-4, "batch_size": 4, "gradient_accumulation_steps": 4, "num_epochs": 3, "seed": 0}
    stated |= {"warmup_steps": 100, "weight_decay": 0.01, "max_grad_norm": 1.0, "output_dir": "./checkpoints"}
    stated |= {"save_steps": 500, "save_total_limit": 3, "log_to_tensorboard": True, "max_seq_length": 2048}
    assert {name: getattr(TrainingConfig(), name) for name in stated} == stated


def test_every_key_has_a_sentence() -> None:
    for name, key in keys(TrainingConfig).items():
        assert key.help[:1].isupper() or key.help.startswith("`"), name
        assert key.help.endswith("."), name
        key.check(key.default)


def test_every_field_of_the_model_and_of_the_trainer_is_a_key_or_refused_with_a_reason() -> None:
    stock = {entry.name: entry for entry in dataclasses.fields(TrainingArguments)}
    own = keys(RunSettings)
    for name in [*keys(WorldSettings), *stock]:
        assert (name in keys(TrainingConfig)) != (name in REFUSED), name
    assert REFUSED.keys() <= keys(WorldSettings).keys() | stock.keys()
    assert REFUSED["per_device_train_batch_size"] == "set batch_size"
    for name in stock.keys() & keys(TrainingConfig).keys() - own.keys():  # read from the source as the class has it
        default = stock[name].default
        assert keys(TrainingConfig)[name].default == default or keys(TrainingConfig)[name].unset, name


def test_what_a_key_names_is_what_the_registries_have() -> None:
    told = keys(WorldSettings)
    for name, table in (("world_encoder", WORLD_ENCODERS), ("projector", PROJECTORS), ("fusion", FUSIONS)):
        assert all(f"`{entry}`" in told[name].help for entry in table), name
    assert keys(RunSettings)["objective"].choices == tuple(OBJECTIVES)
    assert told.keys() <= TheWorldConfig().to_dict().keys()


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
        ({"nothing": 1}, "unknown config key 'nothing': docs/configuration.md lists the keys"),
        ({"world_promt": "a"}, "did you mean 'world_prompt'?"),
        ({"report_too": "none"}, "did you mean 'report_to'?"),
        ({"batch_size": "4"}, "batch_size='4': expected a whole number, got str"),
        ({"batch_size": 4.0}, "batch_size=4.0: expected a whole number, got float"),
        ({"batch_size": True}, "batch_size=True: expected a whole number, got bool"),
        ({"batch_size": None}, "batch_size=None: expected a whole number"),
        ({"batch_size": 0}, "batch_size=0: expected at least 1"),
        ({"train_world_steps": []}, "train_world_steps=[]: expected numbers of latent frames"),
        ({"train_world_steps": [0, -1]}, "train_world_steps=[0, -1]: expected numbers of latent frames"),
        ({"train_world_steps": [0], "objective": "align", "num_world_steps": 1}, "expected objective='answers'"),
        ({"train_world_steps": [0], "enable_world": False}, "train_world_steps=[0] and objective='answers' and enable"),
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
        ({"resume_from": "a", "resume_from_checkpoint": "b"}, "have the same meaning"),
        ({"objective": "align"}, "number of latent frames"),
        ({"batch_sizes": 4}, "did you mean 'batch_size'?"),
        (
            {"per_device_train_batch_size": 4},
            "config key 'per_device_train_batch_size' cannot be set: set batch_size",
        ),
        ({"fp16": True}, "set mixed_precision"),
        ({"remove_unused_columns": True}, "the collator makes the batches"),
        ({"changed": []}, "a checkpoint records it"),
        ({"optim": "adafctor"}, "optim='adafctor': expected one of adamw_torch, "),
        ({"adam_beta2": "0.9"}, "adam_beta2='0.9': expected a number, got str"),
        ({"save_strategy": "best"}, "expected one of steps, epoch"),
        ({"eval_strategy": "epoch"}, "without do_eval"),
        ({"dataset_name": "vrs"}, "dataset_name='vrs': expected one of blink, custom"),
        ({"world_encoder": "cosmo"}, "world_encoder='cosmo': expected one of cosmos"),
        ({"projector": "mpl"}, "projector='mpl': expected one of linear, mlp"),
        ({"fusion": "gate"}, "fusion='gate': expected one of tokens, gated"),
        ({"lora": {"rank": 8}}, "lora has rank: expected r"),
        ({"lora": {"r": 0}}, "lora r=0"),
        ({"world_inference_steps": 0}, "world_inference_steps=0: expected 1 to 1000"),
        ({"columns": {"picture": "img"}}, "columns has picture: expected some of image, question"),
        ({"columns": {"image": 3}}, "expected an object or null"),
        ({"dataset_name": ["vsr", "custom"], "weights": [1]}, "dataset_name has 2, weights has 1"),
        ({"train_dataset_path": ["a", "b"], "weights": [1, 0]}, "weights=[1, 0]: expected more than 0"),
        ({"weights": [1, 2]}, "expected a list of datasets too"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "contradict each other"),
        ({"lr_scheduler": "linear", "min_learning_rate_ratio": 0.1}, "only 'cosine' has one"),
        ({"streaming": True, "dataloader_drop_last": True}, "has no effect"),
        (
            {"optim_args": "nonsense"},
            "optim_args='nonsense': expected names and values of the optimiser, as in 'momentu",
        ),
        ({"optim_args": "momentum=0.9,"}, "expected names and values"),
        ({"adam_beta1": 5.0}, "adam_beta1=5.0: expected a share between 0 and 1"),
        ({"adam_epsilon": -1.0}, "adam_epsilon=-1.0: expected more than 0"),
        ({"ddp_timeout": 0}, "ddp_timeout=0: expected 1 to"),
        ({"lr_scheduler_kwargs": "nonsense"}, "lr_scheduler_kwargs='nonsense': expected an object or null, got str"),
        ({"include_num_input_tokens_seen": "x"}, "expected one of all, non_padding, no or true or false"),
        ({"dataloader_multiprocessing_context": "thread"}, "expected one of fork, spawn, forkserver or null"),
        ({"dataloader_multiprocessing_context": "fork"}, "num_workers=0"),
        ({"optim_target_modules": "all-linear"}, "cannot be set: the optimiser has one group"),
        ({"optim": "galore_adamw"}, "optim='galore_adamw': expected one of adamw_torch, "),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises((KeyError, ValueError)) as caught:
        TrainingConfig.from_dict(values)
    assert message in caught.value.args[0]
    assert "\n" not in caught.value.args[0]


LONG = "x" * 10_000


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": LONG},
        {"batch_size": [LONG] * 3},
        {"lr_scheduler": LONG},
        {"dataset_name": LONG},
        {"eval_strategy": LONG},
        {"optim": LONG},
        {"projector": LONG},
        {"columns": {LONG: "image"}},
        {"lora": {LONG: 1}},
        {"lora": {"r": LONG}},
        {"weights": [1.0] * 5000},
        {"resume_from": LONG, "resume_from_checkpoint": "b"},
        {LONG: 1},
    ],
    ids=lambda values: next(iter(values))[:20],
)
def test_a_long_value_is_shortened_in_the_error(values: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)) as caught:
        TrainingConfig.from_dict(values)
    assert len(caught.value.args[0]) < 1000
    assert "characters)" in caught.value.args[0]


def test_the_wrong_value_of_a_secret_is_not_shown() -> None:
    with pytest.raises(ValueError, match=r"hf_token=\*\*\*: expected text or null"):
        TrainingConfig.from_dict({"hf_token": ["my-own-secret"]})


def test_file_comments_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"_why": "a test", "batch_size": 2, "learning_rate": 1, "lora": {"r": 4}}', encoding="utf-8")
    config = TrainingConfig.from_file(path, {"batch_size": 8})
    assert (config.batch_size, config.learning_rate, config.lora) == (8, 1, {"r": 4})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "not JSON"),
        ("// no\n{}", "not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"batch_size": 1, "batch_size": 2}', "the key 'batch_size' is repeated in an object; remove one$"),
    ],
)
def test_unreadable_file_is_named(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=error) as caught:
        TrainingConfig.from_file(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such config file"):
        TrainingConfig.from_file(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="a folder, not a config file"):
        TrainingConfig.from_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("batch_size", "8", 8),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", ".001", 1e-3),
        ("learning_rate", "1E-4", 1e-4),
        ("max_steps", "+3", 3),
        ("max_steps", "1_000", 1000),
        ("world_image_size", "224", 224),
        ("world_image_size", "[480, 832]", [480, 832]),
        ("optim", "adafactor", "adafactor"),
        ("report_to", "none", None),
        ("lr_scheduler_kwargs", '{"power": 2}', {"power": 2}),
        ("train_dataset_path", '["a", "b"]', ["a", "b"]),
        ("columns", '{"image": "img"}', {"image": "img"}),
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
    parsed = keys(TrainingConfig)[name].parse(text)
    assert parsed == value
    assert type(parsed) is type(value)
    TrainingConfig(**{name: parsed})


@pytest.mark.parametrize(
    ("name", "text"),
    [("batch_size", "many"), ("streaming", "perhaps"), ("lora", "{r: 8}"), ("max_steps", "1e3"), ("learning_rate", "")],
)
def test_command_line_values_that_are_none(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=name):
        keys(TrainingConfig)[name].parse(text)


@pytest.mark.parametrize(
    ("name", "text", "example"),
    [
        ("weights", "1,2", "[1, 2]"),
        ("weights", "[a]", "[1, 2]"),
        ("report_to", "[wandb", '["a", "b"]'),
        ("train_dataset_path", "[" * 100_000, '["a", "b"]'),
        ("columns", "image:img", '{"name": "a"}'),
    ],
)
def test_a_list_or_an_object_is_shown_as_json(name: str, text: str, example: str) -> None:
    with pytest.raises(TheWorldError) as caught:
        keys(TrainingConfig)[name].parse(text)
    assert str(caught.value).endswith(f"; write it as JSON, as in '{example}'")


def test_token_is_kept_and_never_shown() -> None:
    config = TrainingConfig(hf_token=TOKEN)
    assert config.hf_token == TOKEN
    assert TOKEN not in repr(config) + str(config) + json.dumps(config.to_dict())
    assert TrainingConfig.from_dict(config.to_dict()) == dataclasses.replace(config, hf_token=None)


def test_resume_has_two_names() -> None:
    assert TrainingConfig(resume_from_checkpoint="runs/a").resume == "runs/a"
    assert TrainingConfig(resume_from="runs/a").resume == "runs/a"


def test_keys_of_the_trainer_reach_it(tmp_path: Path) -> None:
    config = TrainingConfig(
        output_dir=str(tmp_path),
        mixed_precision="no",
        optim="adafactor",
        adam_beta2=0.95,
        warmup_ratio=0.1,
        lr_scheduler="polynomial",
        lr_scheduler_kwargs={"power": 2.0},
        logging_first_step=True,
        hf_token=TOKEN,
        push_to_hub=True,
        hub_model_id="you/model",
    )
    arguments = training_arguments(config)
    assert (arguments.optim, arguments.adam_beta2, arguments.logging_first_step) == ("adafactor", 0.95, True)
    assert (arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs) == ("polynomial", {"power": 2.0})
    assert arguments.get_warmup_steps(50) == 5
    assert (arguments.per_device_train_batch_size, arguments.seed, arguments.data_seed) == (4, 0, 0)
    assert (arguments.hub_token, arguments.push_to_hub, arguments.report_to) == (None, False, [])
    saved = config.to_dict()
    assert saved["optim"] == "adafactor"
    assert "adam_beta1" not in saved  # transformers' default, which another version may change
    assert TrainingConfig.from_dict(saved) == dataclasses.replace(config, hf_token=None)


@pytest.mark.parametrize(
    ("report_to", "message"),
    [("wandb", "use log_to_tensorboard and log_to_wandb"), (["mlfow"], "expected one of")],
)
def test_loggers_are_checked(report_to: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        training_arguments(TrainingConfig(output_dir=str(tmp_path), mixed_precision="no", report_to=report_to))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": "sgd", "optim_args": "momentum=x"}, "optim_args='momentum=x' with optim='sgd': could not convert"),
        ({"optim": "sgd", "optim_args": "nesterov=true"}, "Nesterov momentum requires a momentum"),
        ({"optim": "sgd", "optim_args": "momentum=0.9, momentun=0.9"}, "' momentun=0.9' has no effect in SGD"),
        ({"optim_args": "momentum=0.9"}, "has no effect in AdamW: leave it out"),
        ({"adam_beta2": 1.0}, "adam_beta2=1.0: Invalid beta parameter at index 1: 1.0"),
        ({"lr_scheduler_kwargs": {"zz": 1}}, "{'zz': 1} with lr_scheduler='cosine': zz: expected num_cycles or"),
        ({"lr_scheduler_kwargs": {"num_cycles": "x"}}, "could not convert string to float: 'x'"),
        ({"lr_scheduler": "constant", "lr_scheduler_kwargs": {"a": 1}}, "a: expected nothing"),
        ({"lr_scheduler": "polynomial", "lr_scheduler_kwargs": {"power": None}}, "unsupported operand"),
        ({"lr_scheduler": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 0}}, "division by zero"),
    ],
)
def test_what_optimiser_and_schedule_refuse_is_known_before_the_model(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = TrainingConfig(output_dir=str(tmp_path), mixed_precision="no", **values)
    with pytest.raises(TheWorldError) as caught:
        training_arguments(config)
    assert message in str(caught.value)


@pytest.mark.parametrize("schedule", keys(TrainingConfig)["lr_scheduler"].choices)
def test_every_schedule_and_the_usual_optimisers_are_taken(schedule: str, tmp_path: Path) -> None:
    more = {"lr_scheduler_kwargs": {"num_decay_steps": 5}} if schedule == "warmup_stable_decay" else {}
    for optimizer, told in (("sgd", "momentum=0.9,nesterov=true"), ("adamw_torch", None), ("adafactor", None)):
        keys = {"optim": optimizer, "optim_args": told, "lr_scheduler": schedule, "mixed_precision": "no", **more}
        training_arguments(TrainingConfig(output_dir=str(tmp_path), **keys))


def test_keys_without_an_effect_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = {"eval_steps": 5, "wandb_run_name": "a", "run_name": "b", "true_future_share": 0.5, "num_workers": 1}
    config = TrainingConfig(output_dir=str(tmp_path), mixed_precision="no", optim="sgd", adam_beta1=0.5, **values)
    assert config.without_effect() == [
        "eval_steps=5 has no effect with do_eval=False",
        "wandb_run_name='a' has no effect with log_to_wandb=False",
        "true_future_share=0.5 has no effect with objective='answers'",
        "run_name='b' has no effect with report_to='none'",
    ]
    training_arguments(config)
    assert "adam_beta1=0.5 has no effect in SGD" in caplog.text
    named = {name for needed, names in NEEDS.items() for name in (needed, *names.split())}
    assert named <= keys(TrainingConfig).keys()
    for path in CONFIGS:
        assert TrainingConfig.from_file(path).without_effect() == []


def test_what_changes_the_losses_of_a_resumed_run_is_told() -> None:
    config = TrainingConfig(seed=1, optim="adafactor", logging_steps=3, world_seed=5)
    saved = {name: value for name, value in TrainingConfig().to_dict().items() if not name.startswith("world_")}
    assert config.changes(saved) == ["seed (0 -> 1)", "world_seed (None -> 5)", "optim (None -> adafactor)"]
    assert TrainingConfig().changes({}) == []  # a run folder of an earlier version, whose keys were fewer


STAGE = {"enable_world", "num_world_steps", "objective", "lora", "freeze_language_lora", "encode_once"}
STAGE |= {"freeze_gemma_vision", "freeze_gemma_language", "freeze_cosmos_vae", "split", "num_samples", "streaming"}
"""Keys that another stage, or other data, shows; or that change no loss."""
HARMLESS = {
    "auto_world_margin",
    "skip_budget",
    "use_gradient_checkpointing",
    "compile",
    "do_eval",
    "eval_steps",
    "eval_batch_size",
    "eval_split",
}
READ_FROM_FILES = {"world_latent_channels", "world_spatial_compression", "world_temporal_compression"}


def test_every_key_says_whether_a_resumed_run_may_change_it() -> None:
    own = [key for key in keys(TrainingConfig).values() if key.source != "TrainingArguments"]
    undecided = {key.name for key in own if not (key.shapes or key.local or key.secret)}
    assert undecided == STAGE | HARMLESS | READ_FROM_FILES


def test_the_page_lists_the_keys_as_they_are() -> None:
    page = runpy.run_path(str(FOLDER.parent / "scripts" / "configuration_page.py"))
    assert page["PAGE"].read_text(encoding="utf-8") == page["page"](), "run python scripts/configuration_page.py"


def test_a_run_obeys_keys_of_the_trainer(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> None:
    given: dict[str, Any] = {"optim": "adafactor", "save_strategy": "epoch", "eval_strategy": "epoch", "do_eval": True}
    given |= {"train_sampling_strategy": "sequential", "lr_scheduler": "polynomial", "warmup_ratio": 0.2}
    given["eval_dataset_path"] = str(write_rows(tmp_path, 4, "eval.jsonl"))
    result = train(tiny_run(tmp_path, gemma_folder, cosmos_folder, **given))
    run = Path(result.output_dir)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    saved = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert {name: saved.get(name) for name in given} == {**given, "train_sampling_strategy": "sequential"}
    assert sorted(history(run / "checkpoint-6", "eval_loss")) == [3, 6]
    rates = history(run / "checkpoint-6", "learning_rate")
    assert rates[3][0] == pytest.approx(1e-2, rel=0.3)


def test_a_run_folder_of_version_0_1_is_read(tmp_path: Path) -> None:
    """Its config.json has the keys that there were, and no other."""
    given = {name: keys(RunSettings)[name].default for name in DOCUMENTED.split() if name in keys(RunSettings)}
    given |= {"enable_world": True, "num_world_steps": 1, "max_world_steps": None, "freeze_gemma_vision": True}
    given |= {"cosmos_model_name": None, "lora": None, "projector": None, "fusion": None}
    del given["hf_token"]
    (tmp_path / "config.json").write_text(json.dumps(given), encoding="utf-8")
    config = TrainingConfig.from_file(tmp_path / "config.json")
    assert config == TrainingConfig(num_world_steps=1)
    assert config.changes(given) == []
