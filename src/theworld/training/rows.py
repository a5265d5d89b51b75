"""The rows of a run: what its config names, a mixture of several data sets, or an object of the user's own."""

from collections.abc import Sized
from pathlib import Path
from typing import Any

from transformers.configuration_utils import PretrainedConfig

from theworld.data.open_source import as_source, open_mixture, open_source
from theworld.data.schema import SourceSettings
from theworld.utils.hub import resolve
from theworld.utils.world_settings import WorldSettings

from .config import TrainingConfig


def load_rows(
    config: TrainingConfig, start: str | Path | None = None, *, evaluation: bool = False, given: Any = None
) -> Any:
    """The rows to train on.

    Args:
        start: What the model is loaded from, whose `world_fps` clips are resampled to; `None` is `config.model_name`.
        evaluation: The rows to evaluate on instead.
        given: Rows in place of those that the config names, of any kind that `as_source` takes.

    Raises:
        ValueError: As from `open_source`, `open_mixture` and `as_source`; or a stream without `max_steps`.
        FileNotFoundError: The file or the image folder is missing.
    """
    path = config.eval_dataset_path if evaluation else config.train_dataset_path
    names = config.dataset_name
    settings: dict[str, Any] = {
        "image_folder": None if config.image_folder is None else Path(config.image_folder).expanduser(),
        "num_samples": config.num_samples,
        "question_template": config.question_template,
        "columns": config.columns,
        "seed": config.seed,
    }
    if given is not None:
        data = as_source(given, SourceSettings(**settings))
    else:
        settings |= {
            "split": config.eval_split if evaluation else config.split,
            "streaming": config.streaming,
            "draw_bboxes": config.draw_bboxes,
        }
        if config.objective == "align":
            steps = config.num_world_steps or 0
            settings["clip_frames"] = 1 + steps * world_setting("world_temporal_compression", config, start)
            if names == "video":  # clips of a simulation have no rate of their own
                settings["clip_fps"] = world_setting("world_fps", config, start)
        if isinstance(names, list) and evaluation:
            if len(set(names)) > 1:
                raise ValueError(f"do_eval=True with dataset_name={names}: pass eval_dataset to theworld.train instead")
            names = names[0]
        if isinstance(names, list) or isinstance(path, list):
            count = len(names if isinstance(names, list) else path or [])
            all_names = names if isinstance(names, list) else [names] * count
            paths = path if isinstance(path, list) else [path] * count
            weights = config.weights or [1.0] * count
            parts = zip(all_names, paths, weights, strict=True)
            data = open_mixture([(name, SourceSettings(path=one, **settings), weight) for name, one, weight in parts])
        else:
            data = open_source(names, SourceSettings(path=path, **settings))
    if not isinstance(data, Sized) and config.max_steps is None:
        what = "eval_dataset" if evaluation else "train_dataset"
        named = f"{what} given" if given is not None else f"dataset {config.dataset_name!r}"
        raise ValueError(f"{named}: a stream has no length; set max_steps")
    return data


def world_setting(name: str, config: TrainingConfig, start: str | Path | None) -> Any:
    """A setting of the rollout that clips are aligned with: the config's, the checkpoint's, or the default."""
    if getattr(config, name) is not None:
        return getattr(config, name)
    saved, _ = PretrainedConfig.get_config_dict(resolve(config.model_name if start is None else start))
    return saved.get(name, getattr(WorldSettings(), name))
