#!/usr/bin/env bash
# Install TheWorld into .venv and fetch the full-size base models.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: bash scripts/setup.sh [--skip-dev] [--skip-models] [--help]

  --skip-dev      leave out the tools that tests and checks need
  --skip-models   do not download Gemma 3 and Cosmos-Predict2 (about 14 GB); the nano model ships with the package
  --help          show this text
TEXT
}

extras=nano,dev
models=yes
for argument in "$@"; do
    case "$argument" in
        --skip-dev) extras=nano ;;
        --skip-models) models=no ;;
        --help | -h) usage; exit 0 ;;
        *) echo "setup.sh: unknown option '$argument'" >&2; usage >&2; exit 2 ;;
    esac
done

make setup EXTRAS="$extras"
[ "$models" = yes ] || exit 0

gemma=$(.venv/bin/python -c 'from theworld.constants import DEFAULT_GEMMA_MODEL; print(DEFAULT_GEMMA_MODEL)')
cosmos=$(.venv/bin/python -c 'from theworld.constants import DEFAULT_COSMOS_MODEL; print(DEFAULT_COSMOS_MODEL)')
fetch() {
    echo "Downloading $1 ..."
    .venv/bin/hf download "$@" >/dev/null || {
        echo "setup.sh: could not download $1. Accept its licence at https://huggingface.co/$1, run" >&2
        echo "          '.venv/bin/hf auth login', and try again; or pass --skip-models." >&2
        exit 1
    }
}
fetch "$gemma"
fetch "$cosmos" --include "vae/*" --include "transformer/*" --include "scheduler/*"
