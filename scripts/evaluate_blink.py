"""`theworld evaluate` on BLINK, or on one of its sub-tasks.

python scripts/evaluate_blink.py --task Relative_Depth --model runs/vsr/checkpoint-400 --num_world_steps 0,4

Every other option is one of `theworld evaluate`.
"""

import argparse
import sys

from theworld.cli.main import main


def arguments() -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", metavar="SUB_TASK", help="such as Relative_Depth (default: all fourteen)")
    parser.add_argument("--data", help="file, folder or Hub id of the questions (default: BLINK's Hub id)")
    parser.add_argument("--config", help="JSON file of options of `theworld evaluate`")
    known, rest = parser.parse_known_args()
    data = known.data
    if known.task not in (None, "blink"):
        from theworld.evaluation.tasks.blink import BLINK  # imports torch, which --help does not need

        data = f"{data or BLINK.default_source}/{known.task}"
    config = [] if known.config is None else ["--config", known.config]
    return ["evaluate", "--task", "blink", *config, *([] if data is None else ["--data", data]), *rest]


if __name__ == "__main__":
    sys.exit(main(arguments()))
