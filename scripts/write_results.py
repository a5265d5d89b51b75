"""Put figures that commands wrote into the pages that show them.

python scripts/write_results.py

Reads, beside the weights, results.json of `theworld nano evaluate --probes --output`, layouts.json of
benchmarks/nano_layouts.py, and arms.json, which is metrics.json of `theworld evaluate --task micro_world --arms all`.
"""

import json
from pathlib import Path

from theworld.evaluation.report import terminal_report
from theworld.nano.evaluate import results_text
from theworld.nano.recipe import WEIGHTS

ROOT = Path(__file__).parents[1]


def main() -> None:
    results = results_text(json.loads((WEIGHTS / "results.json").read_text(encoding="utf-8")))
    layouts = layouts_text(json.loads((WEIGHTS / "layouts.json").read_text(encoding="utf-8")))
    put(ROOT / "README.md", "results", results)
    put(WEIGHTS / "README.md", "results", results)
    put(ROOT / "docs" / "nano-world.md", "layouts", layouts)
    arms = terminal_report(json.loads((WEIGHTS / "arms.json").read_text(encoding="utf-8")))
    put(ROOT / "docs" / "results.md", "arms", f"```text\n{arms}\n```")


def layouts_text(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """A Markdown table of the four layouts."""
    lines = ["| layout | predictive | static |", "|---|---|---|"]
    for layout, kinds in rows.items():
        cells = (f"{100 * row['accuracy']:.1f} ± {50 * (row['high'] - row['low']):.1f}" for row in kinds.values())
        lines.append(f"| {layout} | {' | '.join(cells)} |")
    return "\n".join(lines)


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between the page's markers of `name`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
