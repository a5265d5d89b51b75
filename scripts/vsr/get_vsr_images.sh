#!/usr/bin/env bash
# Download the COCO images in VSR's annotation files; existing images are not downloaded again.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: bash scripts/vsr/get_vsr_images.sh [--output DIR] ANNOTATIONS.jsonl [MORE.jsonl ...]

Downloads every image in the files into one flat folder.
Each row of an annotation file has "image", the file's name, and "image_link", where it is.

  --output DIR   the folder (default: data/vsr/images)
  --help         this text
TEXT
}

output=data/vsr/images
files=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h) usage; exit 0 ;;
        --output)
            [ $# -gt 1 ] || { echo "--output needs a folder" >&2; exit 2; }
            output=$2
            shift ;;
        -*) echo "unknown option $1; see --help" >&2; exit 2 ;;
        *) files+=("$1") ;;
    esac
    shift
done
[ ${#files[@]} -gt 0 ] || { usage >&2; exit 2; }
for file in "${files[@]}"; do
    [ -f "$file" ] || { echo "$file: no such file" >&2; exit 2; }
done
command -v curl > /dev/null || { echo "curl is not installed: install it and try again" >&2; exit 2; }

python=$(command -v python3 || command -v python) || { echo "python3 is not installed" >&2; exit 2; }
mkdir -p "$output"
listed=$("$python" - "${files[@]}" <<'PYTHON'
import json
import sys

links = {}
for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                name, link = row["image"], row["image_link"]
            except (ValueError, KeyError, TypeError):
                sys.exit(f"{path}, line {number}: expected JSON with image and image_link")
            if "/" in name or name in ("", ".", "..") or any(mark in name + link for mark in "\t\r\n"):
                sys.exit(f"{path}, line {number}: {name!r} is no name of a file")
            links[name] = link
for name, link in sorted(links.items()):
    print(name, link, sep="\t")
PYTHON
) || exit 2

fetched=0 there=0 failed=0
while IFS=$'\t' read -r name link; do
    [ -n "$name" ] || continue
    if [ -s "$output/$name" ]; then
        there=$((there + 1))
    elif curl --fail --silent --show-error --location --retry 3 --output "$output/.$name.part" -- "$link"; then
        mv "$output/.$name.part" "$output/$name"
        fetched=$((fetched + 1))
    else
        echo "$name: could not be downloaded from $link" >&2
        rm -f "$output/.$name.part"
        failed=$((failed + 1))
    fi
done <<< "$listed"
echo "$fetched images downloaded, $there existed, $failed failed: $output"
[ "$failed" -eq 0 ]
