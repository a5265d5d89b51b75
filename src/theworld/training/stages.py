"""A training stage: the model that it starts from, its parameter groups, and the table of them.

`theworld.model.components` says which parameters form a component and which flag freezes it.
"""

import hashlib
from collections.abc import Iterable, Sized
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import Any

import torch
from torch import nn

from theworld.data.sources.webdataset import expand_braces
from theworld.model import TheWorld
from theworld.model.components import component_table, named_components
from theworld.utils.errors import FileError, TheWorldError
from theworld.utils.quantization import quantization
from theworld.utils.settings import keys as records
from theworld.utils.tables import text_table

from .config import TrainingConfig
from .distributed import WRAPPED_LAYERS
from .metrics import trained_parameters
from .passed_keys import WORLD

FREEZE_KEYS = ("freeze_gemma_vision", "freeze_gemma_language", "freeze_cosmos_vae", "freeze_language_lora")
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}
FINGERPRINT = "2-"  # version of data fingerprints
WHOLE_BYTES = 2**30  # files with a larger total size are not read for a fingerprint


@dataclass(frozen=True)
class Stage:
    """What must be equal for one run to resume another; `data` is the fingerprint of the rows."""

    objective: str
    trains: tuple[str, ...]
    data: str
    enable_world: bool
    num_world_steps: int

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """What differs from the stage that a checkpoint recorded, each as `name (was -> is)`."""
        own = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        if not str(saved.get("data")).startswith(FINGERPRINT):  # version 0.1 hashed less
            own.pop("data")
        return [f"{name} ({saved.get(name)} -> {value})" for name, value in own.items() if saved.get(name) != value]


def load_model(
    config: TrainingConfig, name: str | Path, model_class: type[TheWorld] = TheWorld, keys: tuple[str, ...] = ()
) -> TheWorld:
    """Load the model that a stage starts from.

    Weights that train, or were trained before, are fp32; the others have the dtype of the mixed precision.

    Args:
        name: Base Gemma 3, checkpoint, Hub id or `nano`.
        keys: Config keys that its `from_pretrained` takes in addition to those of every model.
    """
    world = [key for key, record in records(TrainingConfig).items() if record.source == WORLD]
    given = {key: getattr(config, key) for key in (*world, *keys) if getattr(config, key) is not None}
    given |= quantization(config, DTYPES[config.mixed_precision])
    try:
        model = model_class.from_pretrained(name, dtype="auto", **given)
    except OSError as error:
        if str(name) in str(error):
            raise
        raise FileError(f"model_name={str(name)!r}: it or its base models cannot be loaded ({error})") from error
    if not any(parameter.requires_grad for parameter in model.parameters()):
        frozen = config.show(*FREEZE_KEYS, joined_by=", ")
        raise TheWorldError(f"nothing trains: {config.show('enable_world')} with {frozen}; unfreeze one, or set lora")
    held = set(model.config.changed or ())  # components, and single parameters, of the checkpoint
    for key, component, parameter in named_components(model):
        ever = parameter.requires_grad or component in held or key in held
        if parameter.is_floating_point():  # quantised weights stay as they are
            parameter.data = parameter.data.to(torch.float32 if ever else DTYPES[config.mixed_precision])
    return model


def compile_layers(model: nn.Module) -> None:
    """Compile every transformer layer in place: layers of one class share a graph, and parameters keep their names."""
    # The whole model would break into many graphs at the code that finds world blocks
    for module in model.modules():
        if type(module).__name__ in WRAPPED_LAYERS:
            module.compile()


def trained_components(model: Any) -> tuple[str, ...]:
    """The components with a parameter that trains, in the table's order."""
    trained = trained_parameters(model)
    return tuple(component for component in component_table(model.model.world_encoder) if component in trained)


def learning_rate(config: TrainingConfig, component: str) -> float:
    """Peak learning rate of a component."""
    own = {
        "projector": config.projector_learning_rate,
        "vision": config.vision_learning_rate,
        "language": config.language_learning_rate,
        "language_lora": config.language_learning_rate,
        "vae_encoder": config.vae_learning_rate,
    }
    return own.get(component) or config.learning_rate


def parameter_groups(model: Any, config: TrainingConfig) -> list[dict[str, Any]]:
    """The optimiser's groups: a component's matrices with weight decay; its norms, biases, embeddings without."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[str, dict[str, Any]] = {}
    for name, component, parameter in named_components(model):
        if parameter.requires_grad:
            decays = name.endswith("weight") and parameter.ndim > 1 and id(parameter) not in embeddings
            label, decay = (component, config.weight_decay) if decays else (f"{component}, no decay", 0.0)
            new = {"params": [], "lr": learning_rate(config, component), "weight_decay": decay, "name": label}
            groups.setdefault(label, new)["params"].append(parameter)
    return list(groups.values())


def data_fingerprint(
    paths: str | list[str] | None, data: Any, split: str | None = None, images: Iterable[Path] = ()
) -> str:
    """A hash of split, number of rows, the files at `paths` (in folders, and of patterns of tar files) and `images`.

    It does not depend on their folder. If a path has more than `WHOLE_BYTES`, sizes and times replace contents.
    """
    rows = str(len(data) if isinstance(data, Sized) else "stream")
    digest = hashlib.sha256((rows if split is None else f"{split} {rows}").encode())
    for path in paths if isinstance(paths, list) else [paths]:
        source = Path(path or "").expanduser()
        if path and source.is_dir():
            _hash_files(digest, {str(file.relative_to(source)): file for file in source.rglob("*") if file.is_file()})
            continue
        found = (glob(name) for name in expand_braces(str(source)))  # noqa: PTH207 - patterns may be absolute
        matches = (Path(file) for files in found for file in sorted(files))
        files = [source] if source.is_file() else [file for file in matches if path and file.is_file()]
        _hash_files(digest, {str(place): file for place, file in enumerate(files)})
        if not files:
            digest.update(str(path).encode())
    _hash_files(digest, {str(place): file for place, file in enumerate(images)})
    return FINGERPRINT + digest.hexdigest()[:16]


def _hash_files(digest: Any, files: dict[str, Path]) -> None:
    """Hash names and contents of files; above `WHOLE_BYTES` in total, size and time of change replace contents."""
    stats = {name: files[name].stat() for name in sorted(files)}
    whole = sum(stat.st_size for stat in stats.values()) <= WHOLE_BYTES
    for name, stat in stats.items():
        digest.update(repr((name, stat.st_size, None if whole else int(stat.st_mtime))).encode())
        if whole:
            with files[name].open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())


def stage_table(model: TheWorld, config: TrainingConfig) -> str:
    """Components, parameters, learning rates and memory, as text.

    Gradients and AdamW's two moments are fp32. Activations are an upper bound for samples of `max_seq_length`: 34 bytes
    per token, layer and channel in half precision without recomputation, 2 with it (Korthikanti et al., 2022,
    arXiv:2205.05198).
    """
    # 1. Count parameters, trained parameters and bytes of weights, per component and in total
    table = {component: [0, 0, 0] for component in component_table(model.model.world_encoder)}
    for _, component, parameter in named_components(model):
        numbers = parameter.numel(), parameter.numel() * parameter.requires_grad, parameter.nbytes
        table[component] = [sum(pair) for pair in zip(table[component], numbers, strict=True)]
    table["all"] = [sum(column) for column in zip(*table.values(), strict=True)]
    # 2. Write a line for each, and the memory of a step
    rows: list[tuple[str, ...]] = []
    for name, (count, trained, weights) in table.items():
        if count:
            rate = "" if name == "all" else f"{learning_rate(config, name):.2g}" if trained else "frozen"
            sizes = _size(weights), _size(4 * trained), _size(8 * trained)
            rows.append((name, f"{count:,}", f"{trained:,}", rate, *sizes))
    titles = ("component", "parameters", "trained", "rate", "weights", "gradients", "optimiser")
    lines = [text_table(titles, rows)]
    if config.lora is None and table["language_lora"][1]:
        lines.append("continues training the adapters of the checkpoint; freeze_language_lora=true freezes them")
    text = model.config.get_text_config()
    values = (1 if config.use_gradient_checkpointing else 17) * (4 if config.mixed_precision == "no" else 2)
    tokens = config.batch_size * config.max_seq_length
    activations = tokens * text.hidden_size * text.num_hidden_layers * values
    most = table["all"][2] + 12 * table["all"][1] + activations
    lines.append(f"activations: at most {_size(activations)}; total: at most {_size(most)}")
    return "\n".join(lines)


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
