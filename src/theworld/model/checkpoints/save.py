"""Write delta and full checkpoints as safetensors. At any moment a folder holds the old checkpoint or the new one."""

from __future__ import annotations

import copy
import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils.modeling import get_state_dict_offloaded_model
from huggingface_hub import CommitInfo, HfApi, save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from theworld.constants import AUTO_MODULE
from theworld.utils.io import write_bytes, write_text

from .card import model_card
from .delta import check_expressible, delta_names, summarise
from .lora import check_no_foreign_adapters
from .names import COSMOS_FOLDER, GEMMA_FOLDER, OPTIMIZER, OPTIMIZER_GROUPS, WEIGHTS, WEIGHTS_INDEX, canonical

AUTO_CLASSES = {
    "AutoConfig": "TheWorldConfig",
    "AutoModelForImageTextToText": "TheWorld",
    "AutoModelForMultimodalLM": "TheWorld",
}
AUTO_CODE = "from theworld import TheWorld, TheWorldConfig, TheWorldProcessor  # pip install theworld\n"
OURS = ("model*.safetensors*", "config.json", "processor_config.json", "generation_config.json", "tokenizer*")
OURS += ("chat_template*", "special_tokens_map.json", f"{AUTO_MODULE}.py", GEMMA_FOLDER, COSMOS_FOLDER)
RENAME_EXCHANGE, AT_FDCWD = 2, -100  # of Linux' renameat2


def save_theworld(
    model: Any,
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
    safe_serialization: bool = True,
    variant: str | None = None,
    save_function: Any = None,
    beside: Mapping[str, bytes] | None = None,
    **unknown: Any,
) -> CommitInfo | None:
    """Write delta, config, processor and model card; with `full`, the base models beside them.

    Args:
        state_dict: What a distributed trainer gathered.
        save_function: Accepted for the recipe of accelerate (`save_function=accelerator.save`). Files are always
            written as safetensors, by the main process.
        beside: More files, by name.

    Raises:
        TypeError: An argument is not one of these.
        ValueError: The folder is that of a base model; or the checkpoint could not express the model. Nothing is
            written then.
    """
    if unknown:
        raise TypeError(f"save_pretrained got {', '.join(unknown)}: not supported by TheWorld")
    if not safe_serialization or variant is not None:
        asked = f"variant={variant!r}" if variant is not None else "safe_serialization=False"
        raise ValueError(f"{asked}: TheWorld checkpoints are one set of safetensors; leave it out")
    if not is_main_process:
        return None
    target = Path(save_directory)
    if not str(save_directory) or target.is_file():
        raise ValueError(f"save_directory={str(save_directory)!r}: expected a folder")
    for base in (model.config.gemma_model_name, model.config.cosmos_model_name):
        if base is not None and Path(base).is_dir() and Path(base).resolve() == target.resolve():
            raise ValueError(f"{target}: a base model of this checkpoint lives there; save to another folder")
    check_no_foreign_adapters(model)
    gathered = None if state_dict is None else {canonical(name): value for name, value in state_dict.items()}
    check_expressible(model, gathered)
    names = delta_names(model, gathered)
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.saving-") as temporary:
        folder = Path(temporary) / target.name
        write_checkpoint(model, folder, names, gathered, full=full, max_shard_size=max_shard_size)
        for name, content in (beside or {}).items():
            write_bytes(folder / name, content)
        if not (target / "README.md").exists():
            write_text(folder / "README.md", model_card(model, full=full))
        written = [f"{path.name}/**" if path.is_dir() else path.name for path in folder.iterdir()]
        put(folder, target)
    if not push_to_hub:
        return None
    api = HfApi(token=token)
    repo = api.create_repo(repo_id or target.name, private=private, exist_ok=True).repo_id
    return api.upload_folder(
        repo_id=repo,
        folder_path=target,
        allow_patterns=[*written, "README.md"],
        commit_message=commit_message,
        revision=revision,
        create_pr=create_pr,
    )


def write_checkpoint(
    model: Any,
    folder: Path,
    names: list[str],
    gathered: Mapping[str, torch.Tensor] | None,
    *,
    full: bool,
    max_shard_size: int | str,
) -> None:
    """Write everything but the card to a new folder."""
    folder.mkdir()
    # Weights
    values = model_tensors(model) if gathered is None else gathered
    delta = {name: values[name].detach() for name in names}
    if delta:
        save_torch_state_dict(delta, folder, max_shard_size=max_shard_size)
    else:
        write_bytes(folder / WEIGHTS, save(delta))
    # Config
    config = copy.deepcopy(model.config)
    config.architectures = ["TheWorld"]  # also of what a trainer derives from it
    config.auto_map = {auto: f"{AUTO_MODULE}.{name}" for auto, name in AUTO_CLASSES.items()}
    config.dtype = base_dtype(model)
    config.changed = summarise(model, names)
    if model.world_is_trained and not (config.trained_steps or {}).get("projector"):
        config.trained_steps = None  # edited by hand: no step was counted
    vars(config).pop("quantization_config", None)  # how this process loaded the base says nothing about the delta
    if full:
        config.gemma_model_name, config.gemma_subfolder, config.gemma_revision = f"./{GEMMA_FOLDER}", "", None
        config.cosmos_model_name, config.cosmos_subfolder, config.cosmos_revision = f"./{COSMOS_FOLDER}", "", None
        save_gemma(model, folder / GEMMA_FOLDER, values)
        if model.model.world_encoder is not None:
            model.model.world_encoder.save_source(folder / COSMOS_FOLDER, config.num_world_steps)
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    # Processor, and the module that lets transformers load both without an import of this package
    model.processor.save_pretrained(folder)
    write_text(folder / f"{AUTO_MODULE}.py", AUTO_CODE)
    for path in folder.rglob("*.safetensors"):  # written for their owner only
        path.chmod((folder / "config.json").stat().st_mode)


def put(folder: Path, target: Path) -> None:
    """Give the new checkpoint in `folder` the name `target`, and keep what else lies there.

    An older checkpoint is exchanged for the new one in one step. Where the system cannot, the old one is set aside
    first, and `recover` brings it back after a crash in between.
    """
    recover(target)
    if not target.exists():
        folder.rename(target)
        return
    if not any((target / name).exists() for name in ("config.json", WEIGHTS, WEIGHTS_INDEX)):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):  # without it, no checkpoint
            if path.is_dir():
                shutil.rmtree(target / path.name, ignore_errors=True)
            path.replace(target / path.name)
        return
    replaced = {path.name for pattern in OURS for path in target.glob(pattern)}
    for path in target.iterdir():
        if path.name in replaced or (folder / path.name).exists():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, folder / path.name, symlinks=True, copy_function=link_or_copy)
        else:
            shutil.copy2(path, folder / path.name, follow_symlinks=False)
    here = Path.cwd()
    if not exchanged(folder, target):
        target.rename(aside(target))
        folder.rename(target)
        shutil.rmtree(aside(target), ignore_errors=True)
    os.chdir(here)  # by its name again: it may be the folder that was exchanged


def link_or_copy(source: str, target: str) -> None:
    """A second name for a file; where the file system has none, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def exchanged(first: Path, second: Path) -> bool:
    """Exchange two folders in one step, where the system can (Linux, on most file systems)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and not rename(
        AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE
    )


def aside(target: Path) -> Path:
    """Where `put` keeps an older checkpoint for a moment."""
    return target.with_name(f".{target.name}.old")


def recover(target: Path) -> None:
    """Bring back a checkpoint that a crash left set aside."""
    target = target.absolute()
    if aside(target).is_dir() and not target.exists():
        aside(target).rename(target)


def base_dtype(model: Any) -> torch.dtype:
    """The dtype of Gemma's weights; parts that train may be held in fp32 beside them."""
    dtype = cast(nn.Embedding, model.get_input_embeddings()).weight.dtype
    return dtype if dtype.is_floating_point else model.dtype


def model_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The model's tensors by the names that checkpoints have."""
    offloaded = any(value.is_meta for value in model.parameters())
    values = get_state_dict_offloaded_model(model) if offloaded else model.state_dict()
    return {canonical(name): value for name, value in values.items()}


def save_gemma(model: Any, folder: Path, values: Mapping[str, torch.Tensor]) -> None:
    """The Gemma 3 inside `model` as a stock repository."""
    gemma_fields: dict[str, Any] = {**model.config.to_dict(), "model_type": "gemma3", "architectures": None}
    for name in set(type(model.config)().to_dict()) - set(Gemma3Config().to_dict()):
        gemma_fields.pop(name, None)
    with torch.device("meta"):
        gemma = Gemma3ForConditionalGeneration(Gemma3Config(**gemma_fields))
    gemma.generation_config = model.generation_config
    gemma.config.dtype = base_dtype(model)
    cast(Any, gemma).to(base_dtype(model)).save_pretrained(
        folder, state_dict={name: values[name] for name in gemma.state_dict()}
    )
    model.processor.save_gemma(folder)


def save_checkpoint(model: Any, path: str | Path, optimizer: torch.optim.Optimizer | None, epoch: int | None) -> None:
    """`save_pretrained` with the optimiser: its tensors as safetensors, its groups and the epoch as JSON."""
    state: dict[str, Any] = {"state": {}, "param_groups": []} if optimizer is None else optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            place = tensors if isinstance(value, torch.Tensor) else scalars
            place[f"{index}.{key}"] = value
    described = {"epoch": epoch, "param_groups": state["param_groups"], "scalars": scalars}
    save_theworld(
        model, path, beside={OPTIMIZER: save(tensors), OPTIMIZER_GROUPS: json.dumps(described, indent=2).encode()}
    )


def load_optimizer(path: str | Path, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote beside the weights into `optimizer`; returns `{"epoch": ...}`."""
    described = json.loads((Path(path) / OPTIMIZER_GROUPS).read_text(encoding="utf-8"))
    if optimizer is not None:
        state: dict[int, dict[str, Any]] = {}
        with safe_open(Path(path) / OPTIMIZER, "pt") as file:
            entries = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        for key, value in {**entries, **described["scalars"]}.items():
            index, name = key.split(".", maxsplit=1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": described["param_groups"]})
    return {"epoch": described["epoch"]}


__all__ = ["WEIGHTS", "load_optimizer", "recover", "save_checkpoint", "save_theworld"]
