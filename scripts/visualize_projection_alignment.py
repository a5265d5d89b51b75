"""`theworld align`, as a script.

python scripts/visualize_projection_alignment.py --model nano --output runs/align
"""

import sys

from theworld.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))
