#!/usr/bin/env bash
# Install TheWorld into .venv and fetch the full-size base models.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: bash scripts/setup.sh [--skip-dev] [--skip-models] [--with-text-encoder] [--help]

  --skip-dev            leave out the tools that tests and checks need
  --skip-models         do not download Gemma 3 (8.6 GB) and Cosmos-Predict2 (4.2 GB: VAE, diffusion transformer,
                        scheduler); the nano model ships with the package
  --with-text-encoder   also download the text encoder of Cosmos-Predict2 (9.7 GB), which only world_prompt needs
  --help                show this text
TEXT
}

extras=nano,dev
models=yes
text_encoder=no
for argument in "$@"; do
    case "$argument" in
        --skip-dev) extras=nano ;;
        --skip-models) models=no ;;
        --with-text-encoder) text_encoder=yes ;;
        --help | -h) usage; exit 0 ;;
        *) echo "setup.sh: unknown option '$argument'" >&2; usage >&2; exit 2 ;;
    esac
done

make setup EXTRAS="$extras"
[ "$models" = yes ] || exit 0

gemma=$(.venv/bin/python -c 'from theworld.constants import DEFAULT_GEMMA_MODEL; print(DEFAULT_GEMMA_MODEL)')
cosmos=$(.venv/bin/python -c 'from theworld.constants import DEFAULT_COSMOS_MODEL; print(DEFAULT_COSMOS_MODEL)')

# Both are gated: check access to both before the large downloads
.venv/bin/python - "$gemma" "$cosmos" <<'PYTHON' || exit 1
import sys

from huggingface_hub import auth_check
from huggingface_hub.errors import GatedRepoError, HTTPError

refused = []
for repository in sys.argv[1:]:
    try:
        auth_check(repository)
    except GatedRepoError:
        refused.append(f"no access to {repository}: accept its terms at https://huggingface.co/{repository}")
    except HTTPError as error:
        refused.append(f"no access to {repository}: {' '.join(str(error).split())}")
if refused:
    advice = "then run '.venv/bin/hf auth login' and this script again, or pass --skip-models"
    sys.exit("\n".join(f"setup.sh: {line}" for line in [*refused, advice]))
PYTHON

fetch() {
    echo "Downloading $1 ($2) ..."
    .venv/bin/hf download "$1" "${@:3}" >/dev/null || {
        echo "setup.sh: download of $1 interrupted; run the same command again to resume" >&2
        exit 1
    }
}
fetch "$gemma" "8.6 GB"
fetch "$cosmos" "4.2 GB" --include "vae/*" --include "transformer/*" --include "scheduler/*"
if [ "$text_encoder" = yes ]; then
    fetch "$cosmos" "9.7 GB" --include "text_encoder/*" --include "tokenizer/*"
else
    cat <<TEXT
Not downloaded: the text encoder of $cosmos (9.7 GB). Only a rollout with world_prompt needs it:
  .venv/bin/hf download $cosmos --include "text_encoder/*" --include "tokenizer/*"
TEXT
fi
