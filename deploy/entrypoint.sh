#!/bin/sh
# Run a command as any user of group 0. The probes of Airflow's Helm chart call this file as /entrypoint.
set -eu

# Files, above all logs, must be writable by every user of the group.
umask 0002

# A user that is not in /etc/passwd has / as its home.
[ -w "${HOME:-/}" ] || export HOME="$AIRFLOW_HOME"

# Each connection comes from a file named like its variable, so that `docker inspect` does not show it.
for file in "${SECRETS_FOLDER:-/run/secrets}"/AIRFLOW_CONN_*; do
    [ -f "$file" ] || continue
    export "${file##*/}=$(cat "$file")"
done

exec "$@"
