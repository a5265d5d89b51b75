"""Write delta and full checkpoints as safetensors. At any moment a folder holds the old checkpoint or the new one."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils.modeling import get_state_dict_offloaded_model
from huggingface_hub import CommitInfo, HfApi, save_torch_state_dict
from safetensors.torch import save
from torch import nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from theworld.constants import AUTO_MODULE
from theworld.utils.folders import place_for, put
from theworld.utils.io import write_bytes, write_text
from theworld.utils.weights import state_from_files, state_to_bytes

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
OURS = (
    *("model*.safetensors*", "config.json", "processor_config.json", "generation_config.json", "tokenizer*"),
    *("chat_template*", "special_tokens_map.json", f"{AUTO_MODULE}.py", GEMMA_FOLDER, COSMOS_FOLDER),
)


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
        ValueError: The folder is that of a base model, or holds one that a delta needs; or the checkpoint could not
            express the model. Nothing is written then.
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
    target = target.resolve()  # through a link, whose folder is replaced and not the link
    check_bases_stay(model.config, target, full=full)
    check_no_foreign_adapters(model)
    gathered = None if state_dict is None else {canonical(name): value for name, value in state_dict.items()}
    check_expressible(model, gathered)
    names = delta_names(model, gathered)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place_for(target), prefix=f".{target.name}.saving-") as temporary:
        folder = Path(temporary) / target.name
        write_checkpoint(model, folder, names, gathered, full=full, max_shard_size=max_shard_size)
        for name, content in (beside or {}).items():
            write_bytes(folder / name, content)
        if not (target / "README.md").exists():
            write_text(folder / "README.md", model_card(model, names, full=full))
        written = [f"{path.name}/**" if path.is_dir() else path.name for path in folder.iterdir()]
        put(folder, target, replaced=OURS, marks=("config.json", WEIGHTS, WEIGHTS_INDEX))
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


def check_bases_stay(config: Any, target: Path, *, full: bool) -> None:
    """Refuse to replace weights that would be lost.

    Raises:
        ValueError: `target` is the folder of a base model; or a standalone checkpoint that holds one and would become a
            delta; or a checkpoint with a world, which this model was loaded without.
    """
    saved = target / "config.json"
    if not config.enable_world and saved.is_file() and json.loads(saved.read_text("utf-8")).get("enable_world"):
        raise ValueError(
            f"{target}: it holds a checkpoint with a world, and this model has enable_world=False; save elsewhere"
        )
    replaced = () if full else (target / GEMMA_FOLDER, target / COSMOS_FOLDER)
    for base in (config.gemma_model_name, config.cosmos_model_name):
        if base is None or not Path(base).is_dir():
            continue
        folder = Path(base).resolve()
        if folder == target:
            raise ValueError(f"{target}: this is the folder of a base model; save to another folder")
        if any(own in (folder, *folder.parents) for own in replaced):
            raise ValueError(
                f"{target}: it holds the base models of this checkpoint; save with full=True, or to another folder"
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
        config.trained_steps = None  # edited by hand, or trained before steps were counted
    vars(config).pop("quantization_config", None)  # how this process loaded the base says nothing about the delta
    if full:
        config.gemma_model_name, config.gemma_subfolder, config.gemma_revision = f"./{GEMMA_FOLDER}", "", None
        save_gemma(model, folder / GEMMA_FOLDER, values)
        if model.model.world_encoder is not None:
            config.cosmos_model_name, config.cosmos_subfolder, config.cosmos_revision = f"./{COSMOS_FOLDER}", "", None
            model.model.world_encoder.save_source(folder / COSMOS_FOLDER, config.num_world_steps)
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    # Processor, and the module that lets transformers load both without an import of this package
    model.processor.save_pretrained(folder)
    write_text(folder / f"{AUTO_MODULE}.py", AUTO_CODE)
    for path in folder.rglob("*.safetensors"):  # written for their owner only
        path.chmod((folder / "config.json").stat().st_mode)


def base_dtype(model: Any) -> torch.dtype:
    """The dtype of Gemma's weights; components that train may be held in fp32 beside them."""
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
    tensors, described = state_to_bytes(state, epoch=epoch)
    save_theworld(model, path, beside={OPTIMIZER: tensors, OPTIMIZER_GROUPS: described})


def load_optimizer(path: str | Path, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote beside the weights into `optimizer`; returns `{"epoch": ...}`."""
    described = json.loads((Path(path) / OPTIMIZER_GROUPS).read_text(encoding="utf-8"))
    if optimizer is not None:
        optimizer.load_state_dict(state_from_files(Path(path) / OPTIMIZER, described))
    return {"epoch": described["epoch"]}


__all__ = ["load_optimizer", "save_checkpoint", "save_theworld"]
