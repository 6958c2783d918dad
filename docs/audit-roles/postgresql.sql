-- Roles for an audit database on PostgreSQL: who writes outcomes cannot change them later.
--
-- 1. The owner creates the tables:          zoho-delink audit migrate --audit-conn-id OWNERS_CONNECTION
-- 2. Run this file in the same database:    psql -v ON_ERROR_STOP=1 -f postgresql.sql "host=... dbname=..."
-- 3. Let login roles have these rights:     GRANT zoho_audit_writer TO airflow_audit;
--
-- Repeat 1 and 2 after an upgrade of the package. The statements can be repeated.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'zoho_audit_writer') THEN CREATE ROLE zoho_audit_writer; END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'zoho_audit_retention') THEN CREATE ROLE zoho_audit_retention; END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'zoho_audit_reader') THEN CREATE ROLE zoho_audit_reader; END IF;
END
$$;

-- Reader: pages and commands. The others read as well.
GRANT zoho_audit_reader TO zoho_audit_writer, zoho_audit_retention;
GRANT SELECT ON zoho_delink_attempt, zoho_delink_audit, zoho_delink_chunk, zoho_delink_job, zoho_delink_latest,
    zoho_delink_link, zoho_delink_run, zoho_delink_run_event, zoho_delink_seal, zoho_delink_slot, zoho_delink_slot_limit,
    zoho_delink_source_text, zoho_delink_staging, zoho_delink_version TO zoho_audit_reader;

-- Writer: the connection `audit_conn_id` of the jobs. It appends to the audit, and can neither change nor delete there.
GRANT INSERT ON zoho_delink_audit, zoho_delink_run_event, zoho_delink_seal, zoho_delink_source_text TO zoho_audit_writer;
GRANT INSERT, UPDATE ON zoho_delink_chunk, zoho_delink_job, zoho_delink_link, zoho_delink_run, zoho_delink_slot,
    zoho_delink_slot_limit TO zoho_audit_writer;
GRANT INSERT, DELETE ON zoho_delink_attempt, zoho_delink_staging TO zoho_audit_writer;

-- Retention: the connection `retention_conn_id`, for the Dag that replaces external IDs by hashes.
GRANT UPDATE ON zoho_delink_audit, zoho_delink_chunk, zoho_delink_run TO zoho_audit_retention;
GRANT DELETE ON zoho_delink_link TO zoho_audit_retention;
GRANT INSERT ON zoho_delink_run_event, zoho_delink_seal TO zoho_audit_retention;
