"""Loads base models and a new or saved fusion.

One path for all: Gemma 3 by transformers' own loader with the world off, then the world encoder by component, then a
fresh projector, then the delta of a checkpoint. The nano model inside the package is a checkpoint like any other.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import get_max_memory
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoProcessor, Gemma3ForConditionalGeneration, GenerationConfig
from transformers.configuration_utils import PretrainedConfig

from theworld.constants import CUSTOM_TOKEN_EOW, CUSTOM_TOKEN_SOW, FP16_REFUSED, WORLD_TOKEN
from theworld.utils.folders import model_folder, recover
from theworld.utils.hub import Source, broken_downloads_named, portable, resolve
from theworld.utils.logging import logger, quiet_third_party
from theworld.utils.weights import check_loaded, read_weights, shapes_of, shorten, weight_files

from ..components import (
    ENCODER,
    FRESH,
    UNCOUNTED,
    apply_freezing,
    check_choices,
    component_of,
    component_table,
    count_steps,
    find_component,
)
from ..configuration_theworld import TheWorldConfig, upgrade
from ..generation_theworld import input_device
from ..processing_theworld import TheWorldProcessor
from ..projectors import WorldParts
from ..world_encoders import WORLD_ENCODERS, WorldEncoder
from .delta import delta_names, expected_names, recorded, remember
from .lora import check_same_lora, inject_lora

SIZES = ("world_latent_channels", "world_spatial_compression", "world_temporal_compression")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
OLD_ARGUMENTS = {
    "load_cosmos": "enable_world",
    "cosmos_model": "cosmos_model_name",
    "gemma_model_name": "the first argument",
    "device": "device_map",
}
UNSAVED = "an unsaved fusion: call save_pretrained first"
"""The name of a new fusion. TRL and PEFT load what the name says; the base's name would give plain Gemma 3."""

MARKER_FIELDS = {
    CUSTOM_TOKEN_SOW: "start_of_world_token_id",
    CUSTOM_TOKEN_EOW: "end_of_world_token_id",
    WORLD_TOKEN: "world_token_id",
}


def load_theworld(cls: Any, name: str | Path, *model_args: Any, **kwargs: Any) -> Any:
    """Load what `TheWorld.from_pretrained` describes; see there."""
    with broken_downloads_named(name):
        return _load_theworld(cls, name, *model_args, **kwargs)


def _load_theworld(cls: Any, name: str | Path, *model_args: Any, **kwargs: Any) -> Any:
    # 1. Sort the arguments, and read the saved config
    check_arguments(kwargs)
    revision, subfolder = kwargs.pop("revision", None), kwargs.pop("subfolder", "")
    if name:
        recover(Path(name) / subfolder)
    source = Source(
        resolve(name) if subfolder else model_folder(resolve(name)), subfolder, None if revision == "main" else revision
    )
    hub = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
    overrides = {key: kwargs.pop(key) for key in config_fields() & kwargs.keys()}
    given, with_info = kwargs.pop("config", None), kwargs.pop("output_loading_info", False)
    language_model = kwargs.pop("language_model", True)
    attention = getattr(given, "_attn_implementation", None)  # where an Auto class puts the keyword
    if attention is not None:
        kwargs.setdefault("attn_implementation", attention)
    where: dict[str, Any] = {"subfolder": source.subfolder, "revision": source.revision, **hub}
    commit = source.pinned("config.json", **hub)
    saved, _ = PretrainedConfig.get_config_dict(source.name, **where)
    if not saved:
        raise FileNotFoundError(f"{Path(source.name) / source.subfolder}: no config.json there")
    saved = upgrade(saved)
    is_checkpoint = saved.get("model_type") == TheWorldConfig.model_type
    has_world = is_checkpoint and saved.get("enable_world", True)

    # 2. Check all that can be checked before anything large is read
    config = build_config(saved, given, overrides, source)
    check_choices(config)
    check_same_lora(saved, config, name)
    gemma, cosmos = base_sources(config, source, is_checkpoint)
    encoder_class = WORLD_ENCODERS[config.world_encoder] if config.enable_world else None
    gemma_revision = gemma.pinned("config.json", **hub) if is_checkpoint else commit
    cosmos_revision = None if encoder_class is None else cosmos.pinned(encoder_class.probe_file, **hub)
    files = weight_files(source.name, **where) if is_checkpoint else []
    check_ranks(config, files)

    # 3. Gemma 3 and the processor
    layers = text_layers(config, name, language_model=language_model)
    if encoder_class is not None and isinstance(kwargs.get("device_map"), str) and kwargs["device_map"] != "meta":
        kwargs |= reserve_memory(encoder_class, config, cosmos, kwargs, hub)
    model, info = load_gemma(cls, config, gemma, layers, *model_args, **hub, **kwargs)
    config = model.config
    config.gemma_model_name, config.gemma_subfolder = portable(gemma.name), gemma.subfolder
    config.gemma_revision = gemma_revision
    if is_checkpoint:
        model.generation_config = cast(Any, GenerationConfig).from_pretrained(
            source.name, **{**where, "revision": source.revision or "main"}
        )

    # 4. The world, and the processor, which depends on its sizes
    if encoder_class is not None:
        stated = SIZES if is_checkpoint else tuple(name for name in SIZES if name in overrides)
        encoder = load_encoder(encoder_class, model, cosmos, stated, hub)
        config.cosmos_model_name, config.cosmos_subfolder = portable(cosmos.name), cosmos.subfolder
        config.cosmos_revision = cosmos_revision
        if has_world:
            check_fresh_parts(config, files, name)
        model.model.add_world_parts()
        model.model.world_encoder = encoder.eval().requires_grad_(False)
        encoder.prepare(config.num_world_steps)
        if lacks_weights(encoder, config.changed or []):
            encoder.prepare(1)
    model.processor = load_processor(config, source, **hub)

    # 5. What a checkpoint holds, over the base models that are remembered for the next save
    if not language_model:
        embeddings = cast(nn.Embedding, model.get_input_embeddings()).weight  # the head's as well
        embeddings.data = embeddings.data[:0].clone()
    table, known = component_table(model.model.world_encoder), recorded(model)
    model.base_tensors = remember(
        (key, value)
        for key, value in model.named_parameters()
        if component_of(key, table) not in FRESH and key not in known
    )
    if config.lora is not None:
        inject_lora(config, model.model.language_model)
    if is_checkpoint:
        keep_dtype = kwargs.get("dtype", "auto") in (None, "auto")
        load_delta(model, read_weights(files), config.changed or [], name, keep_dtype=keep_dtype)
    if not is_checkpoint or "projector" not in (config.changed or ()):
        counted = {key: steps for key, steps in (config.trained_steps or {}).items() if key != UNCOUNTED}
        config.trained_steps = {**counted, "projector": 0} if is_checkpoint else {}
        if config.enable_world:
            logger.warning("%s: a new fusion; its world tokens mean nothing before its projector is trained", name)
    model.fresh_tensors = remember(
        (key, value) for key, value in model.named_parameters() if component_of(key, table) in FRESH
    )

    # 6. The model's name, and what trains
    config._name_or_path = source.name if is_checkpoint else UNSAVED
    model.name_or_path = portable(source.name) if is_checkpoint else UNSAVED
    apply_freezing(model)
    count_steps(model)
    model.eval()
    return (model, info) if with_info else model


def check_arguments(kwargs: dict[str, Any]) -> None:
    """Refuse old names and the types that cannot work, with what to use instead.

    Raises:
        ValueError: Names the argument.
    """
    for old, new in OLD_ARGUMENTS.items():
        if old in kwargs:
            raise ValueError(f"from_pretrained({old}=...): not an argument; use {new}")
    if "torch_dtype" in kwargs:
        kwargs["dtype"] = kwargs.pop("torch_dtype")
    if kwargs.get("dtype") in (torch.float16, "float16", "fp16", "half"):
        raise ValueError(FP16_REFUSED)
    if kwargs.pop("variant", None) is not None:
        raise ValueError("variant=...: TheWorld checkpoints have none; leave it out")


def config_fields() -> set[str]:
    """Keywords that go into the config; `dtype` is also one of transformers' loader, which sets both."""
    return set(inspect.signature(TheWorldConfig).parameters) - {"dtype"}


def build_config(saved: dict[str, Any], given: Any, overrides: dict[str, Any], source: Source) -> TheWorldConfig:
    """The config of the new model: what was saved, or given by an Auto class, under the caller's keywords.

    Raises:
        ValueError: It is no Gemma 3, or a field is out of range.
    """
    model_type = saved.get("model_type")
    if model_type not in ("gemma3", TheWorldConfig.model_type):
        raise ValueError(
            f"{source.name}: model type {model_type!r}; expected a Gemma 3 with vision ('gemma3', "
            "such as google/gemma-3-4b-it) or a TheWorld checkpoint"
        )
    if given is not None and not isinstance(given, TheWorldConfig):
        raise ValueError(f"config= is a {type(given).__name__}: expected a TheWorldConfig, or its fields as keywords")
    fields: dict[str, Any] = saved if given is None else given.to_dict()
    fields = {key: value for key, value in fields.items() if key not in ("model_type", "architectures", "auto_map")}
    return TheWorldConfig(**{**fields, **overrides})


def base_sources(config: TheWorldConfig, source: Source, is_checkpoint: bool) -> tuple[Source, Source]:
    """Where the base Gemma 3 and the base world model lie."""
    cosmos = source.relative(config.cosmos_model_name, config.cosmos_subfolder, config.cosmos_revision)
    if not is_checkpoint:
        if config.enable_world:
            cosmos = Source(resolve(config.cosmos_model_name), config.cosmos_subfolder, config.cosmos_revision)
        return source, cosmos
    if config.gemma_model_name is None:
        raise ValueError(f"{source.name}: the checkpoint does not name its base Gemma 3 (gemma_model_name)")
    return source.relative(config.gemma_model_name, config.gemma_subfolder, config.gemma_revision), cosmos


def text_layers(config: TheWorldConfig, name: Any, *, language_model: bool) -> int:
    """Layers of the language model to load: all, or none.

    Raises:
        ValueError: They are to be left out, but the checkpoint holds some that were trained: saving would lose them.
    """
    trained = [part for part in config.changed or () if "language" in part]
    if not language_model and (trained or not config.freeze_gemma_language):
        raise ValueError(
            f"{name}: language_model=False, but {shorten(trained) or 'the language model'} of it is trained; "
            "load it whole, or start from an earlier checkpoint"
        )
    return config.get_text_config().num_hidden_layers if language_model else 0


def load_gemma(
    cls: Any, config: TheWorldConfig, source: Source, layers: int, *model_args: Any, **kwargs: Any
) -> tuple[Any, dict[str, Any]]:
    """A TheWorld with Gemma's weights and no world modules yet: Gemma's checkpoint has no keys for them.

    Its language model has `layers` layers; what the config says of it stays.
    """
    bare = copy.deepcopy(config)
    bare.enable_world = False
    all_layers = config.get_text_config().num_hidden_layers
    bare.get_text_config().num_hidden_layers = layers
    load = cast(Any, super(Gemma3ForConditionalGeneration, cls)).from_pretrained
    with quiet_third_party():
        model, info = load(
            source.name,
            *model_args,
            config=bare,
            subfolder=source.subfolder,
            revision=source.revision or "main",
            output_loading_info=True,
            use_safetensors=True,  # without it, transformers would open a pickle where there is no safetensors file
            **kwargs,
        )
    if layers < all_layers:
        left_out = "model.language_model.layers."
        info["unexpected_keys"] = [key for key in info["unexpected_keys"] if not key.startswith(left_out)]
    check_loaded(source.name, info)
    model.config.enable_world = config.enable_world
    model.config.get_text_config().num_hidden_layers = all_layers
    return model, info


def load_processor(config: TheWorldConfig, source: Source, **hub: Any) -> TheWorldProcessor:
    """The processor saved beside the config, with the model's world settings; writes the marker ids into `config`.

    Raises:
        ValueError: The tokenizer lacks Gemma 3's spare slots, or the chat template of a checkpoint is not safe to run.
    """
    with quiet_third_party():
        stock = AutoProcessor.from_pretrained(
            source.name, subfolder=source.subfolder, revision=source.revision or "main", **hub
        )
    ids = {token: stock.tokenizer.convert_tokens_to_ids(token) for token in MARKER_FIELDS}
    lacking = [token for token, token_id in ids.items() if token_id in (None, stock.tokenizer.unk_token_id)]
    if lacking and config.enable_world:
        raise ValueError(f"{source.name}: the tokenizer lacks the spare slots {', '.join(lacking)} of Gemma 3")
    for token, field in MARKER_FIELDS.items():
        setattr(config, field, ids[token])
    return TheWorldProcessor.from_gemma(stock, config)


def load_encoder(
    cls: type[WorldEncoder], model: Any, source: Source, stated: tuple[str, ...], hub: dict[str, Any]
) -> WorldEncoder:
    """The world encoder beside the language model, in its dtype; its sizes go into the model's config.

    Args:
        stated: The sizes that the config states, so that the encoder must have them.

    Raises:
        ValueError: The encoder has other sizes.
    """
    config, embeddings = model.config, cast(nn.Embedding, model.get_input_embeddings()).weight
    dtype = embeddings.dtype if embeddings.is_floating_point() else model.dtype
    encoder = cls.from_pretrained(config, source, dtype=dtype, **hub).to(input_device(model))
    height, width = config.world_image_shape
    _, rows, columns = encoder.grid(height, width, 0)
    compression = height // rows
    if (height // compression, width // compression) != (rows, columns):
        raise ValueError(
            f"world_image_size={config.world_image_size}: {type(encoder).__name__} makes {rows} x {columns} features "
            "of it, which do not divide it; choose a multiple of its patches"
        )
    found: dict[str, Any] = dict(
        zip(SIZES, (encoder.feature_dim, compression, encoder.temporal_compression), strict=True)
    )
    wrong = [
        f"{name}={getattr(config, name)} but {found[name]}" for name in stated if getattr(config, name) != found[name]
    ]
    if wrong:
        raise ValueError(f"{source.name}: another world encoder than the config says: {', '.join(wrong)} in its files")
    vars(config).update(found)
    config.check_world()
    return encoder


def lacks_weights(encoder: WorldEncoder, changed: list[str]) -> bool:
    """Whether a checkpoint changed weights of the encoder that only future frames load."""
    present = {f"{ENCODER}{name}" for name, _ in encoder.named_parameters()}
    absent = {
        name
        for name, part in component_table(encoder).items()
        if name in encoder.components() and not any(key.startswith(part.prefixes) for key in present)
    }
    return any(name in absent or (name.startswith(ENCODER) and name not in present) for name in changed)


def reserve_memory(
    encoder: type[WorldEncoder], config: TheWorldConfig, source: Source, kwargs: dict[str, Any], hub: dict[str, Any]
) -> dict[str, Any]:
    """`max_memory` for Gemma 3 that leaves room on the first device for the world encoder, which is loaded after it."""
    limits: dict[Any, Any] = dict(get_max_memory(kwargs.get("max_memory")))
    first = next(iter(limits), None)
    if first not in (None, "cpu", "disk"):
        dtype = kwargs.get("dtype")
        size = dtype.itemsize if isinstance(dtype, torch.dtype) else 4
        limits[first] = max(0, limits[first] - size * encoder.parameter_count(config, source, **hub))
    return {"max_memory": limits}


def check_ranks(config: TheWorldConfig, files: list[str]) -> None:
    """Refuse adapters of another rank than the checkpoint's tensors have, before they are allocated."""
    if config.lora is not None and "language_lora" in (config.changed or ()):
        ranks = {shape[0] for key, shape in shapes_of(files).items() if ".lora_A." in key and shape}
        if ranks - {config.lora["r"]}:
            raise ValueError(f"lora r={config.lora['r']}: the checkpoint's adapters have rank {sorted(ranks)}")


def check_fresh_parts(config: TheWorldConfig, files: list[str], name: object) -> None:
    """Refuse a config that would allocate far larger world parts than the checkpoint holds.

    Raises:
        ValueError: Names both sizes.
    """
    with torch.device("meta"):
        wanted = sum(value.numel() for value in WorldParts(config).state_dict().values())
    held = sum(math.prod(shape) for shape in shapes_of(files).values())
    if wanted > 2 * held + 2**20:
        raise ValueError(
            f"{name}: its config describes world parts of {wanted:,} parameters, but the checkpoint holds {held:,}; "
            "download it again"
        )


@torch.no_grad()
def load_delta(
    model: Any, tensors: Mapping[str, torch.Tensor], changed: list[str], name: object, *, keep_dtype: bool = False
) -> None:
    """Copy a checkpoint's tensors into a `TheWorld` that holds the base weights.

    Args:
        changed: What the checkpoint holds, as its config lists it.
        keep_dtype: Hold them in the dtype they were saved in: what trained in fp32 beside a bf16 base stays exact.

    Raises:
        ValueError: Keys are missing, unexpected, or of another shape or type; lists them.
    """
    table = component_table(model.model.world_encoder)
    if not model.config.enable_world:  # the caller turned the world off: its weights are left out
        gemma = ("vision", "language", "language_lora")
        tensors = {key: value for key, value in tensors.items() if find_component(key, table) in gemma}
    parameters = dict(expected_names(model, changed))
    problems = {
        "missing": sorted(parameters.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - parameters.keys()),
        "misshapen": [
            f"{key} {tuple(value.shape)} instead of {tuple(parameters[key].shape)}"
            for key, value in sorted(tensors.items())
            if key in parameters and value.shape != parameters[key].shape
        ],
        "of another type": [
            f"{key} {value.dtype}" for key, value in sorted(tensors.items()) if not value.dtype.is_floating_point
        ],
        "not finite": sorted(key for key, value in tensors.items() if not value.isfinite().all()),
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {shorten(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(f"{name}: the checkpoint does not fit its config: {listed}")
    for key, value in tensors.items():
        if keep_dtype:
            parameters[key].data = parameters[key].data.to(value.dtype)
        parameters[key].copy_(as_sharded(value, parameters[key]))


def load_into(model: Any, folder: str | Path) -> None:
    """Copy the checkpoint in `folder` into a loaded `TheWorld`, in training say.

    Raises:
        ValueError: It does not fit, or the model has changed weights that the checkpoint leaves at the base model's.
    """
    saved = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    changed, tensors = upgrade(saved).get("changed") or [], read_weights(weight_files(folder))
    missing = [name for name in delta_names(model) if name not in tensors]
    if missing:
        raise ValueError(f"{folder}: the checkpoint does not fit the model: missing: {shorten(missing)}")
    load_delta(model, tensors, changed, folder)


def as_sharded(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`value` in the shards of `parameter`, where FSDP cut it up."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


__all__ = ["load_into", "load_theworld"]
