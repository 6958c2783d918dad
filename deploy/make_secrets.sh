#!/bin/sh
# Create the files that compose.yaml reads its secrets from: sh deploy/make_secrets.sh [FOLDER]
# Existing files stay as they are.
set -eu

folder=${1:-secrets}

# The folder is closed to other users. The files are readable, because containers read them as users 50000 and 999.
mkdir -p "$folder"
chmod 700 "$folder"

store() {
    if [ -e "$folder/$1" ]; then
        echo "kept     $folder/$1"
        return
    fi
    printf '%s' "$2" > "$folder/$1"
    chmod 644 "$folder/$1"
    echo "created  $folder/$1"
}

for name in postgres_password airflow_db_password audit_db_password redis_password admin_password \
    api_secret_key jwt_secret; do
    store "$name" "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
done
store fernet_key "$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')"
store AIRFLOW_CONN_ZOHO_DELINK_AUDIT \
    "postgresql://zoho_delink:$(cat "$folder/audit_db_password")@postgres/zoho_delink_audit"

[ -e "$folder/AIRFLOW_CONN_ZOHO_CRM_DEFAULT" ] || cat <<TEXT
missing  $folder/AIRFLOW_CONN_ZOHO_CRM_DEFAULT: create it, readable for all, with your values (docs/connection.md):
{"conn_type": "zoho_crm", "login": "CLIENT ID", "password": "CLIENT SECRET",
 "extra": {"refresh_token": "...", "data_center": "us", "max_concurrency": 10}}
TEXT
