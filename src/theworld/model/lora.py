"""Low-rank adapters on the language model, by PEFT: injected when a model is loaded, saved in its delta, or merged."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from theworld.utils.imports import require

from .freezing import COMPONENTS, apply_freezing

if TYPE_CHECKING:
    from .configuration_theworld import TheWorldConfig
    from .modeling_theworld import TheWorld

ADAPTER = "theworld"
"""Its name inside PEFT's layers: what tells our adapters from those that a user brings."""


def inject_lora(model: TheWorld) -> None:
    """Wrap the language model's layers that the config's `lora` names; fresh adapters change no logits.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: `target_modules` names no layer, or one that is not linear.
    """
    peft, settings = require("train", "peft"), model.config.lora
    assert settings is not None
    language = model.model.language_model
    adapters = peft.LoraConfig(
        r=settings["r"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=settings["target_modules"],
    )
    named = settings["target_modules"]
    embeddings = [name for name, module in language.named_modules() if isinstance(module, nn.Embedding)]
    if any(target in named for target in embeddings):
        raise ValueError(f"lora target_modules={named!r}: adapters go on linear layers, not on {', '.join(embeddings)}")
    peft.inject_adapter_in_model(adapters, language, adapter_name=ADAPTER)
    dtype = next(language.parameters()).dtype
    for name, parameter in language.named_parameters():
        if ".lora_" in name and dtype.is_floating_point:
            parameter.data = parameter.data.to(dtype)


def check_same_lora(saved: dict[str, Any], config: TheWorldConfig, name: object) -> None:
    """Refuse other adapters than those that a checkpoint was saved with; only their dropout may change.

    Raises:
        ValueError: Names both settings.
    """
    was, now = ({**(lora or {}), "dropout": None} for lora in (saved.get("lora"), config.lora))
    if "language_lora" in (saved.get("trained_components") or ()) and was != now:
        raise ValueError(
            f"{name}: its adapters were trained with lora={saved['lora']}, not {config.lora}: leave lora out, or fold "
            "them into the language model with merge_lora() first"
        )


def canonical(name: str) -> str:
    """The name of a parameter without PEFT's wrapper around its layer: as the base model has it."""
    return name.replace(".base_layer.", ".")


def check_no_foreign_adapters(model: nn.Module) -> None:
    """Refuse adapters that PEFT put in beside the config's `lora`: a delta would not know how to load them.

    Raises:
        ValueError: Names a layer that has one.
    """
    if "peft" not in sys.modules:
        return
    wrappers = (
        require("train", "peft.tuners.tuners_utils").BaseTunerLayer,
        require("train", "peft.utils.other").AuxiliaryTrainingWrapper,
    )
    for name, module in model.named_modules():
        if isinstance(module, wrappers) and cast(Any, module).active_adapters != [ADAPTER]:
            raise ValueError(
                f"{name} has an adapter that PEFT put there: save the PeftModel around this model, or set lora= when "
                "loading in place of peft.get_peft_model"
            )


def merge_lora(model: TheWorld) -> None:
    """Fold the adapters into the language model's weights, which then belong to the checkpoint.

    Raises:
        ValueError: There are none, or PEFT cannot merge them.
    """
    if model.config.lora is None:
        raise ValueError("merge_lora: the model has no adapters (config.lora is None)")
    tuner_layer = require("train", "peft.tuners.tuners_utils").BaseTunerLayer
    language: Any = model.model.language_model
    for name, module in list(language.named_modules()):
        if isinstance(module, tuner_layer):
            module.merge(safe_merge=True)
            language.set_submodule(name, module.get_base_layer())
    del language.peft_config
    model.config.lora = None
    ever = set(model.config.trained_components or ())
    if "language_lora" in ever:
        ever = (ever - {"language_lora"}) | {"language"}
    model.config.trained_components = [name for name in COMPONENTS if name in ever]
    apply_freezing(model)


__all__ = ["canonical", "check_no_foreign_adapters", "check_same_lora", "inject_lora", "merge_lora"]
