"""Write delta and full checkpoints as safetensors.

Saves are atomic: the folder holds either the old or the new checkpoint.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.modeling import get_state_dict_offloaded_model
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from theworld.constants import AUTO_MODULE
from theworld.utils.errors import TheWorldError
from theworld.utils.folders import place_for, put, read_object
from theworld.utils.io import write_bytes, write_text
from theworld.utils.signed_text import may_replace, signed
from theworld.utils.weights import shorten

from ..components import canonical
from .card import model_card, recorded_steps
from .delta import base_dtype, check_expressible, delta_names, summarise
from .lora import check_no_foreign_adapters

GEMMA_FOLDER, COSMOS_FOLDER = "gemma", "cosmos"
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
    target: Path,
    state_dict: Mapping[str, torch.Tensor] | None,
    beside: Mapping[str, bytes],
    max_shard_size: int | str,
    *,
    full: bool,
    thorough: bool,
) -> list[str]:
    """Replace `target` by a checkpoint, or leave it as it is; see `CheckpointMixin.save_pretrained`.

    Returns:
        Patterns of the files that were written.
    """
    # 1. Refuse what a checkpoint cannot express
    check_bases_stay(model.config, target, full=full)
    check_no_foreign_adapters(model)
    gathered = None if state_dict is None else {canonical(name): value for name, value in state_dict.items()}
    check_expressible(model, gathered)
    names = delta_names(model, gathered, thorough=thorough)
    values = model_tensors(model) if gathered is None else gathered
    # 2. Write a new folder, then move it into place
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place_for(target), prefix=f".{target.name}.saving-") as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        delta = {name: values[name].detach() for name in names}
        if broken := [name for name, value in delta.items() if not value.isfinite().all()]:
            raise TheWorldError(f"{shorten(broken)}: not finite, so the checkpoint would not load; nothing is saved")
        if delta:
            save_torch_state_dict(delta, folder, max_shard_size=max_shard_size)
        else:
            save_file(delta, folder / SAFE_WEIGHTS_NAME)
        write_config(model, folder, names, values, full=full)
        for name, content in beside.items():
            write_bytes(folder / name, content)
        if may_replace(target / "README.md"):  # keep a card that was edited by hand
            write_text(folder / "README.md", signed(model_card(model, names, full=full)))
        for path in folder.rglob("*.safetensors"):  # safetensors writes files that only their owner may read
            path.chmod((folder / "config.json").stat().st_mode)
        written = [f"{path.name}/**" if path.is_dir() else path.name for path in folder.iterdir()]
        put(folder, target, replaced=OURS, marks=("config.json", SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    return written


def check_bases_stay(config: Any, target: Path, *, full: bool) -> None:
    """Check that the save does not delete weights that exist nowhere else.

    Raises:
        ValueError: `target` is the folder of a base model; or a standalone checkpoint that holds one and would become a
            delta; or a checkpoint with a world, which this model was loaded without.
    """
    saved = target / "config.json"
    if not config.enable_world and saved.is_file() and read_object(saved).get("enable_world"):
        raise TheWorldError(
            f"{target}: it holds a checkpoint with a world, and this model has enable_world=False; save elsewhere"
        )
    replaced = () if full else (target / GEMMA_FOLDER, target / COSMOS_FOLDER)
    for base in (config.gemma_model_name, config.cosmos_model_name):
        if base is None or not Path(base).is_dir():
            continue
        folder = Path(base).resolve()
        if folder == target:
            raise TheWorldError(f"{target}: this is the folder of a base model; save to another folder")
        if any(own in (folder, *folder.parents) for own in replaced):
            raise TheWorldError(
                f"{target}: it holds the base models of this checkpoint; save with full=True, or to another folder"
            )


def write_config(model: Any, folder: Path, names: list[str], values: Mapping[str, torch.Tensor], *, full: bool) -> None:
    """Write the config, the processor and the code that loads them; with `full`, the base models in `values` too."""
    # 1. Describe this checkpoint in the config
    config = copy.deepcopy(model.config)
    config.architectures = ["TheWorld"]  # also for a class that a trainer derives from it
    config.auto_map = {auto: f"{AUTO_MODULE}.{name}" for auto, name in AUTO_CLASSES.items()}
    config.dtype = base_dtype(model)
    config.changed = summarise(model, names)
    config.trained_steps = recorded_steps(model)
    vars(config).pop("quantization_config", None)  # tells how this process loaded the base, not what the delta holds
    # 2. The base models
    if full:
        config.gemma_model_name, config.gemma_subfolder, config.gemma_revision = f"./{GEMMA_FOLDER}", "", None
        save_gemma(model, folder / GEMMA_FOLDER, values)
        if model.model.world_encoder is not None:
            config.cosmos_model_name, config.cosmos_subfolder, config.cosmos_revision = f"./{COSMOS_FOLDER}", "", None
            model.model.world_encoder.save_source(folder / COSMOS_FOLDER, config.num_world_steps)
    # 3. Write the files, with a module that lets transformers load them without an import of this package
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    write_text(folder / f"{AUTO_MODULE}.py", AUTO_CODE)


def model_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The model's tensors by the names that checkpoints have."""
    offloaded = any(value.is_meta for value in model.parameters())
    values = get_state_dict_offloaded_model(model) if offloaded else model.state_dict()
    return {canonical(name): value for name, value in values.items()}


def save_gemma(model: Any, folder: Path, values: Mapping[str, torch.Tensor]) -> None:
    """The Gemma 3 inside `model` as a stock repository."""
    own = type(model.config)().to_dict().keys() - Gemma3Config().to_dict().keys()
    fields: dict[str, Any] = {name: value for name, value in model.config.to_dict().items() if name not in own}
    fields |= {"model_type": "gemma3", "architectures": None}
    with torch.device("meta"):
        gemma: Any = Gemma3ForConditionalGeneration(Gemma3Config(**fields))
    gemma.generation_config = model.generation_config
    gemma.config.dtype = base_dtype(model)
    gemma.to(base_dtype(model)).save_pretrained(folder, state_dict={name: values[name] for name in gemma.state_dict()})
    model.processor.save_gemma(folder)
