"""The keys that a run passes on: the fields of `TheWorldConfig` and of `transformers.TrainingArguments`.

The fields of transformers are read from its source, so that `--help` and errors do not wait seconds for its import.
"""

import ast
import builtins
from collections.abc import Mapping
from dataclasses import Field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from theworld.utils.errors import TheWorldError, brief
from theworld.utils.settings import Key, keys, setting
from theworld.utils.world_settings import WorldSettings

WORLD, TRAINER = "TheWorldConfig", "TrainingArguments"

# By reason: fields of `TrainingArguments` that would break a run or have no effect
REASONS = {
    "several processes are set up by `accelerate launch --config_file configs/accelerate/...`":
        "fsdp fsdp_config deepspeed accelerator_config parallelism_config",
    "an evaluation computes the loss and the figures of closed questions, and keeps no predictions":
        "prediction_loss_only include_for_metrics batch_eval_metrics eval_do_concat_batches eval_use_gather_object "
        "eval_accumulation_steps",
    "TheWorld writes its own log, to stderr": "log_level log_level_replica disable_tqdm",
    "TheWorld pushes whole checkpoints itself": "hub_always_push hub_revision",
    "choose a checkpoint by its eval_loss, and raise save_total_limit to keep more":
        "load_best_model_at_end metric_for_best_model greater_is_better",
    "a resumed run must repeat the uninterrupted run exactly":
        "ignore_data_skip save_only_model restore_callback_states_from_checkpoint",
    "a run saves a checkpoint on SIGTERM anyway": "enable_jit_checkpoint",
    "`theworld train` always trains": "do_train do_predict",
    "the collator makes the batches that the model takes": "remove_unused_columns label_names length_column_name",
    "Liger does not support TheWorld and would have no effect": "use_liger_kernel liger_kernel_config",
    "the model computes the loss, at supervised positions only": "label_smoothing_factor",
    "world tokens would get noise too": "neftune_noise_alpha",
    "another batch size changes the run: lower batch_size": "auto_find_batch_size",
    "every process uses all parameters": "ddp_find_unused_parameters",
    "the optimiser has one group of parameters per component": "optim_target_modules",
    "the option --debug shows tracebacks": "debug",
    "the launcher sets it": "local_rank",
}  # fmt: skip

# Limits that transformers checks late, or not at all
RECORDS: dict[str, dict[str, Any]] = {
    "train_sampling_strategy": {"choices": ("random", "sequential")},
    "save_strategy": {"choices": ("steps", "epoch")},
    "include_num_input_tokens_seen": {"choices": ("all", "non_padding", "no")},
    **{name: {"low": 0, "high": 1} for name in ("adam_beta1", "adam_beta2")},
    "adam_epsilon": {"above": 0},
    "eval_delay": {"low": 0},
    **{name: {"low": 1, "high": 10**9} for name in ("torch_empty_cache_steps", "ddp_bucket_cap_mb", "ddp_timeout")},
}
OWN_GROUPS = ("galore", "apollo", "lomo", "adalomo")
"""Prefixes of optimisers that make their own parameter groups; a run has one group per component."""
CHANGE_RUN = {
    *("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs"),
    *("average_tokens_across_devices", "dataloader_drop_last", "train_sampling_strategy"),
}


@cache
def trainer_fields() -> Mapping[str, ast.AnnAssign]:
    """The field definitions of the installed `TrainingArguments`, by name."""
    package: Any = find_spec("transformers")
    tree = ast.parse(Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8"))
    body = next(one.body for one in tree.body if isinstance(one, ast.ClassDef) and one.name == TRAINER)
    return {ast.unparse(one.target): one for one in body if isinstance(one, ast.AnnAssign)}


def refusals(own: Mapping[str, Key]) -> dict[str, str]:
    """By name: why a field of `TheWorldConfig` or `TrainingArguments` cannot be set. `own` are the run's keys."""
    found = {name: key.refused for name, key in keys(WorldSettings).items() if key.refused}
    found |= {argument: f"set {name}" for name, key in own.items() for argument in key.argument.split()}
    return found | {name: why for why, names in REASONS.items() for name in names.split() if name in trainer_fields()}


def passed_fields(own: Mapping[str, Key]) -> list[tuple[str, Any, Field[Any]]]:
    """Name, type and field of every key that is passed on, for `dataclasses.make_dataclass`; `own` are the run's keys.

    A field of `TheWorldConfig` that is `None` takes the checkpoint's value; flags are never `None`.
    """
    found: list[tuple[str, Any, Any]] = []
    for name, key in keys(WorldSettings).items():
        if key.refused is None:
            record = {slot: getattr(key, slot) for slot in ("low", "high", "choices", "shapes", "local")}
            kind, default = key.kind, key.default
            if kind is not bool:
                fresh = f", or {key.shown_default} for a new fusion" if key.unset or default not in (None, "") else ""
                kind, default, record["unset"] = kind | None, None, f"the checkpoint's{fresh}"
            found.append((name, kind, setting(default, key.help, source=WORLD, **record)))
    taken = own.keys() | refusals(own).keys()
    return found + [_trainer_field(name, node) for name, node in trainer_fields().items() if name not in taken]


def _trainer_field(name: str, node: ast.AnnAssign) -> tuple[str, Any, Any]:
    """An entry of `passed_fields` for `optim: OptimizerNames | str = field(default=..., metadata=...)` and the like."""
    # 1. Help text
    given: dict[str, Any] = {keyword.arg: keyword.value for keyword in cast(Any, node.value).keywords}
    texts = dict(zip(map(ast.unparse, given["metadata"].keys), given["metadata"].values, strict=True))
    help = " ".join(ast.literal_eval(texts["'help'"]).replace("%%", "%").split())
    # 2. Type. Enumerations of transformers are text here; `check_enumerated` checks values that are given
    names = {one.id for one in ast.walk(node.annotation) if isinstance(one, ast.Name)} - vars(builtins).keys()
    scope = {**dict.fromkeys(names, str), "Any": Any, "Literal": {False: bool}}
    # transformers also takes objects as JSON text, which `Key.parse` has parsed already
    kind: Any = eval(ast.unparse(node.annotation).replace("dict | str", "dict"), scope)
    # 3. Default, limits and choices
    default = given.get("default")
    known = isinstance(default, (ast.Constant, ast.UnaryOp))  # otherwise it depends on the machine
    record: dict[str, Any] = {"shapes": name in CHANGE_RUN, "source": TRAINER, **RECORDS.get(name, {})}
    if isinstance(choices := texts.get("'choices'"), ast.List):
        record.setdefault("choices", tuple(ast.literal_eval(choices)))
    value = ast.literal_eval(default) if known else None
    sentence, unset = help.partition(". ")[0].rstrip(".") + ".", None if known else "transformers' own"
    return name, kind if known else kind | None, setting(value, sentence, unset=unset, **record)


def check_enumerated(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` is in the enumeration that the type of a field of `TrainingArguments` names."""
    enumeration = ast.unparse(trainer_fields()[name].annotation).partition(" | str")[0]
    if enumeration.isidentifier() and not hasattr(builtins, enumeration) and enumeration != "None":
        names = [entry.value for entry in getattr(import_module("transformers.training_args"), enumeration)]
        names = [entry for entry in names if not entry.startswith(OWN_GROUPS)]
        if value not in names:
            raise TheWorldError(f"{name}={brief(repr(value))}: expected one of {', '.join(names)}")
