"""`TrainingConfig`: all settings of a run as flat keys of one JSON file, validated at construction.

A config file holds only the keys that differ from the defaults. Keys that begin with `_` are comments.
"""

from dataclasses import asdict, dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from theworld.constants import DEFAULT_GEMMA_MODEL, FP16_REFUSED
from theworld.data.columns import ROLES
from theworld.utils.errors import TheWorldError, brief
from theworld.utils.operating_points import OPERATING_POINTS, operating_point
from theworld.utils.settings import keys, known_values, read_values, setting
from theworld.utils.world_settings import check_lora

from .passed_keys import TRAINER, check_enumerated, passed_fields, refusals

AUTO = "auto"
REGISTRIES = ("world_encoder", "projector", "fusion")
NEEDS = {
    "do_eval": "eval_dataset_path eval_split eval_steps eval_batch_size eval_delay eval_on_start",
    "log_to_wandb": "wandb_project wandb_run_name",
    "num_workers": "dataloader_in_order",
    "objective": "true_future_share",
    "push_to_hub": "hub_strategy hub_private_repo",
    "report_to": "project run_name trackio_space_id trackio_bucket_id trackio_static_space_id",
}
"""By key: the keys that have no effect while it has its default."""
UNUSED_BY_STREAMS = ("dataloader_drop_last", "dataloader_multiprocessing_context", "dataloader_in_order",
                     "train_sampling_strategy")  # fmt: skip
RATE: dict[str, Any] = {"above": 0, "unset": "`learning_rate`", "shapes": True}


# fmt: off
@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The run's own keys: default, range and meaning of each."""

    model_name: str = setting(
        DEFAULT_GEMMA_MODEL, "Base Gemma 3, TheWorld checkpoint, or run folder (its newest checkpoint): a folder, "
        "a Hub id or `nano`.", low=1, local=True)
    operating_point: str | None = setting(
        None, "Named world settings for keys that are not given; see `theworld.utils.operating_points`.",
        choices=tuple(OPERATING_POINTS), shapes=True)
    load_in_4bit: bool = setting(False, "Load Gemma 3's frozen weights in 4 bits, with bitsandbytes.", shapes=True)
    load_in_8bit: bool = setting(False, "Load Gemma 3's frozen weights in 8 bits, with bitsandbytes.", shapes=True)
    objective: Literal["answers", "align"] = setting(
        "answers", "The loss: cross-entropy of the answers, or a regression of projected latents of a video on Gemma's "
        "image tokens, without labels.")
    true_future_share: float = setting(
        0.25, "For `align`: share of clips whose own latents replace the rollout's.", low=0, high=1, shapes=True)
    train_world_steps: list[int] | None = setting(
        None, "For `answers`: values of `num_world_steps`, of which every batch uses one; repeat one to use it more "
        "often. Null is `num_world_steps`.", shapes=True)
    encode_once: bool = setting(False, "For `align`: encode all clips once, before the first step, into memory.")

    dataset_name: str | list[str] = setting("custom", "Key of `SOURCES`; a list is a mixture.", low=1, local=True)
    train_dataset_path: str | list[str] | None = setting(
        None, "File, folder or Hub id of the rows; a list for a mixture.", low=1, local=True)
    weights: list[float] | None = setting(None, "Shares of a mixture's datasets; null: equal.", above=0, shapes=True)
    eval_dataset_path: str | None = setting(None, "File, folder or Hub id of the rows for `do_eval`.", local=True)
    split: str | None = setting(None, "Split to read, if the data has several.")
    eval_split: str | None = setting(None, "Split of `eval_dataset_path`.")
    image_folder: str | None = setting(None, "Folder of relative image names.", local=True)
    columns: dict[str, str] | None = setting(
        None, "Column names by role: `image`, `question`, `answer`, `choices`, `id`.", shapes=True)
    num_samples: int | None = setting(None, "Largest number of rows to read; in a mixture, per dataset.", low=1)
    streaming: bool = setting(False, "Read rows as a stream; needs `max_steps`.")
    question_template: str | None = setting(None, "Prompt as a `str.format` template of the row's fields.", shapes=True)
    draw_bboxes: bool = setting(True, "Draw regions onto the image.", shapes=True)
    max_seq_length: int = setting(
        2048, "Longest sample in tokens, including images and world blocks.", low=1, shapes=True)
    overlong: Literal["skip", "error"] = setting("skip", "Skip and count longer samples, or stop the run.", shapes=True)
    padding: Literal["right", "left"] = setting("right", "Side of the padding.", shapes=True)
    skip_budget: float = setting(0.05, "Share of the data that may be skipped before the run stops.", low=0, high=1)
    latent_cache: str | None = setting(None, "Folder of latents from `theworld precompute`.", local=True)
    num_workers: int = setting(0, "Processes that load data.", low=0, argument="dataloader_num_workers", local=True)
    pin_memory: bool = setting(True, "Use page-locked memory, for a GPU.", argument="dataloader_pin_memory", local=True)
    persistent_workers: bool = setting(
        False, "Keep the loading processes between epochs.", argument="dataloader_persistent_workers", local=True)
    prefetch_factor: int | None = setting(
        None, "Batches that each loading process prepares.", low=1, argument="dataloader_prefetch_factor", local=True)

    batch_size: int = setting(
        4, "Samples per process and forward pass.", low=1, argument="per_device_train_batch_size", shapes=True)
    gradient_accumulation_steps: int = setting(4, "Forward passes per optimiser step.", low=1, shapes=True)
    num_epochs: float = setting(3.0, "Passes over the data.", above=0, argument="num_train_epochs", shapes=True)
    max_steps: int | None = setting(None, "Optimiser steps; overrides `num_epochs`.", low=1, shapes=True)
    learning_rate: float = setting(1e-4, "Peak learning rate of components without their own.", above=0, shapes=True)
    projector_learning_rate: float | None = setting(None, "Peak rate of the projector and world markers.", **RATE)
    vision_learning_rate: float | None = setting(None, "Peak rate of SigLIP and Gemma's projector.", **RATE)
    language_learning_rate: float | None = setting(None, "Peak rate of the language model or its adapters.", **RATE)
    vae_learning_rate: float | None = setting(None, "Peak rate of the VAE's encoder.", **RATE)
    lr_scheduler: Literal["cosine", "linear", "constant", "cosine_with_restarts", "polynomial", "inverse_sqrt",
                          "warmup_stable_decay"] = setting(
        "cosine", "Schedule after the warm-up.", argument="lr_scheduler_type", shapes=True)
    min_learning_rate_ratio: float = setting(
        0.0, "Final rate of `cosine`, as a share of the peak.", low=0, high=1, shapes=True)
    warmup_steps: int = setting(100, "Optimiser steps of the linear warm-up.", low=0, shapes=True)
    warmup_ratio: float | None = setting(
        None, "Warm-up as a share of all steps; overrides `warmup_steps`.", low=0, high=0.99, shapes=True)
    weight_decay: float = setting(0.01, "Weight decay, of matrices only.", low=0, shapes=True)
    max_grad_norm: float = setting(1.0, "Clip gradients to this norm; 0 does not clip.", low=0, shapes=True)
    mixed_precision: Literal["no", "fp16", "bf16"] = setting(
        "bf16", "`bf16`: frozen weights in bf16, trained ones in fp32. `no`: all in fp32. `fp16` is not supported.",
        argument="bf16 fp16 bf16_full_eval fp16_full_eval", shapes=True)
    use_gradient_checkpointing: bool = setting(
        False, "Recompute activations in the backward pass: less memory, slower.", argument="activation_checkpointing "
        "activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs")
    compile: bool = setting(
        False, "`torch.compile` the layers of language model and vision tower.",
        argument="torch_compile torch_compile_backend torch_compile_mode")
    seed: int = setting(
        0, "Seed of initial weights, data order and dropout.", low=0, high=2**32 - 1, argument="data_seed", shapes=True)

    output_dir: str = setting("./checkpoints", "The run folder.", low=1, local=True)
    save_steps: int = setting(500, "Optimiser steps between checkpoints; the last is saved too.", low=1, local=True)
    save_total_limit: int | None = setting(3, "Number of newest checkpoints to keep.", low=1, local=True)
    resume_from: str | None = setting(
        None, "Checkpoint, run folder (its newest checkpoint) or Hub id to resume, or to start a new stage from; "
        "`auto` resumes the run in `output_dir`, if there is one.", low=1, local=True)
    resume_from_checkpoint: str | None = setting(None, "Same as `resume_from`; give one of them.", low=1, local=True)
    do_eval: bool = setting(False, "Compute the loss on `eval_dataset_path` during training.")
    eval_steps: int = setting(500, "Optimiser steps between evaluations.", low=1)
    eval_batch_size: int | None = setting(
        None, "Samples per process and forward pass of an evaluation.", low=1, unset="`batch_size`",
        argument="per_device_eval_batch_size")
    logging_steps: int = setting(10, "Optimiser steps between log lines; a checkpoint adds one.", low=1, local=True)
    log_to_tensorboard: bool = setting(True, "Write `<output_dir>/logs` for TensorBoard.", local=True)
    log_to_wandb: bool = setting(False, "Log to Weights & Biases; `WANDB_MODE=offline` stays local.", local=True)
    wandb_project: str = setting("theworld", "Project at Weights & Biases.", local=True)
    wandb_run_name: str | None = setting(None, "Name of the run at Weights & Biases.", local=True)

    hf_token: str | None = setting(
        None, "Hub token; never saved. Prefer `HF_TOKEN` or `hf auth login`.", argument="hub_token",
        secret=True, local=True)
    push_to_hub: bool = setting(False, "Publish the checkpoint on the Hub.", local=True)
    hub_model_id: str | None = setting(None, "Repository to publish to.", local=True)
    hub_strategy: Literal["end", "every_save", "checkpoint"] = setting(
        "end", "Publish the last checkpoint, every checkpoint, or every checkpoint with its trainer state.", local=True)
    hub_private_repo: bool = setting(False, "Make a new repository private.", local=True)
# fmt: on


OWN = keys(RunSettings)
REFUSED = refusals(OWN)

if TYPE_CHECKING:

    class PassedSettings:
        """Keys whose types are defined in other classes."""

        def __getattr__(self, name: str) -> Any: ...

else:
    PassedSettings = make_dataclass("PassedSettings", passed_fields(OWN), frozen=True, kw_only=True)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(PassedSettings, RunSettings):
    """Settings of a training run: the keys of `RunSettings`, `TheWorldConfig` and `TrainingArguments`.

    `theworld train --help` and docs/configuration.md list all of them. A field of `TrainingArguments` that a key of
    `RunSettings` sets, or that would break a run, raises an error with the reason.

    Raises:
        ValueError: A key is unknown, has the wrong type or is out of range; names key, value and what was expected.
    """

    def __post_init__(self) -> None:
        for name, key in keys(type(self)).items():
            key.check(getattr(self, name))
        for name, value in operating_point(self.operating_point).items():  # stored as the keys that it sets
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        object.__setattr__(self, "operating_point", None)
        self._check_combinations()
        self._check_data()
        # Checks that import torch or transformers are last, and only for keys that are given
        for name, key in keys(type(self)).items():
            if key.source == TRAINER and getattr(self, name) != key.default:
                check_enumerated(name, getattr(self, name))
        if self.lora is not None:
            check_lora(self.lora)
        if self.dataset_name != OWN["dataset_name"].default:
            from theworld.data.sources import SOURCES

            for name in self.dataset_name if isinstance(self.dataset_name, list) else [self.dataset_name]:
                if name not in SOURCES:
                    raise TheWorldError(f"dataset_name={brief(repr(name))}: expected one of {', '.join(SOURCES)}")
        for name in REGISTRIES:
            if getattr(self, name) is not None:
                from theworld.model.components import check_choice

                check_choice(name, getattr(self, name))

    def _check_combinations(self) -> None:
        show = self.show
        if self.mixed_precision == "fp16":
            raise TheWorldError(f"mixed_precision='fp16': {FP16_REFUSED}")
        if self.resume_from and self.resume_from_checkpoint and self.resume_from != self.resume_from_checkpoint:
            raise TheWorldError(f"{show('resume_from', 'resume_from_checkpoint')} have the same meaning: give one")
        if self.do_eval and self.eval_dataset_path is None:
            raise TheWorldError("do_eval=True without eval_dataset_path: name the rows to evaluate on")
        if self.eval_strategy != "no" and not self.do_eval:
            raise TheWorldError(f"{show('eval_strategy')} without do_eval: set do_eval and eval_dataset_path")
        if self.push_to_hub and self.hub_model_id is None:
            raise TheWorldError("push_to_hub=True without hub_model_id: name the repository, as in you/model")
        if self.load_in_4bit and self.load_in_8bit:
            raise TheWorldError("load_in_4bit=True and load_in_8bit=True contradict each other: choose one")
        for name in ("persistent_workers", "prefetch_factor", "dataloader_multiprocessing_context"):
            if getattr(self, name) and not self.num_workers:
                raise TheWorldError(f"{show(name)} with num_workers=0 has no effect: set num_workers")
        if self.min_learning_rate_ratio and self.lr_scheduler != "cosine":
            raise TheWorldError(
                f"{show('min_learning_rate_ratio', 'lr_scheduler')}: only 'cosine' has one; leave it out"
            )
        if self.lr_scheduler == "warmup_stable_decay" and "num_decay_steps" not in (self.lr_scheduler_kwargs or {}):
            raise TheWorldError(f'{show("lr_scheduler")}: set lr_scheduler_kwargs={{"num_decay_steps": N}} too')
        pairs = [pair.strip().split("=") for pair in self.optim_args.split(",")] if self.optim_args else []
        if not all(len(pair) == 2 and all(pair) for pair in pairs):
            message = "expected names and values of the optimiser, as in 'momentum=0.9,nesterov=true'"
            raise TheWorldError(f"{show('optim_args')}: {message}")
        if self.objective == "align" and not (self.enable_world and self.num_world_steps is not None):
            message = show("objective", "enable_world", "num_world_steps")
            raise TheWorldError(f"{message}: expected a world and the number of latent frames to align")
        if self.train_world_steps is not None and (self.objective != "answers" or not self.enable_world):
            message = show("train_world_steps", "objective", "enable_world")
            raise TheWorldError(f"{message}: expected objective='answers' and a world, or leave it out")
        if self.train_world_steps is not None and min(self.train_world_steps, default=-1) < 0:
            raise TheWorldError(f"{show('train_world_steps')}: expected numbers of latent frames, as in [0, 1, 2]")
        if self.encode_once and (self.objective != "align" or self.streaming):
            raise TheWorldError("encode_once=True: only for objective='align', and not for a stream")
        if self.latent_cache is not None and not (self.enable_world and self.freeze_cosmos_vae):
            message = (
                f"latent_cache with {show('enable_world', 'freeze_cosmos_vae')}: only the latents of a frozen world "
            )
            raise TheWorldError(f"{message}encoder stay the same; leave latent_cache out")

    def _check_data(self) -> None:
        if unknown := ", ".join(sorted((self.columns or {}).keys() - set(ROLES))):
            raise TheWorldError(f"columns has {brief(unknown)}: expected some of {', '.join(ROLES)}")
        lists = {name: getattr(self, name) for name in ("dataset_name", "train_dataset_path", "weights")}
        sizes = {name: len(value) for name, value in lists.items() if isinstance(value, list)}
        if len(set(sizes.values())) > 1 or 0 in sizes.values():
            found = ", ".join(f"{name} has {size}" for name, size in sizes.items())
            raise TheWorldError(f"a mixture of datasets: {found} entries; expected one for each dataset")
        if self.weights is not None and len(sizes) == 1:
            raise TheWorldError(f"{self.show('weights')}: expected a list of datasets too, in train_dataset_path")
        for name in UNUSED_BY_STREAMS if self.streaming else ():
            if getattr(self, name) != keys(type(self))[name].default:
                raise TheWorldError(f"{self.show(name)} with streaming=True has no effect: leave it out")

    def show(self, *names: str, joined_by: str = " and ") -> str:
        """Keys with their values, for messages."""
        return joined_by.join(f"{name}={brief(repr(getattr(self, name)))}" for name in names)

    def changes(self, saved: dict[str, Any]) -> list[str]:
        """Keys that differ from `saved`, an earlier config, and change the losses: each as `name (was -> is)`."""
        return [
            f"{name} ({saved.get(name, key.default)} -> {getattr(self, name)})"
            for name, key in keys(type(self)).items()
            if key.shapes and saved.get(name, key.default) != getattr(self, name)
        ]

    def without_effect(self) -> list[str]:
        """Keys that change nothing under the other settings, each as a line of text."""
        changed = {name for name, key in keys(type(self)).items() if getattr(self, name) != key.default}
        return [
            f"{self.show(name)} has no effect with {self.show(needed)}"
            for needed, names in NEEDS.items()
            for name in names.split()
            if name in changed and needed not in changed
        ]

    @property
    def resume(self) -> str | None:
        """`resume_from` or `resume_from_checkpoint`, whichever is set."""
        return self.resume_from or self.resume_from_checkpoint

    def to_dict(self) -> dict[str, Any]:
        """All keys except secret ones, for JSON; those of `TrainingArguments` only if they differ from the default."""
        values = asdict(self)
        return {
            name: values[name]
            for name, key in keys(type(self)).items()
            if name != "operating_point" and not (key.secret or (key.source == TRAINER and values[name] == key.default))
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a config from JSON values; keys that begin with `_` are ignored. Raises as the constructor."""
        for name in values.keys() - keys(cls).keys():
            if name in REFUSED:
                raise TheWorldError(f"config key {name!r} cannot be set: {REFUSED[name]}")
        return cls(**known_values(values, cls, "docs/configuration.md lists the keys"))

    @classmethod
    def from_file(cls, path: str | Path, overrides: dict[str, Any] | None = None) -> Self:
        """Make a config from a JSON file, updated with `overrides`. Raises a ValueError if it is not valid JSON."""
        return cls.from_dict({**read_values(Path(path)), **(overrides or {})})
