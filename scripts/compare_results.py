"""`theworld compare` for a model and its baseline, or for any number of named evaluations.

python scripts/compare_results.py --theworld results/theworld --baseline results/gemma
python scripts/compare_results.py --results results/a results/b --labels a b --output results/a-and-b
"""

import argparse
import sys

from theworld.cli.main import main


def arguments(given: list[str]) -> list[str]:
    """The arguments of `theworld compare`."""
    parser = argparse.ArgumentParser(description="Compare evaluations, given by their output folders.")
    parser.add_argument("--theworld", metavar="DIR", help="evaluation of the model")
    parser.add_argument("--baseline", metavar="DIR", help="evaluation of the baseline")
    parser.add_argument("--results", nargs="+", metavar="DIR", help="any evaluations, instead of these two")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="names of --results")
    parser.add_argument("--output", default="results/comparison", metavar="DIR", help="folder of the report")
    args = parser.parse_args(given)
    if args.results is None:
        if args.theworld is None or args.baseline is None or args.labels is not None:
            parser.error("give --theworld and --baseline, or --results with optional --labels")
        runs, labels = [args.theworld, args.baseline], ["TheWorld", "baseline"]
    elif args.theworld is not None or args.baseline is not None:
        parser.error("--results replaces --theworld and --baseline: give one or the other")
    else:
        runs, labels = args.results, args.labels
    return ["compare", *runs, *(["--labels", *labels] if labels else []), "--output", args.output]


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
