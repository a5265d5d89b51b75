"""Reads the arms of a task from disk and refuses those that allow no conclusion.

The `identity` of an arm must hold `task`, `arm`, and `items` with `count` and `digest` (`items_digest`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from theworld.utils.errors import MissingFileError, TheWorldError

from ..ask.arms import ARMS, FULL, MODEL
from .predictions import MANIFEST, PREDICTIONS, Prediction, read_predictions

WITHOUT_WORLD = tuple(name for name, arm in ARMS.items() if arm.world == "none")
"""Arms without world tokens; every other arm must consume some."""

ASKED = (
    *("scorer", "instruction", "max_new_tokens", "dtype", "attn_implementation", "quantization", "batch_size", "seed"),
    *("images", "groups"),
)
"""Identity fields in which all arms of an evaluation must agree."""

HIDDEN = "hidden"
"""Placeholder for secret answers, as in BLINK's test split."""

MAX_UNPARSED, MAX_ONE_ANSWER = 0.2, 0.9


@dataclass(frozen=True)
class ArmRun:
    """The manifest and predictions of one arm, in the items' order."""

    name: str
    manifest: dict[str, Any]
    predictions: list[Prediction]

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determined the predictions."""
        return self.manifest["identity"]


def read_arms(folder: str | Path) -> dict[str, ArmRun]:
    """All arms in the folder of a task, checked, in the order of `ARMS`.

    Raises:
        FileNotFoundError: There are no predictions of any arm.
        ValueError: An arm is refused by a check in this file, or a row does not fit its digest.
    """
    folder = Path(folder)
    there = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    names = [*(name for name in ARMS if name in there), *(name for name in there if name not in ARMS)]
    if not names:
        raise MissingFileError(f"{folder}: no predictions of any arm; `theworld evaluate` writes them")
    arms = {name: ArmRun(name, *read_predictions(folder / name)) for name in names}
    for arm in arms.values():
        check_arm(arm)
    check_together(arms)
    check_alike(arms)
    return arms


def check_arm(arm: ArmRun) -> None:
    """Raise a ValueError with the reason if an arm cannot be scored."""
    identity, rows, count = arm.identity, arm.predictions, arm.identity["items"]["count"]
    causes = ", ".join(sorted({row.failed for row in rows if row.failed})[:3])
    empty = f"every one of {len(rows)} outputs is empty{f' ({causes})' if causes else ''}"
    twice = next((id for id, times in Counter(row.id for row in rows).items() if times > 1), None)
    tokens = sum(row.world_tokens for row in rows)
    without, hidden = arm.name in WITHOUT_WORLD, all(row.answer.strip().lower() in ("", HIDDEN) for row in rows)
    for refused, reason, remedy in (
        (identity["arm"] != arm.name, f"holds predictions of arm {identity['arm']!r}", "evaluate into an empty folder"),
        (not rows, "there are no predictions", "run the same command again"),
        (not any(row.output.strip() for row in rows), empty, "see what failed, and evaluate into another folder"),
        (twice is not None, f"item {twice!r} occurs more than once", "evaluate into an empty folder"),
        (len(rows) != count, f"only {len(rows)} of {count} items were asked", "run the same command again to finish"),
        (hidden, "the answers of this split are hidden", "use a split that has them, such as val"),
        (without and tokens, f"consumed {tokens} world tokens", "an arm without the world must not have any"),
        (not without and not tokens, "consumed no world tokens", "give a checkpoint with a world"),
    ):
        if refused:
            raise TheWorldError(f"arm {arm.name!r} is refused: {reason}; {remedy}")


def check_together(arms: Mapping[str, ArmRun]) -> None:
    """Raise a ValueError if arms were asked different items; it names two of them."""
    for (first, one), (second, other) in combinations(arms.items(), 2):
        both = [arm.identity["items"] for arm in (one, other)]
        if both[0] != both[1] or [row.id for row in one.predictions] != [row.id for row in other.predictions]:
            shown = " and ".join(f"{items['count']} with digest {items['digest']}" for items in both)
            raise TheWorldError(f"arms {first!r} and {second!r} were asked other items ({shown}): evaluate both alike")


def check_alike(arms: Mapping[str, ArmRun]) -> None:
    """Raise a ValueError if arms in one folder were made with different settings; it names the settings."""
    with_world = {name for name in arms if name not in WITHOUT_WORLD}  # other arms do not load the world model
    own = {name for name in with_world if name not in ARMS or ARMS[name].checkpoint == MODEL}
    rolled_out = {name for name in with_world if name in ARMS and ARMS[name].steps == "K"}
    for (first, one), (second, other) in combinations(arms.items(), 2):
        pair = {first, second}
        names = [*ASKED, *["weights"] * (pair <= own), *["num_world_steps"] * (pair <= rolled_out)]
        known = [name for name in names if name in one.identity and name in other.identity]  # a learner has no dtype
        differ = [name for name in known if one.identity[name] != other.identity[name]]
        if differ:
            raise TheWorldError(
                f"arms {first!r} and {second!r} were made with other {', '.join(differ)}: evaluate all arms of a model "
                "with the same settings, into a folder of its own"
            )


def check_scored(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Raise a ValueError if predictions have changed since `metrics` were computed; it names the arms."""
    there = {path.parent.name: fingerprint(path.parent) for path in folder.glob(f"*/{MANIFEST}")}
    differ = sorted(name for name in {*there, *metrics["scored"]} if there.get(name) != metrics["scored"].get(name))
    if differ:
        raise TheWorldError(
            f"{folder}: predictions of {', '.join(differ)} have changed since {folder / 'metrics.json'} was written; "
            "run the same `theworld evaluate` again to score them"
        )


def fingerprint(folder: Path) -> str:
    """Digest of the predictions in `folder`, scores included."""
    path = folder / PREDICTIONS
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()[:16]


def warnings_of(arm: ArmRun) -> list[str]:
    """Warnings about the arm's accuracy: many unparsed, failed or equal answers, or missing world tokens."""
    rows = arm.predictions
    count, failed = len(rows), sum(row.failed is not None for row in rows)
    parsed = Counter(row.parsed for row in rows if row.parsed is not None)
    unparsed, without = count - failed - parsed.total(), sum(not row.world_tokens and not row.failed for row in rows)
    answer, times = max(parsed.items(), key=lambda pair: pair[1], default=("", 0))
    found = {
        f"{unparsed} of {count} answers could not be parsed": unparsed > MAX_UNPARSED * count,
        f"{failed} of {count} items failed and count as wrong": failed > 0,
        f"{times} of {count} answers are {answer!r}": times > MAX_ONE_ANSWER * count,
        f"{without} of {count} items consumed no world tokens": arm.name not in WITHOUT_WORLD and without > 0,
    }
    return [warning for warning, holds in found.items() if holds]


__all__ = ["FULL", "WITHOUT_WORLD", "ArmRun", "check_arm", "check_scored", "check_together", "fingerprint", "read_arms"]
