"""Loads base models and a new or saved fusion.

Order: Gemma 3 by transformers' loader with the world off, the components of the world encoder, a fresh projector, then
the delta of a checkpoint. The `nano` model in the package is loaded like any other checkpoint.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import get_max_memory
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoProcessor, Gemma3ForConditionalGeneration, GenerationConfig
from transformers.configuration_utils import PretrainedConfig

from theworld.constants import DEFAULT_COSMOS_MODEL, FP16_REFUSED, MARKERS
from theworld.utils.devices import input_device
from theworld.utils.errors import TheWorldError
from theworld.utils.folders import model_folder, recover
from theworld.utils.hub import Source, damage_named, portable, resolve
from theworld.utils.logging import logger, quiet_third_party
from theworld.utils.operating_points import operating_point
from theworld.utils.tensors import snapshot
from theworld.utils.weights import check_loaded, listed, read_weights, shapes_of, shorten, weight_files
from theworld.utils.world_settings import check_same_world

from ..components import ENCODER, FRESH, UNCOUNTED, check_choices, count_steps, named_components
from ..configuration_theworld import TheWorldConfig, check_token_ids, upgrade
from ..processing_theworld import TheWorldProcessor, check_question
from ..projectors import WorldParts
from ..world_encoders import WORLD_ENCODERS, WorldEncoder
from .delta import base_dtype, delta_names, recorded
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
"""The name of a new fusion. TRL and PEFT load a model by its name; the base model's name would give plain Gemma 3."""


@dataclass(frozen=True)
class Plan:
    """What one `from_pretrained` call loads, and from where."""

    config: TheWorldConfig  # of the new model
    source: Source  # the checkpoint, or the base Gemma 3 of a new fusion
    gemma: Source
    cosmos: Source | None  # `None` with the world off
    files: list[str]  # weights of the checkpoint; none for a new fusion
    stated: tuple[str, ...]  # the `SIZES` that were saved or given, so that the encoder must have them


def load_theworld(
    cls: Any, name: str | Path, *, language_model: bool = True, output_loading_info: bool = False, **kwargs: Any
) -> Any:
    """Load what `TheWorld.from_pretrained` describes; see there."""
    # 1. Run the checks that read no weights, then load Gemma 3
    plan = make_plan(name, kwargs)
    model, info = load_gemma(cls, plan, language_model=language_model, **kwargs)
    config = model.config
    # 2. Load the world encoder, then the processor, which needs its sizes
    if plan.cosmos is not None:
        load_world(model, plan.cosmos, plan.stated)
    model.processor = load_processor(config, processor_source(plan))
    if not language_model:
        embeddings = cast(nn.Embedding, model.get_input_embeddings()).weight  # tied with the head
        embeddings.data = embeddings.data[:0].clone()
    # 3. Record the base tensors for the next save, then copy the checkpoint over them
    late, base = recorded(model), named_components(model)
    model.base_tensors = {key: snapshot(v) for key, part, v in base if part not in FRESH and key not in late}
    if config.lora is not None:
        inject_lora(config, model.model.language_model)
    if plan.files:
        keep_dtype = kwargs.get("dtype", "auto") in (None, "auto")
        load_delta(model, read_weights(plan.files), config.changed or [], name, keep_dtype=keep_dtype)
    if not plan.files or "projector" not in (config.changed or ()):
        counted = {key: steps for key, steps in (config.trained_steps or {}).items() if key != UNCOUNTED}
        config.trained_steps = {**counted, "projector": 0} if plan.files else {}
        if config.enable_world:
            logger.warning("%s: a new fusion; its world tokens mean nothing before its projector is trained", name)
    model.fresh_tensors = {key: snapshot(v) for key, part, v in named_components(model) if part in FRESH}
    # 4. Set the model's name, and `requires_grad` of its parameters
    config._name_or_path = plan.source.name if plan.files else UNSAVED  # stock classes cannot load `nano`
    model.name_or_path = portable(plan.source.name) if plan.files else UNSAVED
    model.freeze()
    count_steps(model)
    model.eval()
    return (model, info) if output_loading_info else model


def make_plan(name: str | Path, kwargs: dict[str, Any], *, weights: bool = True) -> Plan:
    """Read the config, find the base models, and run every check that needs no weights.

    Removes its arguments from `kwargs`; the others are for transformers' loader.

    Args:
        weights: `False` skips the search for a checkpoint's weights.
    """
    # 1. Sort the arguments, and read the saved config
    check_arguments(kwargs)
    revision, subfolder = kwargs.pop("revision", None), kwargs.pop("subfolder", "")
    hub = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
    fields = inspect.signature(TheWorldConfig).parameters.keys() - {"dtype"}  # transformers' loader sets the dtype
    given = {key: kwargs.pop(key) for key in fields & kwargs.keys()}
    overrides = {**operating_point(kwargs.pop("operating_point", None)), **given}
    if name:
        recover(Path(name) / subfolder)
    folder = resolve(name) if subfolder else model_folder(resolve(name))
    source = Source(folder, subfolder, None if revision == "main" else revision, hub).pinned("config.json")
    with damage_named(source.name):
        saved = upgrade(PretrainedConfig.get_config_dict(source.name, **source.where)[0])
        # 2. The config of the new model
        config = build_config(saved, kwargs.pop("config", None), overrides, source)
    is_checkpoint = saved.get("model_type") == TheWorldConfig.model_type
    check_choices(config)
    check_same_lora(saved, config, name)
    # 3. The base models, and access to them
    gemma, cosmos = source, None
    if is_checkpoint:
        if config.gemma_model_name is None:
            raise TheWorldError(f"{source.name}: the checkpoint does not name its base Gemma 3 (gemma_model_name)")
        gemma = source.relative(config.gemma_model_name, config.gemma_subfolder, config.gemma_revision)
        gemma = gemma.pinned("config.json")
    if config.enable_world:
        named = (config.cosmos_model_name, config.cosmos_subfolder, config.cosmos_revision)
        encoder = WORLD_ENCODERS[config.world_encoder]
        probe_file = encoder.probe_file
        if encoder.suggested_model is not None and config.cosmos_model_name == DEFAULT_COSMOS_MODEL:
            raise TheWorldError(
                f"world_encoder={config.world_encoder!r} with cosmos_model_name={DEFAULT_COSMOS_MODEL!r}, the default: "
                f"expected a model of that encoder, such as {encoder.suggested_model!r}"
            )
        if probe_file is None:  # an encoder that needs no files
            cosmos = Source(*named, hub)
        else:
            cosmos = source.relative(*named) if is_checkpoint else Source(resolve(named[0]), *named[1:], hub)
            cosmos = cosmos.pinned(probe_file)
    # 4. The weights of a checkpoint
    files = weight_files(source.name, **source.where) if is_checkpoint and weights else []
    check_sizes(config, files, name, has_world=bool(files) and saved.get("enable_world", True))
    stated = tuple(field for field in SIZES if is_checkpoint or field in overrides)
    return Plan(config, source, gemma, cosmos, files, stated)


def check_arguments(kwargs: dict[str, Any]) -> None:
    """Raise a ValueError for old argument names and unsupported dtypes; it says what to use instead."""
    for old, new in OLD_ARGUMENTS.items():
        if old in kwargs:
            raise TheWorldError(f"from_pretrained({old}=...): not an argument; use {new}")
    if "torch_dtype" in kwargs:
        kwargs["dtype"] = kwargs.pop("torch_dtype")
    if kwargs.get("dtype") in (torch.float16, "float16", "fp16", "half"):
        raise TheWorldError(FP16_REFUSED)
    if kwargs.pop("variant", None) is not None:
        raise TheWorldError("variant=...: TheWorld checkpoints have no variants; leave it out")


def build_config(saved: dict[str, Any], given: Any, overrides: dict[str, Any], source: Source) -> TheWorldConfig:
    """The config of the new model: the saved one, or one from an Auto class, updated with the caller's keywords.

    Raises:
        ValueError: The model is not a Gemma 3, or a field is out of range.
    """
    model_type = saved.get("model_type")
    if model_type not in ("gemma3", TheWorldConfig.model_type):
        raise TheWorldError(
            f"{source.name}: model type {model_type!r}; expected a Gemma 3 with vision ('gemma3', "
            "such as google/gemma-3-4b-it) or a TheWorld checkpoint"
        )
    fields: dict[str, Any] = saved
    if given is not None:
        if not isinstance(given, TheWorldConfig):
            kind = type(given).__name__
            raise TheWorldError(f"config= is a {kind}: expected a TheWorldConfig, or its fields as keywords")
        # An Auto class stores the keyword `attn_implementation` in the config, but `to_dict` leaves it out
        fields = {**given.to_dict(), "attn_implementation": cast(Any, given)._attn_implementation}
    fields = {key: value for key, value in fields.items() if key not in ("model_type", "architectures", "auto_map")}
    return TheWorldConfig(**{**fields, **overrides})


def check_sizes(config: TheWorldConfig, files: list[str], name: object, *, has_world: bool) -> None:
    """Raise a ValueError if the config describes other adapters, or far larger world components, than are saved.

    Args:
        files: The weights of a checkpoint.
        has_world: Whether world components are among them.
    """
    shapes = shapes_of(files)
    if config.lora is not None and "language_lora" in (config.changed or ()):
        ranks = {shape[0] for key, shape in shapes.items() if ".lora_A." in key and shape}
        if ranks - {config.lora["r"]}:
            raise TheWorldError(f"lora r={config.lora['r']}: the checkpoint's adapters have rank {sorted(ranks)}")
    if has_world and config.enable_world:
        with torch.device("meta"):
            wanted = sum(value.numel() for value in WorldParts(config).state_dict().values())
        held = sum(math.prod(shape) for shape in shapes.values())
        if wanted > 2 * held + 2**20:
            raise TheWorldError(
                f"{name}: its config describes world components of {wanted:,} parameters, but the checkpoint holds "
                f"{held:,}; download it again"
            )


def load_gemma(cls: Any, plan: Plan, *, language_model: bool, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """A TheWorld with Gemma's weights and no world modules yet: Gemma's checkpoint has no keys for them.

    Args:
        language_model: `False` loads no layers of the language model; the config keeps their number. Raises a
            ValueError if layers were trained, because the next save would lose them.
    """
    # 1. Config for the loader, and memory to reserve for the world encoder
    source, bare = plan.gemma, copy.deepcopy(plan.config)
    bare.enable_world, text = False, bare.get_text_config()
    layers = text.num_hidden_layers
    if not language_model:
        trained = [part for part in bare.changed or () if "language" in part]
        if trained or not bare.freeze_gemma_language:
            raise TheWorldError(
                f"{plan.source.name}: language_model=False, but {shorten(trained) or 'the language model'} of it is "
                "trained; load it whole, or start from an earlier checkpoint"
            )
        text.num_hidden_layers = 0
    if plan.cosmos is not None and isinstance(kwargs.get("device_map"), str) and kwargs["device_map"] != "meta":
        kwargs["max_memory"] = memory_beside(plan.config, plan.cosmos, kwargs)
    # 2. Load the weights, from safetensors only
    kwargs |= {"config": bare, "output_loading_info": True, "use_safetensors": True, **source.where}
    kwargs["ignore_mismatched_sizes"] = True  # reported below with all other keys
    with quiet_third_party(), damage_named(source.name):
        model, info = cast(Any, super(Gemma3ForConditionalGeneration, cls)).from_pretrained(source.name, **kwargs)
    if not language_model:
        left_out = "model.language_model.layers."
        info["unexpected_keys"] = [key for key in info["unexpected_keys"] if not key.startswith(left_out)]
    check_loaded(source.name, info)
    # 3. Record the base model in the config
    config = model.config
    config.enable_world, config.get_text_config().num_hidden_layers = plan.config.enable_world, layers
    config.gemma_model_name, config.gemma_subfolder = portable(source.name), source.subfolder
    config.gemma_revision = source.revision
    if plan.files:
        with damage_named(plan.source.name):
            model.generation_config = cast(Any, GenerationConfig).from_pretrained(plan.source.name, **plan.source.where)
            check_token_ids(model.generation_config, text.vocab_size)
    return model, info


def memory_beside(config: TheWorldConfig, cosmos: Source, kwargs: dict[str, Any]) -> dict[Any, Any]:
    """`max_memory` for Gemma 3 that leaves room on the first device for the world encoder, which is loaded after it."""
    limits: dict[Any, Any] = dict(get_max_memory(kwargs.get("max_memory")))
    first = next(iter(limits), None)
    if first not in (None, "cpu", "disk"):
        dtype = kwargs.get("dtype")
        if isinstance(dtype, str):
            dtype = config.dtype if dtype == "auto" else getattr(torch, dtype, None)
        size = dtype.itemsize if isinstance(dtype, torch.dtype) else 4
        encoder = WORLD_ENCODERS[config.world_encoder]
        limits[first] = max(0, limits[first] - size * encoder.parameter_count(config, cosmos, **cosmos.hub))
    return limits


def load_world(model: Any, cosmos: Source, stated: tuple[str, ...]) -> None:
    """Add the world encoder, a fresh projector, and fresh markers or gate to a TheWorld without them."""
    config = model.config
    encoder = load_encoder(model, cosmos, stated)
    config.cosmos_model_name, config.cosmos_subfolder = portable(cosmos.name), cosmos.subfolder
    config.cosmos_revision = cosmos.revision
    model.model.add_world_parts()
    model.model.world_encoder = encoder.eval().requires_grad_(False)
    encoder.prepare(config.num_world_steps)
    # A checkpoint may hold weights that are otherwise loaded only for future frames
    there = {text for key, part, _ in named_components(model) for text in (key, part)} if config.changed else ()
    absent = [key for key in config.changed or () if key not in there]
    if any(key in encoder.components() or key.startswith(ENCODER) for key in absent):
        encoder.prepare(1)


def load_encoder(model: Any, source: Source, stated: tuple[str, ...]) -> WorldEncoder:
    """Load the world encoder on the language model's device and in its dtype; write its sizes into the config.

    Raises:
        ValueError: The encoder's sizes differ from those `stated` in the config, or do not fit the images.
    """
    config, cls = model.config, WORLD_ENCODERS[model.config.world_encoder]
    encoder = cls.from_pretrained(config, source, dtype=base_dtype(model), **source.hub).to(input_device(model))
    take_sizes(config, encoder, source, stated)
    return encoder


def take_sizes(config: TheWorldConfig, encoder: WorldEncoder, source: Source, stated: tuple[str, ...]) -> None:
    """Write the sizes of the encoder's features into `config`; raises as `load_encoder`."""
    height, width = config.world_image_shape
    _, rows, columns = encoder.grid(height, width, 0)
    compression = height // rows
    if (height // compression, width // compression) != (rows, columns):
        raise TheWorldError(
            f"world_image_size={config.world_image_size}: {type(encoder).__name__} gives {rows} x {columns} features, "
            "which do not divide the image; choose a multiple of its patch size"
        )
    sizes = (encoder.feature_dim, compression, encoder.temporal_compression)
    found: dict[str, int] = dict(zip(SIZES, sizes, strict=True))
    wrong = [f"{key}={getattr(config, key)} but {found[key]}" for key in stated if getattr(config, key) != found[key]]
    if wrong:
        raise TheWorldError(
            f"{source.name}: another world encoder than the config describes: {', '.join(wrong)} in its files"
        )
    vars(config).update(found)
    config.check_world()


def processor_source(plan: Plan) -> Source:
    """Where the processor is: in the checkpoint, or with its Gemma 3 if a folder has no file of a processor at all."""
    folder = Path(plan.source.name) / plan.source.subfolder
    files = ("processor_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")
    lacks = folder.is_dir() and not any((folder / name).exists() for name in files)
    return plan.gemma if lacks else plan.source


def load_processor(config: TheWorldConfig, source: Source) -> TheWorldProcessor:
    """The processor saved beside the config, with the model's world settings; writes the marker ids into `config`.

    Raises:
        ValueError: The tokenizer lacks Gemma 3's spare slots, or the chat template of a checkpoint is not safe to run.
    """
    with quiet_third_party(), damage_named(source.name):
        stock = AutoProcessor.from_pretrained(source.name, **source.where)
        ids = stock.tokenizer.convert_tokens_to_ids(MARKERS)
        unknown = (None, stock.tokenizer.unk_token_id)
    lacking = [slot for slot, token_id in zip(MARKERS, ids, strict=True) if token_id in unknown]
    if lacking and config.enable_world:
        raise TheWorldError(f"{source.name}: the tokenizer lacks the spare slots {', '.join(lacking)} of Gemma 3")
    config.start_of_world_token_id, config.end_of_world_token_id, config.world_token_id = ids
    with damage_named(source.name):
        processor = TheWorldProcessor.from_gemma(stock, config)
        check_question(processor, config, source.name)
    return processor


@torch.no_grad()
def load_delta(
    model: Any, tensors: Mapping[str, torch.Tensor], changed: list[str], name: object, *, keep_dtype: bool = False
) -> None:
    """Copy a checkpoint's tensors into a `TheWorld` that holds the base weights.

    Args:
        changed: Components and parameters that the checkpoint holds, as listed in its config.
        keep_dtype: Keep the saved dtype, so that weights trained in fp32 beside a bf16 base stay exact.

    Raises:
        ValueError: Keys are missing, unexpected, or of another shape or type; lists them.
    """
    values, held = sorted(tensors.items()), set(changed)
    if not model.config.enable_world:  # the caller turned the world off: ignore its weights
        values = [(key, value) for key, value in values if not key.startswith("model.world_")]
    parameters = {key: p for key, part, p in named_components(model) if part in held or key in held}
    shapes = {key: (tuple(value.shape), tuple(parameters[key].shape)) for key, value in values if key in parameters}
    problems = listed(
        {
            "missing": sorted(parameters.keys() - shapes.keys()),
            "unexpected": [key for key, _ in values if key not in parameters],
            "misshapen": [
                f"{key} {own} instead of {expected}" for key, (own, expected) in shapes.items() if own != expected
            ],
            "of another type": [f"{key} {value.dtype}" for key, value in values if not value.is_floating_point()],
            "not finite": [key for key, value in values if not value.isfinite().all()],
        }
    )
    if problems:
        if "misshapen" in problems and "world_projector" in problems:
            problems += "; sizes of a trained projector, such as world_pooling, cannot be changed: do not pass them"
        raise TheWorldError(f"{name}: the checkpoint does not fit its config: {problems}")
    for key, value in values:
        parameter = parameters[key]
        if keep_dtype:
            parameter.data = parameter.data.to(value.dtype)
        if isinstance(parameter, DTensor):  # sharded by FSDP
            value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.copy_(value)


def load_into(model: Any, folder: str | Path) -> None:
    """Copy the checkpoint in `folder` and its step counts into a loaded `TheWorld`, for example in training.

    Raises:
        ValueError: It does not fit, has other world tokens or adapters, or lacks weights that changed in the model.
    """
    tensors = read_weights(weight_files(folder))
    missing = [name for name in delta_names(model) if name not in tensors]
    if missing:
        raise TheWorldError(f"{folder}: the checkpoint does not fit the model: missing: {shorten(missing)}")
    with damage_named(folder):
        saved = TheWorldConfig.from_pretrained(folder)
    check_same_lora(saved.to_dict(), model.config, folder)
    check_same_world(saved, model.config, folder)
    load_delta(model, tensors, saved.changed or [], folder)
    model.config.trained_steps = saved.trained_steps
    model.fresh_tensors = {key: snapshot(v) for key, part, v in named_components(model) if part in FRESH}
