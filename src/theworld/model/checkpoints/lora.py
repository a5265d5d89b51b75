"""Low-rank adapters on the language model, by PEFT: injected when a model is loaded, saved in its delta, or merged."""

from __future__ import annotations

import sys
from typing import Any, cast

from torch import nn

from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require
from theworld.utils.patterns import full_matches

from ..configuration_theworld import LORA, TheWorldConfig

ADAPTER = "theworld"  # its name inside PEFT's layers tells our adapters from those that a user brings


def inject_lora(config: TheWorldConfig, language: nn.Module) -> None:
    """Add fresh adapters to the layers that the config's `lora` names; a ValueError if a layer is not linear."""
    peft, settings = require("train", "peft"), config.lora
    assert settings is not None
    rank, alpha, dropout, named = (settings[name] for name in LORA)
    targets = target_names(named, language)
    adapters = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)
    embeddings = [name for name, module in language.named_modules() if isinstance(module, nn.Embedding)]
    if any(target in named for target in embeddings):
        raise TheWorldError(f"lora target_modules={named!r}: adapters fit linear layers, not {', '.join(embeddings)}")
    peft.inject_adapter_in_model(adapters, language, adapter_name=ADAPTER)
    dtype = next(language.parameters()).dtype
    for name, parameter in language.named_parameters():
        if ".lora_" in name and dtype.is_floating_point:
            parameter.data = parameter.data.to(dtype)


def target_names(targets: str | list[str], language: nn.Module) -> str | list[str]:
    """`targets` for PEFT: a regular expression becomes the names that it matches; a ValueError if there are none."""
    if targets == "all-linear" or not isinstance(targets, str):
        return targets
    names = [name for name, module in language.named_modules() if isinstance(module, nn.Linear)]
    matched = full_matches(targets, names, "lora target_modules")
    if not matched:
        raise TheWorldError(f"lora target_modules={targets!r}: matches no linear layer of the language model")
    return matched


def check_same_lora(saved: dict[str, Any], config: TheWorldConfig, name: object) -> None:
    """Raise a ValueError if `config` has other adapters than the checkpoint; their dropout may change."""
    was, now = ({**(lora or {}), "dropout": None} for lora in (saved.get("lora"), config.lora))
    if "language_lora" in (saved.get("changed") or ()) and was != now:
        raise TheWorldError(
            f"{name}: its adapters were trained with lora={saved['lora']}, not {config.lora}: leave lora out, or merge "
            "them into the language model with merge_lora() first"
        )


def check_no_foreign_adapters(model: nn.Module) -> None:
    """Raise a ValueError for adapters that PEFT added besides the config's `lora`: a delta cannot hold them."""
    if "peft" not in sys.modules:
        return
    tuners, others = require("train", "peft.tuners.tuners_utils"), require("train", "peft.utils.other")
    wrappers = (tuners.BaseTunerLayer, others.AuxiliaryTrainingWrapper)
    for name, module in model.named_modules():
        if isinstance(module, wrappers) and cast(Any, module).active_adapters != [ADAPTER]:
            how = "save the PeftModel around this model, or set lora= when loading in place of peft.get_peft_model"
            raise TheWorldError(f"{name} has an adapter that PEFT added: {how}")


def merge_lora(model: Any) -> None:
    """Merge the adapters into the language model's weights, which checkpoints then hold.

    Raises:
        ValueError: There are none, or PEFT cannot merge them.
    """
    if model.config.lora is None:
        raise TheWorldError("merge_lora: the model has no adapters (config.lora is None)")
    tuner_layer = require("train", "peft.tuners.tuners_utils").BaseTunerLayer
    language: Any = model.model.language_model
    for name, module in list(language.named_modules()):
        if isinstance(module, tuner_layer):
            module.merge(safe_merge=True)
            language.set_submodule(name, module.get_base_layer())
    del language.peft_config
    for name in [name for name in model.fresh_tensors if ".lora_" in name]:
        del model.fresh_tensors[name]
    model.config.lora = None
    model.config.changed = [name for name in model.config.changed or () if name != "language_lora"]
    model.freeze()
