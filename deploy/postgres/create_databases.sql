-- Run once, when the server initializes its volume: Airflow's metadata, and plan and audit, each with a separate role.
-- psql reads the passwords from files, so that they are in no command line and no environment.
\set ON_ERROR_STOP on
\set airflow_password `cat /run/secrets/airflow_db_password`
\set audit_password `cat /run/secrets/audit_db_password`

CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE DATABASE airflow OWNER airflow;
REVOKE ALL ON DATABASE airflow FROM PUBLIC;

CREATE ROLE zoho_delink LOGIN PASSWORD :'audit_password';
CREATE DATABASE zoho_delink_audit OWNER zoho_delink;
REVOKE ALL ON DATABASE zoho_delink_audit FROM PUBLIC;
