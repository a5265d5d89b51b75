"""Write docs/configuration.md from the records of the config keys.

python scripts/configuration_page.py
"""

from pathlib import Path

from theworld.training.config import REFUSED, TrainingConfig
from theworld.utils.settings import keys

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
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
        rows = [key for key in keys(TrainingConfig).values() if key.source == source]
        cells = [(f"`{key.name}`{'*' if key.shapes else ''}", key.shown_default, key.limits, key.help) for key in rows]
        sections.append(
            f"## {title}\n\n{INTRODUCTION[source]}\n\n{table(('Key', 'Default', 'Values', 'Meaning'), cells)}"
        )
    told = "Fields that a run refuses, because another key sets them or because they would break it."
    refused = [(f"`{name}`", reason) for name, reason in sorted(REFUSED.items())]
    sections.append(f"## Not for a run\n\n{told}\n\n{table(('Field', 'Reason'), refused)}")
    return "\n".join(sections)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
