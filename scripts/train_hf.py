"""`theworld train`, as a script for `accelerate launch` and `torchrun`.

python scripts/train_hf.py --config configs/default.json
accelerate launch --config_file configs/accelerate/multi_gpu_ddp.yaml scripts/train_hf.py --config configs/vsr_training.json
"""

import sys

from theworld.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
