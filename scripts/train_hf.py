"""`theworld train`, as a script for `accelerate launch` and `torchrun`.

python scripts/train_hf.py --config configs/default.json
torchrun --nproc_per_node 2 scripts/train_hf.py --config configs/vsr_training.json
"""

import sys

from theworld.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
