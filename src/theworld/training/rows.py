"""The rows of a run: what its config names, a mixture of several data sets, or an object of the user's own."""

from collections.abc import Sized
from pathlib import Path
from typing import Any

from transformers.configuration_utils import PretrainedConfig

from theworld.data.open_source import as_source, open_mixture, open_source
from theworld.data.schema import SourceSettings
from theworld.data.sources import SOURCES
from theworld.utils.errors import TheWorldError
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
    shared: dict[str, Any] = {
        "image_folder": None if config.image_folder is None else Path(config.image_folder).expanduser(),
        "num_samples": config.num_samples,
        "question_template": config.question_template,
        "columns": config.columns,
        "seed": config.seed,
    }
    if given is not None:
        data = as_source(given, SourceSettings(**shared))
    else:
        split = config.eval_split if evaluation else config.split
        shared |= {"split": split, "streaming": config.streaming, "draw_bboxes": config.draw_bboxes}
        data = _open(config, start, shared, evaluation=evaluation)
    if not isinstance(data, Sized) and config.max_steps is None:
        what = "eval_dataset" if evaluation else "train_dataset"
        named = f"{what} given" if given is not None else f"dataset {config.dataset_name!r}"
        raise TheWorldError(f"{named}: a stream has no length; set max_steps")
    return data


def _open(config: TrainingConfig, start: str | Path | None, shared: dict[str, Any], *, evaluation: bool) -> Any:
    """The data set that the config names, or the mixture of several; `shared` are the settings of all."""
    name, path = config.dataset_name, config.eval_dataset_path if evaluation else config.train_dataset_path
    if isinstance(name, list) and evaluation:
        if len(set(name)) > 1:
            raise TheWorldError(f"do_eval=True with dataset_name={name}: pass eval_dataset to theworld.train instead")
        name = name[0]

    def settings(name: str, path: str | None) -> SourceSettings:
        return SourceSettings(path=path, **shared, **clip_settings(config, name, start))

    if not isinstance(name, list) and not isinstance(path, list):
        return open_source(name, settings(name, path))
    names = name if isinstance(name, list) else [name] * len(path or ())
    paths = path if isinstance(path, list) else [path] * len(names)
    weights = config.weights or [1.0] * len(names)
    return open_mixture([(n, settings(n, p), weight) for n, p, weight in zip(names, paths, weights, strict=True)])


def clip_settings(config: TrainingConfig, name: str, start: str | Path | None) -> dict[str, Any]:
    """How long and how fast the clips of the data set `name` are, for alignment."""
    if config.objective != "align":
        return {}
    steps = config.num_world_steps or 0
    frames_per_step = world_setting("world_temporal_compression", config, start)
    clip = {"clip_frames": 1 + steps * frames_per_step, "frames_per_step": frames_per_step}
    if "clip_fps" in SOURCES[name].uses:  # clips of a simulation have no rate of their own
        clip["clip_fps"] = world_setting("world_fps", config, start)
    return clip


def world_setting(name: str, config: TrainingConfig, start: str | Path | None) -> Any:
    """A setting of the rollout that clips are aligned with: the config's, the checkpoint's, or the default."""
    if getattr(config, name) is not None:
        return getattr(config, name)
    saved, _ = PretrainedConfig.get_config_dict(resolve(config.model_name if start is None else start))
    return saved.get(name, getattr(WorldSettings(), name))
