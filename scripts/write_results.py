"""Put the figures of `theworld nano evaluate --probes --output` into the README and the model card of the weights.

python scripts/write_results.py
"""

import json
from pathlib import Path

from theworld.nano.evaluate import results_text
from theworld.nano.recipe import WEIGHTS

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def main() -> None:
    text = results_text(json.loads((WEIGHTS / "results.json").read_text()))
    for page in (README, WEIGHTS / "README.md"):
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
