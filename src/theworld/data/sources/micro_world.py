"""Scenes of the simulated micro-world, as `theworld nano scenes` writes them: questions, or clips for alignment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..json_lines import JsonLines
from ..schema import Example, Message, SourceSettings
from .video import check_clip_frames

COMMAND = "theworld nano scenes FOLDER --split train"


class MicroWorldQuestions:
    """A frame, a question about it, and its one-word answer.

    The prompt holds the frame alone. `clip` is the whole scene from its first frame on, whichever frame is asked about.
    """

    def __init__(self, folder: Path, settings: SourceSettings) -> None:
        self.frames_file = folder / "frames.npy"
        self.template = settings.question_template
        self.rows = JsonLines.scan(folder / "questions.jsonl")
        if settings.num_samples is not None:
            self.rows = self.rows.head(settings.num_samples)
        if self.template is not None and self.rows:
            try:
                self.template.format_map(self.rows[0])
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(f"question_template={self.template!r}: a question has no {error}") from error

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        question = row["question"] if self.template is None else self.template.format_map(row)
        frames = _frames(self.frames_file, row["clip"])
        return Example(
            id=row["id"],
            messages=(Message("user", question), Message("assistant", row["answer"])),
            images=(frames[row["frame"]],),
            clip=tuple(frames),
            choices=tuple(row["choices"]),
            metadata={key: row[key] for key in ("family", "kind", "clip", "frame")},
        )


class MicroWorldClips:
    """The first frames of every scene, without questions."""

    def __init__(self, folder: Path, count: int, settings: SourceSettings) -> None:
        self.frames_file = folder / "frames.npy"
        self.count = count
        scenes, frames = np.load(self.frames_file, mmap_mode="r").shape[:2]
        if count > frames:
            raise ValueError(f"clip_frames={count}: the scenes in {folder} have {frames} frames")
        self.scenes = scenes if settings.num_samples is None else min(scenes, settings.num_samples)

    def __len__(self) -> int:
        return self.scenes

    def __getitem__(self, index: int) -> Example:
        clip = range(self.scenes)[index]
        frames = tuple(_frames(self.frames_file, clip)[: self.count])
        return Example(f"scene-{clip}", messages=(), images=frames[:1], clip=frames, metadata={"clip": clip})


def load_micro_world(settings: SourceSettings) -> MicroWorldQuestions | MicroWorldClips:
    """The questions about the scenes in the folder `settings.path`, or their clips where `clip_frames` is given.

    Args:
        settings: `split` is a sub-folder of `path`; `question_template` may name `{question}`, `{choices}` and the
            other fields of questions.jsonl.

    Raises:
        ValueError: No path, a template that names an unknown field, or `clip_frames` beyond the scenes' end.
        FileNotFoundError: The folder holds no scenes; names the command that makes them.
    """
    settings.refuse("micro_world", "streaming")
    if settings.path is None:
        raise ValueError(f"dataset 'micro_world' needs train_dataset_path: a folder made by `{COMMAND}`")
    folder = Path(settings.path).expanduser() / (settings.split or "")
    for name in ("frames.npy", "questions.jsonl") if settings.clip_frames is None else ("frames.npy",):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; make scenes with `{COMMAND}`")
    if settings.clip_frames is None:
        return MicroWorldQuestions(folder, settings)
    settings.refuse("micro_world", "question_template")
    return MicroWorldClips(folder, check_clip_frames(settings.clip_frames), settings)


def _frames(path: Path, clip: int) -> NDArray[np.uint8]:
    """One clip (F, H, W, 3); the file is opened anew, as an open map would be copied into every worker process."""
    return np.array(np.load(path, mmap_mode="r")[clip])
