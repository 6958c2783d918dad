#!/usr/bin/env bash
# Generate docs/job-file.md from the model of a job file.
set -euo pipefail
cd "$(dirname "$0")/.."
page=$(.venv/bin/zoho-delink job-reference)
printf '%s\n' "$page" > docs/job-file.md
