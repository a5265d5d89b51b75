"""`TrainingConfig`: everything that a run is told, flat, in one JSON file, checked when it is made.

A config file is a delta: it states what differs from the defaults here. Keys that begin with `_` are comments.
"""

from __future__ import annotations

import difflib
import json
import types
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from theworld.constants import DEFAULT_GEMMA_MODEL, FP16_REFUSED

AUTO = "auto"
SECRETS = ("hf_token",)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What to train, on what, how, and where to.

    Args:
        model_name: A base Gemma 3, a TheWorld checkpoint (whose weights a new stage then starts from), a run folder
            (its newest checkpoint) or `nano`: folder or Hub id.
        cosmos_model_name: The base world model; `None` takes the checkpoint's own, or NVIDIA's for a new fusion.
        enable_world: `False` trains plain Gemma 3, the control of every comparison.
        num_world_steps: Future latent frames; `None` takes the checkpoint's value, here and in the nine keys below.
        max_world_steps: Largest `num_world_steps` that the time embedding allows.
        world_encoder: `cosmos`, or a control in its place: `still`, `random` or `patches`.
        projector: Key of `theworld.model.projectors.PROJECTORS`.
        fusion: `tokens`, or `gated`: added to the image tokens through a gate that starts at zero.
        world_image_size: Side in pixels of the world's frame.
        world_pooling: Latent positions per side that one world token stands for.
        world_position: `after_bos` or `before_image`.
        world_attention: `causal` or `bidirectional`.
        freeze_gemma_vision: Freeze SigLIP and Gemma's own projector.
        freeze_gemma_language: Freeze the language model.
        freeze_cosmos_vae: Freeze the VAE's encoder.
        lora: Low-rank adapters of the language model, which train while it is frozen: `r`, `alpha`, `dropout`,
            `target_modules`; `{}` takes the defaults. `None` keeps those that a checkpoint has.
        freeze_language_lora: Freeze the adapters.
        objective: `answers` (cross-entropy of the answer tokens) or `align` (regress projected latents of a video on
            Gemma's image tokens; no labels).
        true_future_share: For `align`: share of clips whose own latents are seen in place of the rollout's.
        encode_once: For `align`: run the frozen parts over all clips before the first step and keep what they make in
            memory. For a set that is seen many times.
        dataset_name: Key of `theworld.data.sources.SOURCES`.
        train_dataset_path: File, folder or Hub id of the rows.
        eval_dataset_path: Likewise, for `do_eval`.
        split: Split to read where the data has several.
        eval_split: Likewise, of `eval_dataset_path`.
        image_folder: Where relative picture names are looked up.
        num_samples: Read this many rows at most.
        streaming: Read rows one after the other; needs `max_steps`.
        question_template: `str.format` template of the prompt, with the row's own fields.
        draw_bboxes: Draw regions onto the picture.
        max_seq_length: Longest sample in tokens, images and world blocks included.
        overlong: A longer sample is skipped and counted (`skip`), or stops the run (`error`).
        padding: Side of the padding.
        skip_budget: Share of the data that may be skipped before the run stops.
        latent_cache: Folder that `theworld precompute` filled; the world encoder is then not called.
        num_workers: Processes that load data.
        pin_memory: Page-locked batches, for a GPU.
        persistent_workers: Keep the loading processes from epoch to epoch.
        prefetch_factor: Batches that each loading process holds ready.
        learning_rate: Peak learning rate of every part that has none of its own.
        projector_learning_rate: Of the projector and the world markers.
        vision_learning_rate: Of SigLIP and Gemma's own projector.
        language_learning_rate: Of the language model or its adapters.
        vae_learning_rate: Of the VAE's encoder.
        lr_scheduler: What follows the warm-up.
        min_learning_rate_ratio: Where `cosine` ends, as a share of the peak.
        batch_size: Samples per process and forward pass.
        gradient_accumulation_steps: Forward passes per optimiser step.
        num_epochs: Passes over the data.
        max_steps: Optimiser steps; overrides `num_epochs`.
        warmup_steps: Optimiser steps of the linear warm-up.
        weight_decay: Of matrices; norms, biases, gains and embeddings have none.
        max_grad_norm: Gradients are clipped to this norm; 0 leaves them.
        mixed_precision: `bf16` holds frozen weights in that type and trained ones in fp32; `no` is all fp32. `fp16` is
            refused: Gemma 3 overflows in it.
        use_gradient_checkpointing: Recompute activations in the backward pass: less memory, slower.
        compile: `torch.compile` the layers of language model and vision tower.
        seed: Of initial weights, data order, dropout.
        output_dir: The run folder.
        save_steps: Optimiser steps between checkpoints; the last step is always saved.
        save_total_limit: Checkpoints kept, the newest ones.
        resume_from: A checkpoint, a run folder (its newest complete checkpoint) or a Hub id. With the state of the same
            stage the run continues exactly; else a new stage starts from those weights, under this config. `auto`
            continues the run in `output_dir` if there is one and starts it if not, which is what a requeued job needs.
            Without it, an `output_dir` that holds checkpoints is an error: two runs would mix.
        resume_from_checkpoint: Another name of `resume_from`.
        do_eval: Compute the loss on `eval_dataset_path` during training.
        eval_steps: Optimiser steps between evaluations.
        eval_batch_size: Samples per process and forward pass; `None` is `batch_size`.
        logging_steps: Optimiser steps between log lines; every checkpoint writes one too.
        log_to_tensorboard: Write `<output_dir>/logs` for TensorBoard.
        log_to_wandb: Log to Weights & Biases; `WANDB_MODE=offline` keeps it on this machine.
        wandb_project: Project there.
        wandb_run_name: Name of the run there.
        hf_token: Hub token, for reading gated models and for pushing. Never written anywhere; better left to the
            environment (`HF_TOKEN`) or `hf auth login`.
        push_to_hub: Publish the checkpoint on the Hub.
        hub_model_id: Repository to publish to.
        hub_strategy: `end`, `every_save`, or `checkpoint` (also what resuming needs).
        hub_private_repo: Make a new repository private.

    Raises:
        ValueError: A key has the wrong type or is out of range; names the key, the value and what was expected.
    """

    model_name: str = DEFAULT_GEMMA_MODEL
    cosmos_model_name: str | None = None
    enable_world: bool = True
    num_world_steps: int | None = None
    max_world_steps: int | None = None
    world_encoder: str | None = None
    projector: str | None = None
    world_image_size: int | None = None
    world_pooling: int | None = None
    fusion: Literal["tokens", "gated"] | None = None
    world_position: Literal["after_bos", "before_image"] | None = None
    world_attention: Literal["causal", "bidirectional"] | None = None
    freeze_gemma_vision: bool = True
    freeze_gemma_language: bool = True
    freeze_cosmos_vae: bool = True
    lora: dict[str, Any] | None = None
    freeze_language_lora: bool = False
    objective: Literal["answers", "align"] = "answers"
    true_future_share: float = 0.25
    encode_once: bool = False

    dataset_name: str = "custom"
    train_dataset_path: str | None = None
    eval_dataset_path: str | None = None
    split: str | None = None
    eval_split: str | None = None
    image_folder: str | None = None
    num_samples: int | None = None
    streaming: bool = False
    question_template: str | None = None
    draw_bboxes: bool = True
    max_seq_length: int = 2048
    overlong: Literal["skip", "error"] = "skip"
    padding: Literal["right", "left"] = "right"
    skip_budget: float = 0.05
    latent_cache: str | None = None
    num_workers: int = 0
    pin_memory: bool = True
    persistent_workers: bool = False
    prefetch_factor: int | None = None

    learning_rate: float = 1e-4
    projector_learning_rate: float | None = None
    vision_learning_rate: float | None = None
    language_learning_rate: float | None = None
    vae_learning_rate: float | None = None
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    min_learning_rate_ratio: float = 0.0
    batch_size: int = 4
    gradient_accumulation_steps: int = 4
    num_epochs: float = 3.0
    max_steps: int | None = None
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "fp16", "bf16"] = "bf16"
    use_gradient_checkpointing: bool = False
    compile: bool = False
    seed: int = 0

    output_dir: str = "./checkpoints"
    save_steps: int = 500
    save_total_limit: int | None = 3
    resume_from: str | None = None
    resume_from_checkpoint: str | None = None
    do_eval: bool = False
    eval_steps: int = 500
    eval_batch_size: int | None = None
    logging_steps: int = 10
    log_to_tensorboard: bool = True
    log_to_wandb: bool = False
    wandb_project: str = "theworld"
    wandb_run_name: str | None = None

    hf_token: str | None = field(default=None, repr=False)
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_strategy: Literal["end", "every_save", "checkpoint"] = "end"
    hub_private_repo: bool = False

    def __post_init__(self) -> None:
        for name, kind in field_types().items():
            _check_type(name, getattr(self, name), kind)
        for names, accepted, expected in RANGES:
            for name in names:
                value = getattr(self, name)
                if value is not None and not accepted(value):
                    raise ValueError(f"{name}={value!r}: expected {expected}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.mixed_precision == "fp16":
            raise ValueError(f"mixed_precision='fp16': {FP16_REFUSED}")
        if self.resume_from and self.resume_from_checkpoint and self.resume_from != self.resume_from_checkpoint:
            raise ValueError(
                f"resume_from={self.resume_from!r} and resume_from_checkpoint={self.resume_from_checkpoint!r} are two "
                "names of one thing: give one"
            )
        if self.do_eval and self.eval_dataset_path is None:
            raise ValueError("do_eval=True without eval_dataset_path: name the rows to evaluate on")
        if self.push_to_hub and self.hub_model_id is None:
            raise ValueError("push_to_hub=True without hub_model_id: name the repository, as in you/model")
        for name in ("persistent_workers", "prefetch_factor"):
            if getattr(self, name) and self.num_workers == 0:
                raise ValueError(f"{name}={getattr(self, name)} with num_workers=0: no process to apply it to")
        if self.objective == "align" and not (self.enable_world and self.num_world_steps is not None):
            raise ValueError(
                f"objective='align' with enable_world={self.enable_world}, num_world_steps={self.num_world_steps}: "
                "expected a world and the number of latent frames to align"
            )
        if self.encode_once and (self.objective != "align" or self.streaming):
            raise ValueError("encode_once=True: only for objective='align', and not for a stream")

    @property
    def resume(self) -> str | None:
        """`resume_from` under either of its names."""
        return self.resume_from or self.resume_from_checkpoint

    def to_dict(self) -> dict[str, Any]:
        """Every key but the secret ones, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name not in SECRETS}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From JSON-like values; keys that begin with `_` are left out.

        Raises:
            KeyError: An unknown key; names the nearest.
            ValueError: As at construction.
        """
        given = {name: value for name, value in values.items() if not name.startswith("_")}
        for name in given:
            if name not in field_types():
                near = difflib.get_close_matches(name, field_types(), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else "the keys are those of TrainingConfig"
                raise KeyError(f"unknown config key {name!r}: {hint}")
        return cls(**given)

    @classmethod
    def from_file(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Self:
        """From a JSON file, with `overrides` over its keys.

        Raises:
            FileNotFoundError: There is no such file.
            KeyError: An unknown key; names the nearest.
            ValueError: It is no JSON object, or as at construction.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such config file")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error}); comments are keys that begin with '_'") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected a JSON object of config keys, got {type(values).__name__}")
        return cls.from_dict({**values, **(overrides or {})})


RANGES: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (
        ("batch_size", "gradient_accumulation_steps", "save_steps", "eval_steps", "logging_steps", "max_seq_length",
         "max_steps", "save_total_limit", "eval_batch_size", "prefetch_factor", "num_samples", "max_world_steps",
         "world_pooling", "world_image_size"),
        lambda value: value >= 1,
        "at least 1",
    ),
    (
        ("warmup_steps", "num_workers", "num_world_steps", "weight_decay", "max_grad_norm"),
        lambda value: value >= 0,
        "0 or more",
    ),
    (
        ("learning_rate", "projector_learning_rate", "vision_learning_rate", "language_learning_rate",
         "vae_learning_rate", "num_epochs"),
        lambda value: value > 0,
        "more than 0",
    ),
    (
        ("skip_budget", "min_learning_rate_ratio", "true_future_share"),
        lambda value: 0 <= value <= 1,
        "a share between 0 and 1",
    ),
    (("seed",), lambda value: 0 <= value < 2**32, "a whole number in [0, 2**32)"),
    (("model_name", "dataset_name", "output_dir", "resume_from", "resume_from_checkpoint"), bool, "a name"),
)  # fmt: skip


@cache
def field_types() -> dict[str, Any]:
    """The type of every config key."""
    hints = get_type_hints(TrainingConfig)
    return {entry.name: hints[entry.name] for entry in fields(TrainingConfig)}


def parse_value(name: str, text: str) -> Any:
    """The value that `text`, from a command line, means for a key: `none`, `true`, a number, JSON, or the text itself.

    Raises:
        ValueError: It is no value of the key's type.
    """
    kinds = _alternatives(field_types()[name])
    if type(None) in kinds and text.lower() in ("none", "null"):
        return None
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{name}={text!r}: expected true or false")
        return text.lower() == "true"
    if str in kinds or any(get_origin(kind) is Literal for kind in kinds):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name}={text!r}: expected {_described(field_types()[name])}") from error


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _check_type(name: str, value: Any, kind: Any) -> None:
    if not any(_is(value, alternative) for alternative in _alternatives(kind)):
        raise ValueError(f"{name}={value!r}: expected {_described(kind)}, got {type(value).__name__}")


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and value == value and abs(value) != float("inf")
    return type(value) is (get_origin(kind) or kind)


def _described(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    parts = [
        f"one of {', '.join(get_args(one))}" if get_origin(one) is Literal else words.get(one, "an object")
        for one in _alternatives(kind)
    ]
    return " or ".join(parts)


__all__ = ["AUTO", "TrainingConfig", "field_types", "parse_value"]
