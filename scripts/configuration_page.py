"""Write docs/configuration.md, and the table of docs/nano-world.md, from the records of the config keys.

python scripts/configuration_page.py
"""

from pathlib import Path

from theworld.recipes.nano_config import NanoConfig
from theworld.training.config import REFUSED, TrainingConfig
from theworld.utils.settings import Key, keys

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
NANO_PAGE = PAGE.with_name("nano-world.md")
NANO_BEGIN, NANO_END = "<!-- config:begin -->\n", "<!-- config:end -->"
HEADINGS = ("Key", "Default", "Values", "Meaning")
TITLES = {
    "TrainingConfig": "Keys of the run",
    "TheWorldConfig": "Keys of the model",
    "TrainingArguments": "Keys of transformers",
}
INTRODUCTION = {
    "TrainingConfig": "`theworld.TrainingConfig`, beside what follows.",
    "TheWorldConfig": "Fields of `theworld.TheWorldConfig`. Without a value a run keeps that of the checkpoint.",
    "TrainingArguments": (
        "Fields of `transformers.TrainingArguments`, passed on as they are. Its documentation says more. A default "
        "that depends on the machine is shown as `transformers' own`."
    ),
}
HEAD = """# Configuration

Every key of a training run: in a JSON file (`theworld train --config run.json`), as an option (`--batch_size 8`), and
in Python (`TrainingConfig(batch_size=8)`). `theworld train --help` prints the same, and
`python scripts/configuration_page.py` writes this page from the code.

On the command line a number is written as in Python (`.001`, `1e-4`, `1_000`), a list or object as JSON, nothing as
`none`, and a flag alone is `true`. An option is given by its full name.

**Resuming**: a run that resumes with another value of a key marked with * has other losses, and says so.
"""


def page() -> str:
    """The whole page."""
    sections = [HEAD]
    for source, title in TITLES.items():
        rows = [cells(key) for key in keys(TrainingConfig).values() if key.source == source]
        sections.append(f"## {title}\n\n{INTRODUCTION[source]}\n\n{table(HEADINGS, rows)}")
    told = "Fields that a run refuses, because another key sets them or because they would break it."
    refused = [(f"`{name}`", reason) for name, reason in sorted(REFUSED.items())]
    sections.append(f"## Not for a run\n\n{told}\n\n{table(('Field', 'Reason'), refused)}")
    return "\n".join(sections)


def nano_page() -> str:
    """The page of the nano world, with the table of the recipe's keys as they are."""
    before, rest = NANO_PAGE.read_text(encoding="utf-8").split(NANO_BEGIN)
    _, after = rest.split(NANO_END)
    rows = [cells(key) for key in keys(NanoConfig).values()]
    return f"{before}{NANO_BEGIN}{table(HEADINGS, rows)}{NANO_END}{after}"


def cells(key: Key) -> tuple[str, ...]:
    """The row of a key."""
    return f"`{key.name}`{'*' if key.shapes else ''}", key.shown_default, key.limits, key.help


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    for path, text in ((PAGE, page()), (NANO_PAGE, nano_page())):
        path.write_text(text, encoding="utf-8")
        print(path)
