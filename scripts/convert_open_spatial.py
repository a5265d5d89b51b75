"""Index OpenSpatialDataset's JSON array of 31.9 GB, so that training reads it row by row with little memory.

python scripts/convert_open_spatial.py result_10_depth_convs.json open-spatial [--image_folder openimages]
"""

import argparse
import sys
from pathlib import Path

from theworld.data.open_spatial import index_open_spatial
from theworld.utils.logging import configure_logging


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source_json", type=Path, help="the downloaded array, which is not changed")
    parser.add_argument("out_folder", type=Path, help="the folder to create, for train_dataset_path")
    parser.add_argument("--image_folder", type=Path, help="keep only rows whose image is in this folder")
    arguments = parser.parse_args()
    configure_logging()
    try:
        rows = index_open_spatial(arguments.source_json, arguments.out_folder, arguments.image_folder)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{rows:,} rows in {arguments.out_folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
