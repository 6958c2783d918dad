#!/bin/sh
# Run a command as any user of group 0. Airflow's Helm chart calls this file by its place, /entrypoint, in its probes.
set -eu

# What one user writes, logs above all, another of the same group must be able to go on with.
umask 0002

# A user whom the system does not know has / for a home.
[ -w "${HOME:-/}" ] || export HOME="$AIRFLOW_HOME"

exec "$@"
