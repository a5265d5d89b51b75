"""The arms of a task as they lie on disk, or the reason why nothing may be concluded from them.

What an arm's `identity` must hold for this: `task`, `arm`, and `items` with `count` and `digest` (`items_digest`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from theworld.utils.errors import MissingFileError, TheWorldError

from .arms import ARMS, CONTROLS
from .records import MANIFEST, PREDICTIONS, Prediction, read_predictions

FULL = "world"
"""The arm that the others are compared with: the full model."""

ORDER = (
    *("world", "world_0", "gemma", "gemma_tuned", "other_image", "random_encoder", "random_projection", "zeroed"),
    *("noise", "other_future", "other_source", "no_image"),
)
"""How a reader meets the arms: the full model, what it has to beat, the other controls; any others follow."""

WITHOUT_WORLD = ("gemma", "gemma_tuned", "no_image")
"""Arms whose prompts hold no world tokens; every other arm has to consume some."""

UNTRAINED = ("gemma", "no_image")
"""Arms that are the same for every checkpoint: two runs may well agree on them."""

ASKED = ("scorer", "instruction", "max_new_tokens", "dtype")
"""What the arms of one evaluation have in common."""

HIDDEN = "hidden"
"""What a benchmark whose answers are kept secret writes in their place, as BLINK's test split does."""

MAX_UNPARSED, MAX_ONE_ANSWER, MAX_RATE_GAP = 0.2, 0.9, 0.2
POSITIVE = ("yes", "1", "true")


@dataclass(frozen=True)
class ArmRun:
    """What one arm answered.

    Args:
        name: Of the arm.
        manifest: Of its folder.
        predictions: In the items' order.
    """

    name: str
    manifest: dict[str, Any]
    predictions: list[Prediction]

    @property
    def identity(self) -> dict[str, Any]:
        """What decided the predictions."""
        return self.manifest["identity"]


def read_arms(folder: str | Path, names: Iterable[str] | None = None) -> dict[str, ArmRun]:
    """Every arm in the folder of a task, checked; `names` says which ones only.

    Raises:
        FileNotFoundError: There is none.
        ValueError: One of the refusals in this file, or a row that does not fit its seal.
    """
    folder = Path(folder)
    found = sorted((path.parent.name for path in folder.glob(f"*/{MANIFEST}")), key=_place)
    names = found if names is None else list(names)
    if not names:
        raise MissingFileError(f"{folder}: no predictions of any arm; `theworld evaluate` writes them")
    arms = {name: ArmRun(name, *read_predictions(folder / name)) for name in names}
    for arm in arms.values():
        check_arm(arm)
    check_together(arms)
    check_alike(arms)
    return arms


def check_arm(arm: ArmRun) -> None:
    """Refuse an arm that cannot be scored.

    Raises:
        ValueError: It holds another arm's predictions, is empty or incomplete, has an item twice, consumed no world
            tokens where it should have or some where it should not, or its answers are hidden.
    """
    identity, rows = arm.identity, arm.predictions
    if identity["arm"] != arm.name:
        raise _refusal(arm.name, f"holds predictions of arm {identity['arm']!r}", "evaluate into an empty folder")
    count = identity["items"]["count"]
    if not rows:
        raise _refusal(arm.name, "there are no predictions", "evaluate into an empty folder")
    if not any(row.output.strip() for row in rows):
        reasons = ", ".join(sorted({row.failed for row in rows if row.failed})[:3])
        raise _refusal(
            arm.name,
            f"every one of {len(rows)} outputs is empty{f' ({reasons})' if reasons else ''}",
            "look at what failed, and evaluate again into another folder",
        )
    if len(rows) != count:
        raise _refusal(arm.name, f"{len(rows)} of {count} items are there", "run the same command again to finish")
    twice = [id for id, times in Counter(row.id for row in rows).items() if times > 1]
    if twice:
        raise _refusal(arm.name, f"item {twice[0]!r} is there more than once", "give every item an id of its own")
    if all(row.answer.strip().lower() in ("", HIDDEN) for row in rows):
        raise _refusal(arm.name, "the answers of this split are hidden", "use a split that has them, such as val")
    tokens = sum(row.world_tokens for row in rows)
    if arm.name in WITHOUT_WORLD and tokens:
        raise _refusal(arm.name, f"consumed {tokens} world tokens", "an arm without the world must not see any")
    if arm.name not in WITHOUT_WORLD and not tokens:
        raise _refusal(
            arm.name, "consumed no world tokens", "its answers are plain Gemma's: give a checkpoint with a world"
        )


def check_together(arms: Mapping[str, ArmRun]) -> None:
    """Refuse arms that cannot be compared.

    Raises:
        ValueError: They were asked other items, or two have the same outputs and the same log-probabilities.
    """
    for (first, one), (second, other) in combinations(arms.items(), 2):
        if one.identity["items"] != other.identity["items"] or _ids(one) != _ids(other):
            raise TheWorldError(
                f"arms {first!r} and {second!r} were asked other items "
                f"({_shown(one.identity['items'])} and {_shown(other.identity['items'])}): evaluate both alike"
            )
        shared = one.name == other.name and one.name in UNTRAINED
        if not shared and identical(one.predictions, other.predictions):
            raise TheWorldError(
                f"arms {first!r} and {second!r} have identical predictions on all {len(one.predictions)} items: one "
                "was copied, or the world path had no effect; evaluate them again, and check what the model loads"
            )


def check_alike(arms: Mapping[str, ArmRun]) -> None:
    """Refuse arms in one folder that come from two evaluations.

    Raises:
        ValueError: They were asked in other ways, or the model has other weights or looks further ahead.
    """
    own = {name for name in arms if name not in (*WITHOUT_WORLD, *CONTROLS)}
    rolled_out = {name for name in arms if name in ARMS and name not in WITHOUT_WORLD and ARMS[name].steps == "K"}
    for (first, one), (second, other) in combinations(arms.items(), 2):
        names = [*ASKED, *["weights"] * ({first, second} <= own)]
        names += ["num_world_steps"] * ({first, second} <= rolled_out)
        differ = [name for name in names if one.identity.get(name) != other.identity.get(name)]
        if differ:
            raise TheWorldError(
                f"arms {first!r} and {second!r} were made with other {', '.join(differ)}: evaluate all arms of a model "
                "with the same settings, into a folder of its own"
            )


def check_scored(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Refuse predictions that were added to or scored anew, by hand for example, since `metrics` were made of them.

    Raises:
        ValueError: Names the arms.
    """
    there = {path.parent.name: fingerprint(path.parent) for path in folder.glob(f"*/{MANIFEST}")}
    differ = sorted(name for name in {*there, *metrics["scored"]} if there.get(name) != metrics["scored"].get(name))
    if differ:
        raise TheWorldError(
            f"{folder}: predictions of {', '.join(differ)} are not those that {folder / 'metrics.json'} was made of; "
            "run the same `theworld evaluate` again, which scores what is there"
        )


def fingerprint(folder: Path) -> str:
    """What identifies the predictions in `folder` with their scores."""
    path = folder / PREDICTIONS
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()[:16]


def identical(one: Sequence[Prediction], other: Sequence[Prediction]) -> bool:
    """Whether two arms said the same everywhere, down to the log-probabilities where both have them."""
    return all(
        a.output == b.output
        and (a.choice_logprobs is None or b.choice_logprobs is None or a.choice_logprobs == b.choice_logprobs)
        for a, b in zip(one, other, strict=True)
    )


def warnings_of(arm: ArmRun) -> list[str]:
    """What a reader has to know before trusting the arm's accuracy; none of it is a refusal."""
    rows, found = arm.predictions, list[str]()
    unparsed = sum(row.parsed is None and row.failed is None for row in rows)
    if unparsed > MAX_UNPARSED * len(rows):
        found.append(f"{unparsed} of {len(rows)} answers could not be parsed")
    failed = sum(row.failed is not None for row in rows)
    if failed:
        found.append(f"{failed} of {len(rows)} items failed and count as wrong")
    answers = Counter(row.parsed for row in rows if row.parsed is not None)
    if answers:
        answer, times = answers.most_common(1)[0]
        if times > MAX_ONE_ANSWER * len(rows):
            found.append(f"{times} of {len(rows)} answers are {answer!r}")
    without = sum(not row.world_tokens and row.failed is None for row in rows)
    if arm.name not in WITHOUT_WORLD and without:
        found.append(f"{without} of {len(rows)} items consumed no world tokens")
    return [*found, *_rate_warning(rows)]


def _rate_warning(rows: Sequence[Prediction]) -> list[str]:
    """For questions of two answers: how often the positive one is given, against how often it is right."""
    rows = [row for row in rows if row.answer]  # but for those that never were an item
    right = Counter(row.answer.strip().lower() for row in rows)
    positive = next((word for word in POSITIVE if word in right), None)
    if len(right) != 2 or positive is None:
        return []
    parsed = [row.parsed.strip().lower() for row in rows if row.parsed is not None]
    if not parsed:
        return []
    rate, base = parsed.count(positive) / len(parsed), right[positive] / len(rows)
    if abs(rate - base) <= MAX_RATE_GAP:
        return []
    return [f"says {positive!r} to {rate:.0%} of what it answers, which is right for {base:.0%}"]


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _ids(arm: ArmRun) -> list[str]:
    return [row.id for row in arm.predictions]


def _shown(items: Mapping[str, Any]) -> str:
    return f"{items['count']} with digest {items['digest']}"


def _refusal(arm: str, reason: str, remedy: str) -> TheWorldError:
    return TheWorldError(f"arm {arm!r} is refused: {reason}; {remedy}")


__all__ = [
    "FULL",
    "ORDER",
    "WITHOUT_WORLD",
    "ArmRun",
    "check_alike",
    "check_arm",
    "check_scored",
    "check_together",
    "fingerprint",
    "identical",
    "read_arms",
    "warnings_of",
]
