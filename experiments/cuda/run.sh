#!/usr/bin/env bash
# The CUDA study on a machine with a GPU, with nothing installed but: pip install '.[cuda]'
# Prints one JSON result; run.py --help has its options.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/run.py" "$@"
