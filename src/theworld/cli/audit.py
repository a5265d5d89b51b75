"""List what an evaluation set shares with training sets, and its blind floors."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from theworld.evaluation.audit import Audit, Shortcuts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE", help=".jsonl or .json files of training")
    parser.add_argument("--eval", required=True, metavar="FILE", help=".jsonl or .json file of the evaluation")
    parser.add_argument("--train_images", metavar="DIR", help="compare pictures by their pixels, too")
    parser.add_argument("--eval_images", metavar="DIR", help="as --train_images, of the evaluation")
    parser.add_argument("--json", action="store_true", help="print JSON, with every id, statement and picture shared")


def run(args: argparse.Namespace) -> int:
    """Print what was found."""
    from dataclasses import asdict

    from theworld.evaluation.audit import audit

    found = audit(args.train, args.eval, args.train_images, args.eval_images)
    print(json.dumps(asdict(found), ensure_ascii=False) if args.json else _text(found))
    return 0


def _text(found: Audit) -> str:
    overlap = found.overlap
    lines = [
        f"{found.rows} evaluation rows with {found.pictures} pictures, {found.training_rows} training rows",
        f"ids in training        {_share(overlap.id_rows, found.rows)}{_examples(overlap.ids)}",
        f"statements in training {_share(overlap.statement_rows, found.rows)}{_examples(overlap.statements)}",
        f"  with the same answer {_share(overlap.same_answer_rows, found.rows)}",
        f"  on the same picture  {_share(overlap.pair_rows, found.rows)}",
        f"pictures in training   {_share(overlap.picture_rows, found.rows)}: {len(overlap.pictures)} by name"
        + ("" if overlap.same_pictures is None else f", {len(overlap.same_pictures)} by pixels")
        + (f"; {overlap.unread_pictures} could not be read" if overlap.unread_pictures else ""),
        f"neither                {_share(overlap.clean_rows, found.rows)}",
        f"statements that occur twice: {found.twice}, with both answers: {found.contrasted}",
    ]
    return "\n".join(lines + ([] if found.shortcuts is None else _shortcuts(found.shortcuts)))


def _shortcuts(rules: Shortcuts) -> list[str]:
    named = f"{rules.opposite_right} of {rules.decidable} decidable rows, yes elsewhere"
    lines = [
        "accuracy without a picture:",
        f"  opposite of training   {rules.opposite:.1%} ({named})",
        f"  same as in training    {rules.same:.1%}",
        f"  always yes             {rules.always_yes:.1%}",
    ]
    if rules.relation_prior is not None:
        lines.append(f"  more frequent answer of the relation {rules.relation_prior:.1%}")
    return lines


def _share(count: int, rows: int) -> str:
    return f"{count} rows ({count / rows:.1%})"


def _examples(found: tuple[str, ...]) -> str:
    return f", such as {', '.join(map(repr, found[:3]))}" if found else ""
