"""Base models + fresh or saved parts -> a model.

One path for all: Gemma 3 by transformers' own loader with the world off, then the world encoder by component, then a
fresh projector, then the delta of a checkpoint. The nano model inside the package is a checkpoint like any other.
"""

from __future__ import annotations

import copy
import inspect
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import AutoProcessor, Gemma3ForConditionalGeneration, GenerationConfig
from transformers.configuration_utils import PretrainedConfig
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from theworld.constants import END_OF_WORLD_TOKEN, NANO, START_OF_WORLD_TOKEN, WORLD_TOKEN
from theworld.utils.hub import broken_downloads_named
from theworld.utils.logging import logger, quiet_third_party

from .checkpoints import checkpoint_subfolder, load_checkpoint, load_delta, read_delta, save_checkpoint, save_theworld
from .configuration_theworld import TheWorldConfig
from .freezing import apply_freezing
from .lora import check_same_lora, inject_lora
from .processing_theworld import TheWorldProcessor
from .world_encoders import WORLD_ENCODERS, CosmosWorldEncoder
from .world_encoders.cosmos import without_padding_mask
from .world_encoders.prompt_embeds import load_prompt_embeds

if TYPE_CHECKING:
    from .modeling_theworld import TheWorld

NANO_WEIGHTS = Path(__file__).parents[1] / "nano" / "weights"
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
COSMOS_COMPONENTS = ("vae", "transformer", "scheduler")


@dataclass(frozen=True)
class Source:
    """A folder or Hub repository, or a part of one."""

    name: str
    subfolder: str = ""
    revision: str | None = None

    def relative(self, name: str, subfolder: str, revision: str | None) -> Source:
        """A base model that this checkpoint names: `./x` and `../x` lie beside or inside the checkpoint."""
        if not name.startswith("."):
            return Source(_resolve(name), subfolder, revision)
        if Path(self.name).is_dir():
            return Source(str((Path(self.name) / self.subfolder / name).resolve()))
        return Source(self.name, posixpath.normpath(posixpath.join(self.subfolder, name)), self.revision)

    def pinned(self, file: str, **hub: Any) -> str | None:
        """The commit that was loaded from the Hub, so that a checkpoint keeps to it; `None` for a folder."""
        path = cached_file(self.name, file, subfolder=self.subfolder, revision=self.revision, **hub)
        return extract_commit_hash(path, None) or self.revision

    def folder(self, component: str) -> str:
        return f"{self.subfolder}/{component}" if self.subfolder else component


def load_theworld(cls: type[TheWorld], name: str | Path, *model_args: Any, **kwargs: Any) -> Any:
    """What `TheWorld.from_pretrained` does; see there."""
    with broken_downloads_named(name):
        return _load_theworld(cls, name, *model_args, **kwargs)


def _load_theworld(cls: type[TheWorld], name: str | Path, *model_args: Any, **kwargs: Any) -> Any:
    revision = kwargs.pop("revision", None)
    source = Source(_resolve(name), kwargs.pop("subfolder", ""), None if revision == "main" else revision)
    hub = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
    overrides = {key: kwargs.pop(key) for key in config_fields() & kwargs.keys()}
    given = kwargs.pop("config", None)
    attention = getattr(given, "_attn_implementation", None)  # where an Auto class puts the keyword
    if attention is not None:
        kwargs.setdefault("attn_implementation", attention)
    with_info = kwargs.pop("output_loading_info", False)
    language_model = kwargs.pop("language_model", True)
    dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
    saved, _ = PretrainedConfig.get_config_dict(
        source.name, subfolder=source.subfolder, revision=source.revision, **hub
    )
    if not saved:
        raise FileNotFoundError(f"{Path(source.name) / source.subfolder}: no config.json there")
    is_checkpoint = saved.get("model_type") == TheWorldConfig.model_type
    config = _build_config(saved, given, overrides, source)
    check_same_lora(saved, config, name)
    gemma, cosmos = _base_sources(config, source, is_checkpoint)
    delta = read_delta(source.name, source.subfolder, revision=source.revision, **hub) if is_checkpoint else None

    layers = _text_layers(config, name, language_model=language_model)
    model, info = _load_gemma(cls, config, gemma, layers, *model_args, **hub, **kwargs)
    model.config.gemma_model_name, model.config.gemma_subfolder = portable(gemma.name), gemma.subfolder
    model.config.gemma_revision = gemma.pinned("config.json", **hub)
    if is_checkpoint:
        model.generation_config = cast(Any, GenerationConfig).from_pretrained(
            source.name, subfolder=source.subfolder, revision=source.revision or "main", **hub
        )
    model.processor = _load_processor(model.config, source, **hub)
    if model.config.enable_world:
        _add_world(model, cosmos, hub)
    if model.config.lora is not None:
        inject_lora(model)
    if delta is not None:
        load_delta(model, delta, name, keep_dtype=dtype in (None, "auto"))
    elif model.config.enable_world:
        logger.warning("%s: a new fusion; its world tokens mean nothing before its projector is trained", name)
    if not language_model:
        embeddings = cast(nn.Embedding, model.get_input_embeddings()).weight  # the head's as well
        embeddings.data = embeddings.data[:0].clone()
    apply_freezing(model)
    model.eval()
    return (model, info) if with_info else model


def config_fields() -> set[str]:
    """Keywords that go into the config; `dtype` is also one of transformers' loader, which sets both."""
    return set(inspect.signature(TheWorldConfig).parameters) - {"dtype"}


def portable(name: str) -> str:
    """What a config says in place of a folder inside the package, so that a checkpoint works on other machines."""
    folder, package = Path(name).resolve(), NANO_WEIGHTS.resolve()
    return f"{NANO}/{folder.relative_to(package).as_posix()}" if package in folder.parents else name


def _resolve(name: Any) -> str:
    """`nano` and `nano/...` are folders inside the package."""
    text = str(name)
    if not isinstance(name, str | Path) or not text:
        raise ValueError(f"{name!r}: expected the folder or Hub id of a model")
    if text == NANO:
        return str(NANO_WEIGHTS / "theworld")
    if text.startswith(f"{NANO}/"):
        text = str(NANO_WEIGHTS / text.removeprefix(f"{NANO}/"))
    if (text.startswith(("/", ".")) or text.count("/") != 1) and not Path(text).is_dir():
        raise FileNotFoundError(f"{text}: no such folder, and no Hub id, which has the form owner/name")
    return text


def _build_config(saved: dict[str, Any], given: Any, overrides: dict[str, Any], source: Source) -> TheWorldConfig:
    """The config of the new model: what was saved, or given by an Auto class, under the caller's keywords."""
    model_type = saved.get("model_type")
    checkpoints = sorted(path.name for path in Path(source.name).glob("checkpoint-*"))
    if model_type is None and checkpoints:
        raise ValueError(f"{source.name}: the folder of a run; name a checkpoint in it, such as {checkpoints[-1]}")
    if model_type not in ("gemma3", TheWorldConfig.model_type):
        raise ValueError(
            f"{source.name}: model type {model_type!r}; expected a Gemma 3 with vision ('gemma3', "
            "such as google/gemma-3-4b-it) or a TheWorld checkpoint"
        )
    if given is not None and not isinstance(given, TheWorldConfig):
        raise ValueError(f"config= is a {type(given).__name__}: expected a TheWorldConfig, or its fields as keywords")
    fields: dict[str, Any] = saved if given is None else given.to_dict()
    fields = {key: value for key, value in fields.items() if key not in ("model_type", "architectures")}
    return TheWorldConfig(**{**fields, **overrides})


def _base_sources(config: TheWorldConfig, source: Source, is_checkpoint: bool) -> tuple[Source, Source]:
    cosmos = source.relative(config.cosmos_model_name, config.cosmos_subfolder, config.cosmos_revision)
    if not is_checkpoint:
        return source, Source(_resolve(config.cosmos_model_name), config.cosmos_subfolder, config.cosmos_revision)
    if config.gemma_model_name is None:
        raise ValueError(f"{source.name}: the checkpoint does not name its base Gemma 3 (gemma_model_name)")
    return source.relative(config.gemma_model_name, config.gemma_subfolder, config.gemma_revision), cosmos


def _text_layers(config: TheWorldConfig, name: Any, *, language_model: bool) -> int:
    """Layers of the language model to load: all, or none.

    Raises:
        ValueError: They are to be left out, but the checkpoint holds some that were trained: saving would lose them.
    """
    trained = [part for part in config.trained_components or () if part.startswith("language")]
    if not language_model and (trained or not config.freeze_gemma_language):
        raise ValueError(
            f"{name}: language_model=False, but {' and '.join(trained) or 'the language model'} of it is trained; "
            "load it whole, or start from a checkpoint of before"
        )
    return config.get_text_config().num_hidden_layers if language_model else 0


def _load_gemma(
    cls: type[TheWorld], config: TheWorldConfig, source: Source, layers: int, *model_args: Any, **kwargs: Any
) -> tuple[TheWorld, dict[str, Any]]:
    """A TheWorld with Gemma's weights and, for now, no world parts, whose keys Gemma's checkpoint lacks.

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
    wrong = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if layers < all_layers:
        left_out = "model.language_model.layers."
        wrong["unexpected_keys"] = [key for key in wrong["unexpected_keys"] if not key.startswith(left_out)]
    if any(wrong.values()):
        listed = "; ".join(f"{key.replace('_', ' ')}: {', '.join(names[:8])}" for key, names in wrong.items() if names)
        raise ValueError(f"{source.name}: not the weights of this Gemma 3: {listed}")
    model.config.enable_world = config.enable_world
    model.config.get_text_config().num_hidden_layers = all_layers
    return model, info


def _load_processor(config: TheWorldConfig, source: Source, **hub: Any) -> TheWorldProcessor:
    """The processor saved beside the config, with the model's world settings; writes the marker ids into `config`."""
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


MARKER_FIELDS = {
    START_OF_WORLD_TOKEN: "start_of_world_token_id",
    END_OF_WORLD_TOKEN: "end_of_world_token_id",
    WORLD_TOKEN: "world_token_id",
}


def _add_world(model: TheWorld, source: Source, hub: dict[str, Any]) -> None:
    """Load the world encoder beside the language model, in its dtype, and make fresh parts that fit it."""
    config = model.config
    embeddings = cast(nn.Embedding, model.get_input_embeddings()).weight
    dtype = embeddings.dtype if embeddings.is_floating_point() else model.dtype
    encoder = load_cosmos(config, source, dtype=dtype, **hub).to(embeddings.device)
    config.cosmos_model_name, config.cosmos_subfolder = portable(source.name), source.subfolder
    config.cosmos_revision = source.pinned("vae/config.json", **hub)
    model.model.add_world_parts()
    model.model.world_encoder = encoder.eval().requires_grad_(False)
    if config.num_world_steps > 0:
        encoder.prepare_rollouts()


def load_cosmos(config: TheWorldConfig, source: Source, *, dtype: torch.dtype, **hub: Any) -> CosmosWorldEncoder:
    """A `CosmosWorldEncoder` from the components of a Cosmos-Predict2 repository.

    The transformer and the prompt's embedding are loaded when the first rollout asks for them.

    Raises:
        ValueError: The repository lacks a component, or its VAE is not of the shape that the config says.
    """
    if Path(source.name).is_dir():
        folder = Path(source.name) / source.subfolder
        lacking = [name for name in COSMOS_COMPONENTS[:1] if not (folder / name).is_dir()]
        if lacking:
            raise ValueError(
                f"{folder}: no {lacking[0]!r} folder; expected {', '.join(COSMOS_COMPONENTS)} as Cosmos has"
            )
    where: dict[str, Any] = {"revision": source.revision, **hub}

    def component(cls: Any, name: str, **options: Any) -> Any:
        with quiet_third_party():
            safe: dict[str, Any] = {} if cls is FlowMatchEulerDiscreteScheduler else {"use_safetensors": True}
            return cls.from_pretrained(source.name, subfolder=source.folder(name), **safe, **options, **where)

    def load_dynamics() -> tuple[CosmosTransformer3DModel, FlowMatchEulerDiscreteScheduler]:
        transformer = component(CosmosTransformer3DModel, "transformer", torch_dtype=dtype)
        return without_padding_mask(transformer), component(FlowMatchEulerDiscreteScheduler, "scheduler")

    def load_prompts(prompts: list[str]) -> list[torch.Tensor]:
        return load_prompt_embeds(source.name, prompts, subfolder=source.subfolder, device=vae.device, **where)

    if config.world_encoder not in WORLD_ENCODERS:
        raise ValueError(f"world_encoder={config.world_encoder!r}: expected one of {', '.join(WORLD_ENCODERS)}")
    vae = component(AutoencoderKLWan, "vae", torch_dtype=dtype)
    encoder = WORLD_ENCODERS[config.world_encoder](
        vae,
        load_dynamics,
        load_prompts,
        source={"model": source.name, "revision": source.revision},
        num_inference_steps=config.world_inference_steps,
        guidance_scale=config.world_guidance_scale,
        fps=config.world_fps,
        seed=config.world_seed,
        prompt=config.world_prompt,
    )
    found = (encoder.feature_dim, encoder.spatial_compression, encoder.temporal_compression)
    expected = (config.world_latent_channels, config.world_spatial_compression, config.world_temporal_compression)
    if found != expected:
        raise ValueError(
            f"{source.name}: a VAE of (channels, space, time) {found}, but the config says {expected}; set "
            "world_latent_channels, world_spatial_compression and world_temporal_compression"
        )
    return encoder


__all__ = [
    "checkpoint_subfolder",
    "load_checkpoint",
    "load_cosmos",
    "load_theworld",
    "save_checkpoint",
    "save_theworld",
]
