"""`theworld evaluate` on Visual Spatial Reasoning.

python scripts/vsr/evaluate_vsr.py --model_name nano --data data/vsr --image_folder data/vsr/images --split test

Every option is one of `theworld evaluate`.
"""

import sys

from theworld.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", "--task", "vsr", *sys.argv[1:]]))
