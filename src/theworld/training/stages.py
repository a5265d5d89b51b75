"""What a stage trains: the model that it starts from, its parameter groups, and the table that says so.

Which parameters form a part, and which flag freezes it, is `theworld.model.components`; here is what each part
learns at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sized
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from theworld.model import TheWorld
from theworld.model.components import component_table, named_components
from theworld.utils.settings import keys as records

from .config import WORLD, TrainingConfig
from .distributed import WRAPPED_LAYERS

LEARNING_RATES = {
    "projector": "projector_learning_rate",
    "vision": "vision_learning_rate",
    "language": "language_learning_rate",
    "language_lora": "language_learning_rate",
    "vae_encoder": "vae_learning_rate",
}
FREEZE_KEYS = ("freeze_gemma_vision", "freeze_gemma_language", "freeze_cosmos_vae", "freeze_language_lora")
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}
FINGERPRINT_BYTES = 2**20


@dataclass(frozen=True)
class Stage:
    """What makes a run the same stage as another, so that one can continue the other.

    Args:
        objective: What the loss is.
        trains: The parts that train.
        data: Fingerprint of the rows.
        enable_world: Whether there is a world.
        num_world_steps: Future latent frames.
    """

    objective: str
    trains: tuple[str, ...]
    data: str
    enable_world: bool
    num_world_steps: int

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """What differs from the stage that a checkpoint recorded, each as `name (was -> is)`."""
        own = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return [f"{name} ({saved.get(name)} -> {value})" for name, value in own.items() if saved.get(name) != value]


def load_model(
    config: TrainingConfig, name: str | Path, model_class: type[TheWorld] = TheWorld, keys: tuple[str, ...] = ()
) -> TheWorld:
    """The model that a stage starts from: what trains, or ever did, in fp32, the rest in the mixed precision's dtype.

    Args:
        config: The stage.
        name: Base Gemma 3, checkpoint, Hub id or `nano`.
        model_class: What the objective trains.
        keys: Config keys that its `from_pretrained` takes beside those of every model.

    Raises:
        ValueError: Nothing would train; or as `TheWorld.from_pretrained`.
        OSError: It is not here, and cannot be had from the Hub.
    """
    world = [key for key, record in records(TrainingConfig).items() if record.source == WORLD]
    given = {key: getattr(config, key) for key in (*world, *keys) if getattr(config, key) is not None}
    given |= quantization(config)
    try:
        model = model_class.from_pretrained(name, dtype="auto", **given)
    except OSError as error:
        if str(name) in str(error):
            raise
        raise OSError(f"model_name={str(name)!r}: it or its base models cannot be loaded ({error})") from error
    if not any(parameter.requires_grad for parameter in model.parameters()):
        named = ", ".join(f"{key}={getattr(config, key)}" for key in FREEZE_KEYS)
        raise ValueError(f"nothing trains: enable_world={config.enable_world} with {named}; unfreeze one, or set lora")
    held = set(model.config.changed or ())  # components, and single parameters, of the checkpoint
    for key, part, parameter in named_components(model):
        ever = parameter.requires_grad or part in held or key in held
        if parameter.is_floating_point():  # quantised weights stay as they are
            parameter.data = parameter.data.to(torch.float32 if ever else DTYPES[config.mixed_precision])
    return model


def quantization(config: TrainingConfig) -> dict[str, Any]:
    """What `from_pretrained` is told of `load_in_4bit` and `load_in_8bit`.

    Raises:
        ImportError: bitsandbytes is not installed.
    """
    if not (config.load_in_4bit or config.load_in_8bit):
        return {}
    if find_spec("bitsandbytes") is None:
        key = "load_in_4bit" if config.load_in_4bit else "load_in_8bit"
        raise ImportError(f"{key}=True needs bitsandbytes: pip install bitsandbytes, or leave {key} out")
    settings = BitsAndBytesConfig(
        load_in_4bit=config.load_in_4bit,
        load_in_8bit=config.load_in_8bit,
        bnb_4bit_compute_dtype=DTYPES[config.mixed_precision],
        bnb_4bit_quant_type="nf4",
    )
    return {"quantization_config": settings}


def compile_layers(model: nn.Module) -> None:
    """Compile every transformer layer in place: one graph serves all of a kind, and checkpoints keep their names.

    The whole model would break into many graphs where a prompt's blocks are looked at.
    """
    for module in model.modules():
        if type(module).__name__ in WRAPPED_LAYERS:
            module.compile()


def trained_parts(model: Any) -> tuple[str, ...]:
    """The parts with a parameter that trains, in the table's order."""
    names = {part for _, part, parameter in named_components(model) if parameter.requires_grad}
    return tuple(part for part in component_table(model.model.world_encoder) if part in names)


def learning_rate(config: TrainingConfig, part: str) -> float:
    """Peak learning rate of a part."""
    own = getattr(config, LEARNING_RATES[part]) if part in LEARNING_RATES else None
    return config.learning_rate if own is None else own


def parameter_groups(model: Any, config: TrainingConfig) -> list[dict[str, Any]]:
    """The optimiser's groups: a part's matrices with weight decay, its norms, biases, gains and embeddings without."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, part, parameter in named_components(model):
        if parameter.requires_grad:
            decays = name.endswith("weight") and parameter.ndim > 1 and id(parameter) not in embeddings
            groups.setdefault((part, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate(config, part),
            "weight_decay": config.weight_decay if decays else 0.0,
            "name": f"{part}{'' if decays else ', no decay'}",
        }
        for (part, decays), parameters in groups.items()
    ]


def data_fingerprint(paths: str | list[str] | None, data: Any, split: str | None = None) -> str:
    """A hash of split, number of rows and their files or folders: not of where they lie, nor of every byte."""
    rows = str(len(data) if isinstance(data, Sized) else "stream")
    digest = hashlib.sha256((rows if split is None else f"{split} {rows}").encode())
    for path in paths if isinstance(paths, list) else [paths]:
        source = Path(path or "").expanduser()
        if path and source.is_file():
            with source.open("rb") as file:
                digest.update(file.read(FINGERPRINT_BYTES))
                file.seek(max(0, source.stat().st_size - FINGERPRINT_BYTES))
                digest.update(file.read())
        elif path and source.is_dir():
            listing = sorted((entry.name, entry.stat().st_size if entry.is_file() else 0) for entry in source.iterdir())
            digest.update(repr(listing).encode())
        else:
            digest.update(str(path).encode())
    return digest.hexdigest()[:16]


def stage_table(model: TheWorld, config: TrainingConfig) -> str:
    """Parts, parameters, learning rates and the memory that each needs, for people.

    Gradients and AdamW's two moments are fp32. Activations are an upper bound for samples of `max_seq_length`: 34 bytes
    in half precision a token, layer and width without recomputation, 2 with it (Korthikanti et al., 2022,
    arXiv:2205.05198).
    """
    table = component_table(model.model.world_encoder)
    rows = [_part_row(part, model) for part in table]
    lines = [
        f"{'part':<18}{'parameters':>15}{'trained':>15}{'rate':>9}{'weights':>10}{'gradients':>11}{'optimiser':>11}"
    ]
    total = [0] * 5
    for part, numbers in zip(table, rows, strict=True):
        if numbers[0]:
            total = [before + number for before, number in zip(total, numbers, strict=True)]
            rate = f"{learning_rate(config, part):.2g}" if numbers[1] else "frozen"
            lines.append(_line(part, numbers, rate))
    lines.append(_line("all", total, ""))
    if config.lora is None and "language_lora" in trained_parts(model):
        lines.append("the adapters of an earlier stage train on; freeze_language_lora=true keeps them as they are")
    activations = _activation_bytes(model, config)
    lines.append(
        f"activations at most {_size(activations)}, all together at most {_size(sum(total[2:]) + activations)}"
    )
    return "\n".join(lines)


def _part_row(part: str, model: Any) -> list[int]:
    """Parameters, trained ones, bytes of weights, gradients, optimiser."""
    parameters = [parameter for _, component, parameter in named_components(model) if component == part]
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return [sum(parameter.numel() for parameter in parameters), trained, weights, 4 * trained, 8 * trained]


def _line(name: str, numbers: list[int], rate: str) -> str:
    count, trained, weights, gradients, optimiser = numbers
    sizes = f"{_size(weights):>10}{_size(gradients):>11}{_size(optimiser):>11}"
    return f"{name:<18}{count:>15,}{trained:>15,}{rate:>9}{sizes}"


def _activation_bytes(model: TheWorld, config: TrainingConfig) -> int:
    text = model.config.get_text_config()
    values = 1 if config.use_gradient_checkpointing else 17
    width = 2 if config.mixed_precision != "no" else 4
    return config.batch_size * config.max_seq_length * text.hidden_size * text.num_hidden_layers * values * width


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


__all__ = [
    "Stage",
    "compile_layers",
    "data_fingerprint",
    "learning_rate",
    "load_model",
    "parameter_groups",
    "stage_table",
    "trained_parts",
]
