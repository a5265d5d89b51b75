"""Settings of an evaluation: one record per key, used by Python, the command line, its config file and `--help`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from theworld.constants import NANO
from theworld.data.schema import SourceSettings
from theworld.utils.errors import MissingFileError, TheWorldError, brief
from theworld.utils.imports import require
from theworld.utils.settings import keys, nearest, setting

from .ask.arms import ARMS, CONTROLS, FULL

TASK_NAMES = ("blink", "custom", "micro_world", "spatial_rgpt", "vsr")
"""Keys of `TASKS`, for commands that have not imported the tasks yet."""

EXTRAS = {"card": ("eval", "huggingface_hub"), "tensorboard": ("train", "tensorboard"), "wandb": ("wandb", "wandb")}
"""`report_to` -> extra and package that it needs."""


# fmt: off
@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of an evaluation. A list may be given as a comma-separated string.

    Raises:
        ValueError: A value has the wrong type, is out of range, or is an unknown name.
    """

    model: str = setting(NANO, "Folder or Hub id of a TheWorld checkpoint or a Gemma 3.", low=1)
    revision: str | None = setting(None, "Commit, tag or branch of the model on the Hub.")
    arms: str | list[str] = setting("all", "Names of arms, or `all`.")
    control: list[str] | dict[str, str] | None = setting(
        None, "A control checkpoint as NAME=PATH, once for each: gemma_tuned, current_frame, other_source, "
        "random_encoder.")
    data: str | None = setting(None, "File, folder or Hub id of the questions.", unset="the task's own")
    image_folder: str | None = setting(None, "Folder that relative image paths refer to.")
    columns: dict[str, str] | None = setting(
        None, "Column names by role: `image`, `question`, `answer`, `choices`, `id`.")
    split: str | None = setting(None, "Split to read, if the data has several.")
    num_samples: int | None = setting(None, "Maximum number of questions.", low=1)
    families: str | list[str] | None = setting(None, "Families or kinds of questions to ask.", unset="all")
    question_template: str | None = setting(None, "Prompt with the row's fields in braces.", unset="the task's")
    scorer: Literal["auto", "choices", "generate"] = setting(
        "auto", "`choices` compares the log-probabilities of the choices, `generate` parses a generated answer, `auto` "
        "compares if the item has choices.")
    num_world_steps: str | int | list[int] | None = setting(
        None, "Future latent frames to compare, as in 0,4.", unset="0 and the model's own")
    num_futures: int = setting(1, "Number of rollouts that the arm `futures` averages.", low=1, high=1024)
    batch_size: int = setting(16, "Questions per batch. It affects the last bits of log-probabilities.", low=1)
    seed: int = setting(0, "Seed of noise, untrained projector, and assignment of other items' worlds.", low=0)
    dtype: Literal["auto", "bfloat16", "float32"] = setting(
        "auto", "Data type of the weights; `auto` is bfloat16 on an accelerator, else float32.")
    device: str | None = setting(None, "Device of the model, as in cuda:1.", unset="an accelerator, else cpu")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = setting(
        None, "Implementation of the attention.", unset="that of transformers")
    load_in_4bit: bool = setting(False, "Load Gemma 3's weights in 4 bits, with bitsandbytes.")
    load_in_8bit: bool = setting(False, "Load Gemma 3's weights in 8 bits, with bitsandbytes.")
    output: str = setting(
        "runs/evaluation", "Folder of predictions, metrics and report. Existing predictions there are reused.")
    latent_cache: str | None = setting(None, "Folder of world latents.", unset="in the output folder")
    report_to: str | list[str] | None = setting(
        None, "Also write results to `tensorboard`, `wandb`, or `card` (the model card).", unset="nowhere")
# fmt: on

    def __post_init__(self) -> None:
        for name, key in keys(type(self)).items():
            value = getattr(self, name)
            value = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            object.__setattr__(self, name, value)
            key.check(value)
        if self.load_in_4bit and self.load_in_8bit:
            raise TheWorldError("load_in_4bit=True and load_in_8bit=True contradict each other: choose one")
        _ = self.arm_names, self.steps, self.controls  # these properties check their values
        for name in self.reporters:
            require(*EXTRAS[name])

    @property
    def folder(self) -> Path:
        """The output folder; predictions are in <output>/<task>/<arm>."""
        return Path(self.output).expanduser()

    @property
    def arm_names(self) -> tuple[str, ...]:
        """Keys of `ARMS`."""
        return tuple(ARMS) if self.arms == "all" else _known("arm", listed(self.arms), ARMS)

    @property
    def controls(self) -> dict[str, str]:
        """Checkpoint by name, for each control that is given."""
        given = self.control or {}
        if isinstance(given, list):
            if wrong := [text for text in given if not text.partition("=")[2]]:
                raise TheWorldError(f"control {brief(wrong[0])!r}: expected NAME=PATH, as in gemma_tuned=runs/tuned")
            given = dict(text.split("=", 1) for text in given)
        _known("control", given, CONTROLS)
        return given

    @property
    def steps(self) -> tuple[int, ...] | None:
        """Numbers of future latent frames to compare. `None`: 0 and the model's own."""
        texts = listed(self.num_world_steps)
        if self.num_world_steps is not None and not (texts and all(text.isdecimal() for text in texts)):
            given = brief(f"num_world_steps={self.num_world_steps!r}")
            raise TheWorldError(f"{given}: expected whole numbers from 0 on with commas, as in 0,4")
        return tuple(map(int, texts)) or None

    @property
    def reporters(self) -> tuple[str, ...]:
        """Keys of `EXTRAS`."""
        names = _known("report_to", listed(self.report_to), EXTRAS)
        if "card" in names and FULL not in self.arm_names:
            raise TheWorldError(f"report_to='card' shows the accuracy of the arm {FULL}: add it to --arms")
        return names

    @property
    def source(self) -> SourceSettings:
        """Where the items come from."""
        folder = Path(self.image_folder) if self.image_folder else None
        more = {name: getattr(self, name) for name in ("split", "columns", "num_samples", "question_template")}
        return SourceSettings(path=self.data, image_folder=folder, **more)


def listed(value: Any) -> list[str]:
    """A list of strings from a list, a comma-separated string, or `None`."""
    items = value if isinstance(value, list) else [] if value is None else str(value).split(",")
    return [str(item).strip() for item in items]


def check_task(name: str) -> None:
    """Raise a ValueError unless `name` is in `TASK_NAMES`, or `path/to/file.py:NAME` with an existing file."""
    path = name.rpartition(":")[0]
    if not path.endswith(".py"):
        _known("task", [name], TASK_NAMES, ", or path/to/file.py:NAME")
    elif not Path(path).is_file():
        raise MissingFileError(
            f"{brief(str(Path(path).absolute()))}: no such file; give --task path/to/file.py:NAME, a file with a Task"
        )


def _known(kind: str, names: Iterable[str], known: Collection[str], more: str = "") -> tuple[str, ...]:
    for name in names:
        if name not in known:
            hint = nearest(name, known)
            expected = f"{', '.join(known)}{more}{hint and f'; {hint}'}"
            raise TheWorldError(f"{kind} {brief(repr(name))}: expected one of {expected}")
    return tuple(names)
