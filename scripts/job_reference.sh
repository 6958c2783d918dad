#!/usr/bin/env bash
# Write docs/job-file.md anew from the model that checks job files.
set -euo pipefail
cd "$(dirname "$0")/.."
page=$(.venv/bin/zoho-delink job-reference)
printf '%s\n' "$page" > docs/job-file.md
