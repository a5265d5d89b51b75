"""`theworld compare`, with a model against its baseline, or any number of evaluations by name.

python scripts/compare_results.py --theworld results/theworld --baseline results/gemma
python scripts/compare_results.py --results results/a results/b --labels a b --output results/a-and-b
"""

import argparse
import sys

from theworld.cli.main import main


def arguments(given: list[str]) -> list[str]:
    """What `theworld compare` is called with."""
    parser = argparse.ArgumentParser(description="Compare evaluations; a result is an output folder of one.")
    parser.add_argument("--theworld", metavar="DIR", help="evaluation of the model")
    parser.add_argument("--baseline", metavar="DIR", help="evaluation of what it is compared with")
    parser.add_argument("--results", nargs="+", metavar="DIR", help="any evaluations, in place of the two")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="what each of --results is called")
    parser.add_argument("--output", default="results/comparison", metavar="DIR", help="where the report goes")
    args = parser.parse_args(given)
    if args.results is None:
        if args.theworld is None or args.baseline is None or args.labels is not None:
            parser.error("give --theworld and --baseline, or --results and, if you like, --labels")
        runs, labels = [args.theworld, args.baseline], ["TheWorld", "baseline"]
    elif args.theworld is not None or args.baseline is not None:
        parser.error("--results takes the place of --theworld and --baseline: give one or the other")
    else:
        runs, labels = args.results, args.labels
    return ["compare", *runs, *(["--labels", *labels] if labels else []), "--output", args.output]


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
