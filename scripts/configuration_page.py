"""Write docs/configuration.md, and the table of docs/nano-world.md, from the records of the config keys.

python scripts/configuration_page.py
"""

from pathlib import Path

from theworld.recipes.nano_config import NanoConfig
from theworld.training.config import REFUSED, TrainingConfig
from theworld.utils.settings import Key, keys
from theworld.utils.tables import markdown_table

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
    "TrainingConfig": "Fields of `theworld.TrainingConfig`, in addition to those below.",
    "TheWorldConfig": "Fields of `theworld.TheWorldConfig`. A field that is not given takes the checkpoint's value.",
    "TrainingArguments": (
        "Fields of `transformers.TrainingArguments`, passed on unchanged; see its documentation. A default "
        "that depends on the machine is shown as `transformers' own`."
    ),
}
HEAD = """# Configuration

Every key of a training run: in a JSON file (`theworld train --config run.json`), as an option (`--batch_size 8`), and
in Python (`TrainingConfig(batch_size=8)`). `theworld train --help` lists the same keys, and
`python scripts/configuration_page.py` writes this page from the code.

On the command line, write a number as in Python (`.001`, `1e-4`, `1_000`), a list or object as JSON, and null as
`none`. A flag without a value is `true`. Options cannot be abbreviated.

**Resuming**: if a key marked with * changes, the resumed run has other losses and logs a warning.
"""


def page() -> str:
    """The whole page."""
    sections = [HEAD]
    for source, title in TITLES.items():
        rows = [cells(key) for key in keys(TrainingConfig).values() if key.source == source]
        sections.append(f"## {title}\n\n{INTRODUCTION[source]}\n\n{table(HEADINGS, rows)}")
    told = "Fields that cannot be set, because another key sets them or because they would break the run."
    refused = [(f"`{name}`", reason) for name, reason in sorted(REFUSED.items())]
    sections.append(f"## Keys that cannot be set\n\n{told}\n\n{table(('Field', 'Reason'), refused)}")
    return "\n".join(sections)


def nano_page() -> str:
    """The page of the nano world, with an updated table of the recipe's keys."""
    before, rest = NANO_PAGE.read_text(encoding="utf-8").split(NANO_BEGIN)
    _, after = rest.split(NANO_END)
    rows = [cells(key) for key in keys(NanoConfig).values()]
    return f"{before}{NANO_BEGIN}{table(HEADINGS, rows)}{NANO_END}{after}"


def cells(key: Key) -> tuple[str, ...]:
    """The row of a key."""
    return f"`{key.name}`{'*' if key.shapes else ''}", key.shown_default, key.limits, key.help


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table that ends with a newline."""
    return markdown_table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows]) + "\n"


if __name__ == "__main__":
    for path, text in ((PAGE, page()), (NANO_PAGE, nano_page())):
        path.write_text(text, encoding="utf-8")
        print(path)
