"""The report of an evaluation: the verdict, tables, a figure, examples, and what they were made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from theworld.utils.errors import TheWorldError

from ..store.predictions import Item
from .content import Report, gather
from .examples import Rollout, save_images
from .pages import write_pages
from .tables import terminal_report


def write_report(
    output: str | Path,
    items: Mapping[str, Sequence[Item]] | None = None,
    rollout: Rollout | None = None,
    image_folder: Path | None = None,
    *,
    to: str | Path | None = None,
) -> Path:
    """Write report.md and report.html on the evaluation in `output` to the folder `to` (default: `output`).

    Args:
        output: Folder of an evaluation, with metrics.
        items: By task name, the items that examples are drawn from. Their images are saved, reduced, beside the
            predictions, where later reports find them.
        rollout: Returns the decoded frames of an item.
        image_folder: Folder of relative image names.

    Returns:
        The path of report.html.

    Raises:
        FileNotFoundError: There are no metrics.
        ValueError: Predictions are refused (`store/refusals.py`).
    """
    output = Path(output)
    by_id = {(task, item.id): item for task, known in (items or {}).items() for item in known}

    def keep_images(task: str, id: str) -> None:
        if (task, id) in by_id:
            save_images(output / task, by_id[task, id], rollout, image_folder)

    return write_pages(gather([""], [output], keep_images), output if to is None else Path(to))


def compare_runs(runs: Sequence[str | Path], output: str | Path, labels: Sequence[str] | None = None) -> Report:
    """Write a report on several evaluations into `output`.

    Args:
        runs: Folders of the evaluations.
        output: Folder for report.md and report.html.
        labels: Name of each run; runs with the same label are training seeds of one model. Default: the folders'
            names, or the paths if names repeat.

    Raises:
        FileNotFoundError: A folder holds no evaluation.
        ValueError: A run is given twice, the number of labels differs from that of runs, or predictions are refused
            (`store/refusals.py`).
    """
    folders = [Path(run).resolve() for run in runs]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise TheWorldError(f"{twice[0]}: given twice: give each run once")
    if labels is None:
        names = [folder.name for folder in folders]
        labels = names if len(set(names)) == len(names) else [str(run) for run in runs]
    if len(labels) != len(folders):
        raise TheWorldError(f"{len(labels)} labels for {len(folders)} runs: give one label per run")
    report = gather(labels if len(folders) > 1 else [""], folders)
    write_pages(report, Path(output))
    return report


__all__ = ["Report", "Rollout", "compare_runs", "terminal_report", "write_report"]
