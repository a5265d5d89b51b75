"""One file a benchmark, each on one screen; `TASKS` is where a new one is named."""

from __future__ import annotations

from .base import Task
from .blink import BLINK
from .custom import CUSTOM
from .micro_world import MICRO_WORLD
from .spatial_rgpt import SPATIAL_RGPT
from .vsr import VSR

TASKS: dict[str, Task] = {task.name: task for task in (BLINK, CUSTOM, MICRO_WORLD, SPATIAL_RGPT, VSR)}
"""`--task` -> the benchmark."""

__all__ = ["TASKS"]
