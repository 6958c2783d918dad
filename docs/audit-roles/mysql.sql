-- Roles for an audit database on MySQL or MariaDB: who writes outcomes cannot change them later.
--
-- 1. The owner creates the tables:          zoho-delink audit migrate --audit-conn-id OWNERS_CONNECTION
-- 2. Run this file in the same database:    mysql DATABASE < mysql.sql
-- 3. Let users have these rights, by default:
--        GRANT zoho_audit_writer TO airflow_audit;
--        SET DEFAULT ROLE zoho_audit_writer TO airflow_audit;   -- MariaDB: FOR instead of TO
--
-- Repeat 1 and 2 after an upgrade of the package. The statements can be repeated.

CREATE ROLE IF NOT EXISTS zoho_audit_writer, zoho_audit_retention, zoho_audit_reader;

-- Reader: pages and commands. The others read as well.
GRANT zoho_audit_reader TO zoho_audit_writer;
GRANT zoho_audit_reader TO zoho_audit_retention;
GRANT SELECT ON zoho_delink_attempt TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_audit TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_chunk TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_job TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_latest TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_link TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_run TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_run_event TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_seal TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_slot TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_slot_limit TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_source_text TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_staging TO zoho_audit_reader;
GRANT SELECT ON zoho_delink_version TO zoho_audit_reader;

-- Writer: the connection `audit_conn_id` of the jobs. It appends to the audit, and can neither change nor delete there.
GRANT INSERT ON zoho_delink_audit TO zoho_audit_writer;
GRANT INSERT ON zoho_delink_run_event TO zoho_audit_writer;
GRANT INSERT ON zoho_delink_seal TO zoho_audit_writer;
GRANT INSERT ON zoho_delink_source_text TO zoho_audit_writer;
GRANT INSERT, UPDATE ON zoho_delink_chunk TO zoho_audit_writer;
GRANT INSERT, UPDATE ON zoho_delink_job TO zoho_audit_writer;
GRANT INSERT, UPDATE ON zoho_delink_link TO zoho_audit_writer;
GRANT INSERT, UPDATE ON zoho_delink_run TO zoho_audit_writer;
GRANT INSERT, UPDATE ON zoho_delink_slot TO zoho_audit_writer;
GRANT INSERT, UPDATE ON zoho_delink_slot_limit TO zoho_audit_writer;
GRANT INSERT, DELETE ON zoho_delink_attempt TO zoho_audit_writer;
GRANT INSERT, DELETE ON zoho_delink_staging TO zoho_audit_writer;

-- Retention: the connection `retention_conn_id`, for the Dag that replaces external IDs by hashes.
GRANT UPDATE ON zoho_delink_audit TO zoho_audit_retention;
GRANT UPDATE ON zoho_delink_chunk TO zoho_audit_retention;
GRANT UPDATE ON zoho_delink_run TO zoho_audit_retention;
GRANT DELETE ON zoho_delink_link TO zoho_audit_retention;
GRANT INSERT ON zoho_delink_run_event TO zoho_audit_retention;
GRANT INSERT ON zoho_delink_seal TO zoho_audit_retention;
