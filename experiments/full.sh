#!/usr/bin/env bash
# From trials to decisions, in full: the worked examples, every kind of export with what reads it, verify, monitor,
# ingest and report. Writes experiments/full/result.json; exits with 1 where a step fails. What is not installed is named.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/full/run.py" "$@"
