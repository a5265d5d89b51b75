"""Delta and full checkpoints: what is written, and what reading one demands. Only safetensors; nothing is unpickled."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub import HfApi, save_torch_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.utils import cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from theworld.utils.io import write_bytes, write_json, write_text

from .freezing import component_of, record_trained
from .lora import canonical, check_no_foreign_adapters
from .model_card import model_card
from .world_encoders import CosmosWorldEncoder
from .world_encoders.cosmos import padding_channels, without_padding_mask
from .world_encoders.prompt_embeds import save_prompt_embeds

if TYPE_CHECKING:
    from .modeling_theworld import TheWorld

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
OPTIMIZER, OPTIMIZER_GROUPS = "optimizer.safetensors", "optimizer.json"
SHOWN_KEYS = 8
GEMMA_COMPONENTS = ("vision", "language", "language_lora")


def delta_parameters(model: TheWorld) -> dict[str, nn.Parameter]:
    """What differs from the base models: the parameters of every component that ever trained, by their saved names."""
    ever = set(model.config.trained_components or ())
    return {canonical(name): value for name, value in model.named_parameters() if component_of(name) in ever}


def delta_keys(model: TheWorld) -> list[str]:
    """Names of what a delta checkpoint of `model` holds."""
    return list(delta_parameters(model))


def save_theworld(
    model: TheWorld,
    save_directory: str | Path,
    *,
    full: bool = False,
    is_main_process: bool = True,
    state_dict: dict[str, torch.Tensor] | None = None,
    max_shard_size: int | str = "5GB",
    push_to_hub: bool = False,
    repo_id: str | None = None,
    token: str | None = None,
    private: bool | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool | None = None,
    **unknown: Any,
) -> None:
    """Write delta, config, processor and model card; with `full`, the base models beside them.

    Every file replaces its predecessor only when it is whole. `state_dict` is what a distributed trainer gathered.

    Raises:
        TypeError: An argument is not one of these.
        ValueError: The folder is that of a base model, which would be overwritten; or PEFT put adapters in.
    """
    if unknown:
        raise TypeError(f"save_pretrained got {', '.join(unknown)}: not supported by TheWorld")
    if not is_main_process:
        return
    target = Path(save_directory)
    if not str(save_directory) or target.is_file():
        raise ValueError(f"save_directory={str(save_directory)!r}: expected a folder")
    for base in (model.config.gemma_model_name, model.config.cosmos_model_name):
        if base is not None and Path(base).is_dir() and Path(base).resolve() == target.resolve():
            raise ValueError(f"{target}: a base model of this checkpoint lives there; save to another folder")
    check_no_foreign_adapters(model)
    target.mkdir(parents=True, exist_ok=True)
    record_trained(model)
    config = copy.deepcopy(model.config)
    config.architectures = ["TheWorld"]  # also of what a trainer derives from it
    config.dtype = base_dtype(model)
    vars(config).pop("quantization_config", None)  # how this process loaded the base says nothing about the delta
    with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as temporary:
        folder = Path(temporary)
        if full:
            config.gemma_model_name, config.gemma_subfolder, config.gemma_revision = "./gemma", "", None
            config.cosmos_model_name, config.cosmos_subfolder, config.cosmos_revision = "./cosmos", "", None
            save_gemma(model, folder / "gemma", state_dict)
            if isinstance(model.model.world_encoder, CosmosWorldEncoder):
                save_cosmos(model.model.world_encoder, folder / "cosmos")
        values = saved_names(model, state_dict)
        delta = {name: values[name].detach() for name in delta_keys(model)}
        save_torch_state_dict(delta, folder, max_shard_size=max_shard_size)
        config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        model.processor.save_pretrained(folder)
        if not (target / "README.md").exists():
            write_text(folder / "README.md", model_card(model, full=full))
        for stale in target.glob("model*.safetensors*"):  # other shards than the new ones
            if not (folder / stale.name).exists():
                stale.unlink()
        written = [f"{path.name}/**" if path.is_dir() else path.name for path in folder.iterdir()]
        _move_into(folder, target)
    if push_to_hub:
        api = HfApi(token=token)
        repo = api.create_repo(repo_id or target.name, private=private, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=repo,
            folder_path=target,
            allow_patterns=[*written, "README.md"],
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )


def base_dtype(model: TheWorld) -> torch.dtype:
    """The dtype of Gemma's weights; parts that train may be held in fp32 beside them."""
    dtype = cast(nn.Embedding, model.get_input_embeddings()).weight.dtype
    return dtype if dtype.is_floating_point else model.dtype


def saved_names(model: TheWorld, state_dict: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """The model's tensors, or what a trainer gathered of them, by the names that checkpoints have."""
    values = model.state_dict() if state_dict is None else state_dict
    return {canonical(name): value for name, value in values.items()}


def save_gemma(model: TheWorld, folder: Path, state_dict: dict[str, torch.Tensor] | None = None) -> None:
    """The Gemma 3 inside `model` as a stock repository."""
    gemma_fields: dict[str, Any] = {**model.config.to_dict(), "model_type": "gemma3", "architectures": None}
    for name in set(type(model.config)().to_dict()) - set(Gemma3Config().to_dict()):
        gemma_fields.pop(name, None)
    with torch.device("meta"):
        gemma = Gemma3ForConditionalGeneration(Gemma3Config(**gemma_fields))
    gemma.generation_config = model.generation_config
    values = saved_names(model, state_dict)
    gemma.config.dtype = base_dtype(model)
    cast(Any, gemma).to(base_dtype(model)).save_pretrained(
        folder, state_dict={name: values[name] for name in gemma.state_dict()}
    )
    model.processor.save_gemma(folder)


def save_cosmos(encoder: CosmosWorldEncoder, folder: Path) -> None:
    """The components of `encoder` as a Cosmos-Predict2 repository, with its prompt's embedding in place of a T5."""
    encoder.vae.save_pretrained(folder / "vae")
    transformer, scheduler = encoder.dynamics()
    transformer.register_to_config(concat_padding_mask=padding_channels(transformer) > 0)
    transformer.save_pretrained(folder / "transformer")
    without_padding_mask(transformer)
    scheduler.save_pretrained(folder / "scheduler")
    forget_origin(folder)
    for prompt, embeds in zip(encoder.prompts(), encoder.prompt_embeds(), strict=True):
        save_prompt_embeds(folder, prompt, embeds)


def forget_origin(folder: Path) -> None:
    """Take out where diffusers loaded the components of a Cosmos folder from: a path of this machine."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        write_json(path, config)


def read_delta(name: str | Path, subfolder: str = "", **hub: Any) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, whole or sharded, local or on the Hub.

    Raises:
        FileNotFoundError: There are no safetensors weights.
        ValueError: A file is damaged.
    """
    optional = {"_raise_exceptions_for_missing_entries": False, "subfolder": subfolder, **hub}
    weights = cached_file(name, WEIGHTS, **optional)
    index = None if weights is not None else cached_file(name, WEIGHTS_INDEX, **optional)
    if weights is None and index is None:
        raise FileNotFoundError(f"{name}: no {WEIGHTS} and no {WEIGHTS_INDEX}; only safetensors checkpoints are read")
    files = (
        [weights]
        if weights
        else cast(list[str], get_checkpoint_shard_files(name, index, subfolder=subfolder, **hub)[0])
    )
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: damaged safetensors file ({error}); copy or download it again") from error
    return tensors


@torch.no_grad()
def load_delta(
    model: TheWorld, tensors: dict[str, torch.Tensor], name: str | Path, *, keep_dtype: bool = False
) -> None:
    """Copy a checkpoint's tensors into `model`, which holds the base weights.

    Args:
        keep_dtype: Hold them in the dtype they were saved in: what trained in fp32 beside a bf16 base stays exact.

    Raises:
        ValueError: Keys are missing, unexpected or of another shape; lists them.
    """
    parameters = delta_parameters(model)
    expected = set(parameters)
    if not model.config.enable_world:  # the caller turned the world off: its weights have no place
        tensors = {key: value for key, value in tensors.items() if component_of(key) in GEMMA_COMPONENTS}
    problems = {
        "missing": sorted(expected - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected),
        "misshapen": [
            f"{key} {tuple(value.shape)} instead of {tuple(parameters[key].shape)}"
            for key, value in sorted(tensors.items())
            if key in expected and value.shape != parameters[key].shape
        ],
        "not finite": sorted(key for key, value in tensors.items() if not value.isfinite().all()),
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_shorten(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(f"{name}: the checkpoint does not fit its config: {listed}")
    for key, value in tensors.items():
        if keep_dtype:
            parameters[key].data = parameters[key].data.to(value.dtype)
        parameters[key].copy_(_as_sharded(value, parameters[key]))


def _as_sharded(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`value` in the shards of `parameter`, where FSDP cut it up."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def save_checkpoint(
    model: TheWorld, path: str | Path, optimizer: torch.optim.Optimizer | None, epoch: int | None
) -> None:
    """`save_pretrained`, then the optimiser: its tensors as safetensors, its groups and the epoch as JSON."""
    model.save_pretrained(path)
    state: dict[str, Any] = {"state": {}, "param_groups": []} if optimizer is None else optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            place = tensors if isinstance(value, torch.Tensor) else scalars
            place[f"{index}.{key}"] = value
    write_bytes(Path(path) / OPTIMIZER, save(tensors))
    described = {"epoch": epoch, "param_groups": state["param_groups"], "scalars": scalars}
    write_json(Path(path) / OPTIMIZER_GROUPS, described)


def load_checkpoint(model: TheWorld, path: str | Path, optimizer: torch.optim.Optimizer | None) -> int | None:
    """Read what `save_checkpoint` wrote; returns the epoch."""
    load_delta(model, read_delta(path), path)
    described = json.loads((Path(path) / OPTIMIZER_GROUPS).read_text())
    if optimizer is not None:
        state: dict[int, dict[str, Any]] = {}
        with safe_open(Path(path) / OPTIMIZER, "pt") as file:
            entries = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        for key, value in {**entries, **described["scalars"]}.items():
            index, name = key.split(".", maxsplit=1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": described["param_groups"]})
    return described["epoch"]


def checkpoint_subfolder(checkpoint_name: str | None) -> str:
    """The folder inside a repository that `checkpoint_name`, a folder or a file in one, means."""
    if checkpoint_name is None:
        return ""
    path = Path(checkpoint_name)
    folder = path.parent if path.suffix in (".safetensors", ".json") else path
    return "" if folder == Path() else folder.as_posix()


def _move_into(folder: Path, target: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(target / path.name, ignore_errors=True)
        path.replace(target / path.name)


def _shorten(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more


__all__ = [
    "checkpoint_subfolder",
    "delta_keys",
    "delta_parameters",
    "load_checkpoint",
    "load_delta",
    "read_delta",
    "save_checkpoint",
    "save_theworld",
]
