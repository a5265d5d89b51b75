"""Two CPU processes give the losses of one; the accelerate configs say what they are meant to."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.fsdp import OffloadPolicy
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.run import get_args_parser as torchrun_parser

from tests.model.helpers import load_world
from tests.processes import theworld, torchrun
from tests.training import fsdp_worker, signalled_run
from tests.training.runs import history, tiny_run, write_rows
from theworld import TheWorld
from theworld.cli.main import build_parser
from theworld.training.config import TrainingConfig
from theworld.training.distributed import IGNORED_MODULE, WRAPPED_LAYERS, check_shardable, configure_fsdp
from theworld.training.run import train
from theworld.utils.settings import keys

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "distributed.md"
CONFIGS = ROOT / "configs" / "accelerate"
STAGES: dict[str, dict[str, Any]] = {
    "projection": {},
    "all": {"freeze_gemma_vision": False, "freeze_gemma_language": False},
}


# ----------------------------------------------------------------------------------------------- accelerate configs


def launched(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that `accelerate launch` gives to the processes of a config."""
    arguments = launch_command_parser().parse_args(["--config_file", str(CONFIGS / name), "train.py"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, environment = prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare_multi_gpu_env(arguments)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    return environment


def test_every_config_loads_and_leaves_the_precision_to_the_training_config() -> None:
    types = {"single_gpu": "NO", "multi_gpu_ddp": "MULTI_GPU", "multi_gpu_fsdp": "FSDP"}
    types |= {"deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
    found = {path.stem: load_config_from_file(str(path)) for path in CONFIGS.glob("*.yaml")}
    assert {name: config.distributed_type.value for name, config in found.items()} == types
    assert all(config.mixed_precision is None for config in found.values())
    assert {name: config.num_processes for name, config in found.items() if name != "single_gpu"} == dict.fromkeys(
        types.keys() - {"single_gpu"}, 4
    )
    assert found["single_gpu"].num_processes == 1


def test_fsdp_config_states_the_policy_of_shard(monkeypatch: pytest.MonkeyPatch, model: TheWorld) -> None:
    environment = launched("multi_gpu_fsdp.yaml", monkeypatch)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert tuple(plugin.transformer_cls_names_to_wrap) == WRAPPED_LAYERS
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type is StateDictType.FULL_STATE_DICT
    assert type(plugin.cpu_offload) is OffloadPolicy
    assert plugin.cpu_ram_efficient_loading is False
    assert plugin.activation_checkpointing is False
    names = [name for name, _ in model.named_modules() if re.fullmatch(plugin.ignored_modules, name)]
    assert names == [IGNORED_MODULE]
    plugin.set_auto_wrap_policy(model)  # finds the classes in the model
    assert {cls.__name__ for cls in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]} == set(WRAPPED_LAYERS)


def test_fsdp_reduces_gradients_in_fp32_and_does_not_round_the_loss(
    monkeypatch: pytest.MonkeyPatch, model: TheWorld
) -> None:
    launched("multi_gpu_fsdp.yaml", monkeypatch)
    plugin = FullyShardedDataParallelPlugin()
    configure_fsdp(plugin, model)
    assert plugin.mixed_precision_policy is None
    plugin.set_mixed_precision("bf16")  # what the trainer's accelerator does for mixed_precision="bf16"
    configure_fsdp(plugin, model)
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_configs(monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    launched(f"deepspeed_zero{stage}.yaml", monkeypatch)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    assert plugin.zero3_init_flag is False
    assert plugin.zero3_save_16bit_model is (stage == 3)
    assert (plugin.gradient_accumulation_steps, plugin.gradient_clipping) == ("auto", "auto")
    zero = plugin.deepspeed_config["zero_optimization"]
    assert zero["stage"] == stage
    assert zero["stage3_gather_16bit_weights_on_model_save"] is (stage == 3)
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "none"
    plugin.set_mixed_precision("bf16")
    assert plugin.deepspeed_config["bf16"]["enabled"] is True


# ------------------------------------------------------------------------------------------- documented commands


def documented() -> list[str]:
    """The commands that docs/distributed.md shows, none of which runs on one CPU."""
    fences = re.findall(r"^```bash no-run\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for fence in fences for line in fence.splitlines() if not line.startswith("pip install")]


@pytest.mark.parametrize("command", documented())
def test_documented_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(command)
    if program == "sbatch":
        script = next(word for word in words if word.endswith(".sh"))
        assert Path(script).is_file()
        given = words[words.index(script) + 1 :]
    else:
        words = words[1:] if program == "accelerate" else words
        parser = {"accelerate": launch_command_parser, "torchrun": torchrun_parser}[program]()
        arguments = parser.parse_args(words)
        if program == "accelerate":
            _validate_launch_command(arguments)  # reads the config file
        assert (arguments.module, arguments.training_script) == (True, "theworld.cli.main")
        name, *given = arguments.training_script_args
        assert name == "train"
    options = vars(build_parser().parse_args(["train", *given]))
    known = keys(TrainingConfig)
    given = {key: known[key].parse(value) for key, value in options.items() if key in known}
    TrainingConfig.from_file(options["config"], given)


@pytest.mark.parametrize("script", sorted((ROOT / "configs" / "slurm").glob("*.sh")), ids=lambda path: path.name)
def test_job_script_is_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if script.name != "train_and_requeue.sh":
        text = script.read_text(encoding="utf-8")
        assert {"#SBATCH --requeue", "#SBATCH --signal=B:USR1@600"} <= set(text.splitlines())
        assert text.endswith("\nsource configs/slurm/train_and_requeue.sh\n")


# --------------------------------------------------------------------------------------------------------- sharding


@pytest.fixture(scope="module")
def model(gemma_folder: Path, cosmos_folder: Path) -> TheWorld:
    return load_world(gemma_folder, cosmos_folder)


def test_a_world_encoder_that_trains_is_not_sharded_around(gemma_folder: Path, cosmos_folder: Path) -> None:
    check_shardable(load_world(gemma_folder, cosmos_folder))
    with pytest.raises(ValueError, match=r"freeze_cosmos_vae=False with FSDP.*multi_gpu_ddp"):
        check_shardable(load_world(gemma_folder, cosmos_folder, freeze_cosmos_vae=False))


@pytest.fixture(scope="module")
def sharded(gemma_folder: Path, cosmos_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Per stage the folder of a run in one process, and that of a run sharded over two."""
    folder = tmp_path_factory.mktemp("sharded")

    def job(name: str, processes: int) -> dict[str, Any]:
        bases = {"gemma": str(gemma_folder), "cosmos": str(cosmos_folder)}
        return {**bases, "out": str(folder / str(processes) / name), "options": STAGES[name]}

    torchrun(folder / "logs", fsdp_worker.main, [job(name, 2) for name in STAGES])
    for name in STAGES:
        fsdp_worker.run(job(name, 1), ranks=[0, 1])
    return {name: [Path(job(name, processes)["out"]) for processes in (1, 2)] for name in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_fsdp_gives_the_losses_of_one_process(sharded: dict[str, list[Path]], stage: str) -> None:
    """Also where one process has a batch of text alone, and with it no image for the layers that the other gathers."""
    one, two = (torch.load(folder / "trained.pt") for folder in sharded[stage])
    assert len(set(one["losses"])) == fsdp_worker.STEPS
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    torch.testing.assert_close(two["logits"], one["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_sharded_models_delta_loads_in_one_process(sharded: dict[str, list[Path]], stage: str) -> None:
    for folder in sharded[stage]:
        model = TheWorld.from_pretrained(folder)
        with torch.no_grad():
            logits = model(**fsdp_worker.batches(model)[0][0]).logits
        torch.testing.assert_close(logits, torch.load(folder / "trained.pt")["logits"], rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- DDP


def test_ddp_gives_the_losses_of_one_process_also_when_one_of_them_gets_a_signal(
    tmp_path: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    """Every part trains, and every second row is text alone: in most steps one process has no image."""
    rows = [json.loads(line) for line in write_rows(tmp_path, 12).read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(row | ({"image": None} if index % 2 else {})) + "\n" for index, row in enumerate(rows)]
    (tmp_path / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    keys: dict[str, Any] = {"gradient_accumulation_steps": 1, "num_epochs": 1, "learning_rate": 1e-3, "save_steps": 100}
    keys |= {"freeze_gemma_vision": False, "freeze_gemma_language": False, "freeze_cosmos_vae": False}
    keys |= {"do_eval": True, "eval_steps": 3, "eval_dataset_path": str(tmp_path / "train.jsonl")}
    one = train(tiny_run(tmp_path, gemma_folder, cosmos_folder, **keys, output_dir=str(tmp_path / "one")))

    config = tiny_run(tmp_path, gemma_folder, cosmos_folder, **keys, batch_size=1)
    config_file, run = tmp_path / "config.json", Path(config.output_dir)
    config_file.write_text(json.dumps(config.to_dict()), encoding="utf-8")
    command = ["train", "--config", str(config_file)]
    stopped = torchrun(tmp_path / "stopped", signalled_run.signalled, *command, code=75)
    assert "step 3," in stopped
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-3"]
    torchrun(tmp_path / "resumed", theworld, *command, "--resume_from", "auto")

    expected, found = history(str(one.checkpoint), "loss"), history(run / f"checkpoint-{one.step}", "loss")
    assert found.keys() == expected.keys() == set(range(1, 7))
    for step, losses in expected.items():
        assert found[step] == pytest.approx(losses, rel=1e-4)
    expected, found = (history(end, "eval_loss") for end in (str(one.checkpoint), run / f"checkpoint-{one.step}"))
    assert found[6] == pytest.approx(expected[6], rel=1e-4)
