"""The rows of a run: a dataset of its config, a mixture of several, or an object that the user passes."""

import os
from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from transformers.configuration_utils import PretrainedConfig

from theworld.data.open_source import as_source, open_mixture, open_source
from theworld.data.schema import Example, SourceSettings
from theworld.data.sources import SOURCES
from theworld.utils.errors import TheWorldError
from theworld.utils.hub import resolve
from theworld.utils.world_settings import WorldSettings

from .config import TrainingConfig

IMAGE_ROWS = 4096  # evenly spaced rows whose images are hashed, because reading all takes time


def load_rows(
    config: TrainingConfig, start: str | Path | None = None, *, evaluation: bool = False, given: Any = None
) -> Any:
    """The rows to train on.

    Args:
        start: Checkpoint that sets the frame rate of clips; `None` is `config.model_name`.
        evaluation: Load the rows of the evaluation instead.
        given: Rows in place of those that the config names, of any kind that `as_source` takes.
    """
    if given is not None:
        data = as_source(given, replace(_settings(config, None), split=None, streaming=False, draw_bboxes=True))
    else:
        parts = [
            (name, replace(_settings(config, path, evaluation), **clip_settings(config, name, start)), weight)
            for name, path, weight in _entries(config, evaluation=evaluation)
        ]
        mixed = isinstance(config.dataset_name, list) or isinstance(config.train_dataset_path, list)
        data = open_mixture(parts) if mixed and not evaluation else open_source(*parts[0][:2])
    if not isinstance(data, Sized) and config.max_steps is None:
        what = "eval_dataset" if evaluation else "train_dataset"
        named = f"{what} given" if given is not None else f"dataset {config.dataset_name!r}"
        raise TheWorldError(f"{named}: a stream has no length; set max_steps")
    return data


def check_rows(config: TrainingConfig) -> None:
    """Check that the config's local files exist, and read the first rows of a `custom` file.

    It takes seconds, imports neither the model nor transformers' Trainer, and raises as `load_rows`, which reads all
    rows.
    """
    for evaluation in (False, True) if config.do_eval else (False,):
        for name, path, _ in _entries(config, evaluation=evaluation):
            settings = _settings(config, path, evaluation)
            if path is None or not settings.local.exists():
                hub = SOURCES[name].hub
                checked_later = config.resume is not None if path is None else hub is not None and hub.fullmatch(path)
            else:
                checked_later = name != "custom" or not settings.local.is_file() or settings.split is not None
            if not checked_later:
                open_source(name, replace(settings, streaming=config.streaming or name == "custom"))


def _settings(config: TrainingConfig, path: str | None, evaluation: bool = False) -> SourceSettings:
    """The settings of the config that apply to every dataset."""
    alike = ("num_samples", "streaming", "question_template", "draw_bboxes", "columns", "seed")
    folder = None if config.image_folder is None else Path(config.image_folder).expanduser()
    split = config.eval_split if evaluation else config.split
    return SourceSettings(path, image_folder=folder, split=split, **{name: getattr(config, name) for name in alike})


def _entries(config: TrainingConfig, *, evaluation: bool) -> list[tuple[str, str | None, float]]:
    """Name, path and weight of every dataset that the config names."""
    name, path = config.dataset_name, config.eval_dataset_path if evaluation else config.train_dataset_path
    if evaluation and isinstance(name, list):
        if len(set(name)) > 1:
            raise TheWorldError(f"do_eval=True with dataset_name={name}: pass eval_dataset to theworld.train instead")
        name = name[0]
    count = next((len(value) for value in (name, path) if isinstance(value, list)), 1)
    names = name if isinstance(name, list) else [name] * count
    paths = path if isinstance(path, list) else [path] * count
    weights = [1.0] * count if evaluation or config.weights is None else config.weights
    return list(zip(names, paths, weights, strict=True))


def image_files(config: TrainingConfig, data: Any) -> list[Path]:
    """The image files of a sample of rows; none for a stream, or for datasets that generate their images."""
    kinds = [SOURCES[name] for name, _, _ in _entries(config, evaluation=False)]
    if not isinstance(data, Sized) or any(kind.images == "made" or "clip_frames" in kind.uses for kind in kinds):
        return []
    examples = (cast(Any, data)[place] for place in range(0, len(data), max(1, len(data) // IMAGE_ROWS)))
    images = (image for example in examples if isinstance(example, Example) for image in example.images)
    folder = Path(config.image_folder or "").expanduser()
    files = dict.fromkeys(folder / image for image in images if isinstance(image, str | Path))
    return [file for file in files if Path(file).is_file() and os.access(file, os.R_OK)]


def clip_settings(config: TrainingConfig, name: str, start: str | Path | None) -> dict[str, Any]:
    """Number of frames and frame rate of the clips of the dataset `name`, for alignment."""
    if config.objective != "align":
        return {}
    # Imported here, so that errors in the data do not wait for the import of the model
    from theworld.model.world_encoders import WORLD_ENCODERS

    # The settings of the rollout: those of the config, else of the checkpoint, else the defaults
    saved, _ = PretrainedConfig.get_config_dict(resolve(config.model_name if start is None else start))
    given = {key: value for key, value in vars(config).items() if value is not None}
    rollout = {**vars(WorldSettings()), **saved, **given}
    frames_per_step, fps = WORLD_ENCODERS[rollout["world_encoder"]].clip_rate(rollout)
    clip = {"clip_frames": 1 + (config.num_world_steps or 0) * frames_per_step, "frames_per_step": frames_per_step}
    if "clip_fps" in SOURCES[name].uses:  # simulated clips have no frame rate of their own
        clip["clip_fps"] = fps
    return clip
