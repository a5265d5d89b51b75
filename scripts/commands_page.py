"""Write docs/commands.md from the parsers of the commands.

python scripts/commands_page.py
"""

import argparse
from pathlib import Path
from typing import Any

from configuration_page import table

from theworld.cli.main import COMMANDS, build_parser

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
HEAD = """# Commands

The options of every command. [The command line](command-line.md) has the common options and the exit codes.
`python scripts/commands_page.py` writes this page from the code.
"""
KEYS = "config keys"  # title of the groups of options that configuration.md lists
COMMON = ("help", "debug", "job")  # the page names them once
CONFIG = "\nIt also takes every key of the [configuration](configuration.md) as an option.\n"


def page() -> str:
    """The whole page."""
    (commands,) = choices_of(build_parser())
    sections = [HEAD]
    for name, command in commands.choices.items():
        COMMANDS[name].add_arguments(command)
        sections.append(f"## theworld {name}\n\n{command.description}\n\n{options(command)}")
        for jobs in choices_of(command):
            for job in jobs._choices_actions:
                title = f"### theworld {name} {job.dest}\n\n{job.help[:1].upper()}{job.help[1:]}."
                sections.append(f"{title}\n\n{options(jobs.choices[job.dest])}")
    return "\n".join(filter(None, sections))


def choices_of(parser: argparse.ArgumentParser) -> list[Any]:
    """The commands below a parser; none, or one set of them."""
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def options(parser: argparse.ArgumentParser) -> str:
    """The arguments of a parser as a table; keys of the training config have a page of their own."""
    rows, keys = [], False
    for group in parser._action_groups:
        if (group.title or "").startswith(KEYS):
            keys = True
            continue
        shown = (action for action in group._group_actions if action.help != argparse.SUPPRESS)
        rows += [row(parser, action) for action in shown if action.dest not in COMMON]
    return (table(("Argument", "Meaning"), rows) if rows else "") + (CONFIG if keys else "")


def row(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    """Name and meaning of an argument."""
    name = ", ".join(action.option_strings) or action.metavar or action.dest
    if action.option_strings and action.nargs != 0:
        name += f" {{{','.join(action.choices)}}}" if action.choices else f" {action.metavar or action.dest.upper()}"
    return f"`{name}`", parser._get_formatter()._expand_help(action) if action.help else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
