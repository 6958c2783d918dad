-- The schema as version 2 made it in PostgreSQL, and rows in each of its tables: a run that was driven half way.

CREATE TABLE zoho_delink_version (
    version INTEGER NOT NULL,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL,
    code_version VARCHAR(50) NOT NULL,
    PRIMARY KEY (version)
);

CREATE TABLE zoho_delink_run (
    run_key VARCHAR(512) COLLATE "C" NOT NULL,
    job VARCHAR(250) NOT NULL,
    dag_id VARCHAR(250) NOT NULL,
    dag_run_id VARCHAR(250) NOT NULL,
    run_type VARCHAR(50) NOT NULL,
    logical_date TIMESTAMP WITH TIME ZONE,
    data_interval_start TIMESTAMP WITH TIME ZONE,
    data_interval_end TIMESTAMP WITH TIME ZONE,
    triggered_by VARCHAR(250),
    task_id VARCHAR(250) NOT NULL,
    org_id VARCHAR(64),
    data_center VARCHAR(20) NOT NULL,
    api_version VARCHAR(20) NOT NULL,
    strategy VARCHAR(20) NOT NULL,
    operation VARCHAR(20) DEFAULT 'delink' NOT NULL,
    module VARCHAR(100) NOT NULL,
    external_field VARCHAR(100) NOT NULL,
    related_list VARCHAR(100) NOT NULL,
    related_module VARCHAR(100) NOT NULL,
    related_external_field VARCHAR(100) NOT NULL,
    origin_run_key VARCHAR(512) COLLATE "C",
    mode VARCHAR(20) NOT NULL,
    window_start TIMESTAMP WITH TIME ZONE,
    window_end TIMESTAMP WITH TIME ZONE,
    reason VARCHAR(1000),
    params TEXT NOT NULL,
    status VARCHAR(20) NOT NULL,
    detail VARCHAR(1000),
    stop_reason VARCHAR(1000),
    source_rows BIGINT,
    planned BIGINT,
    duplicates BIGINT,
    chunks INTEGER,
    removed BIGINT,
    already_absent BIGINT,
    parent_not_found BIGINT,
    related_not_found BIGINT,
    invalid BIGINT,
    rejected BIGINT,
    failed BIGINT,
    unknown BIGINT,
    not_attempted BIGINT,
    would_remove BIGINT,
    relinked BIGINT,
    already_linked BIGINT,
    would_relink BIGINT,
    known_links BIGINT,
    source_as_of TIMESTAMP WITH TIME ZONE,
    guard_decision VARCHAR(1000),
    approval VARCHAR(1000),
    approved_by VARCHAR(250),
    approved_at TIMESTAMP WITH TIME ZONE,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    planned_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    pseudonymised_at TIMESTAMP WITH TIME ZONE,
    code_version VARCHAR(50) NOT NULL,
    schema_version INTEGER NOT NULL,
    PRIMARY KEY (run_key)
);

CREATE INDEX zoho_delink_run_dag ON zoho_delink_run (dag_id, dag_run_id);

CREATE INDEX zoho_delink_run_job ON zoho_delink_run (job, started_at);

CREATE INDEX zoho_delink_run_started ON zoho_delink_run (started_at, run_key);

CREATE TABLE zoho_delink_attempt (
    attempt VARCHAR(36) COLLATE "C" NOT NULL,
    run_key VARCHAR(512) COLLATE "C" NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (attempt)
);

CREATE TABLE zoho_delink_staging (
    attempt VARCHAR(36) COLLATE "C" NOT NULL,
    row_no BIGINT NOT NULL,
    pair_key VARCHAR(64) COLLATE "C" NOT NULL,
    external_id VARCHAR(255) COLLATE "C" NOT NULL,
    related_external_id VARCHAR(255) COLLATE "C" NOT NULL,
    fault VARCHAR(1000),
    PRIMARY KEY (attempt, row_no)
);

CREATE TABLE zoho_delink_link (
    run_key VARCHAR(512) COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    chunk_no INTEGER,
    pair_key VARCHAR(64) COLLATE "C" NOT NULL,
    external_id VARCHAR(255) COLLATE "C" NOT NULL,
    related_external_id VARCHAR(255) COLLATE "C" NOT NULL,
    state VARCHAR(20) NOT NULL,
    outcome VARCHAR(20),
    fault VARCHAR(1000),
    snapshot TEXT,
    PRIMARY KEY (run_key, seq)
);

CREATE INDEX zoho_delink_link_outcome ON zoho_delink_link (run_key, outcome, seq);

CREATE INDEX zoho_delink_link_related ON zoho_delink_link (run_key, related_external_id);

CREATE TABLE zoho_delink_chunk (
    run_key VARCHAR(512) COLLATE "C" NOT NULL,
    chunk_no INTEGER NOT NULL,
    links INTEGER NOT NULL,
    first_seq BIGINT NOT NULL,
    first_external_id VARCHAR(255) COLLATE "C" NOT NULL,
    claim_no INTEGER NOT NULL,
    batches BIGINT NOT NULL,
    holder VARCHAR(250),
    claimed_at TIMESTAMP WITH TIME ZONE,
    chain_no BIGINT DEFAULT '0' NOT NULL,
    chain_hash VARCHAR(64) COLLATE "C",
    PRIMARY KEY (run_key, chunk_no)
);

CREATE TABLE zoho_delink_audit (
    event_id VARCHAR(36) COLLATE "C" NOT NULL,
    run_key VARCHAR(512) COLLATE "C" NOT NULL,
    job VARCHAR(250) NOT NULL,
    dag_id VARCHAR(250) NOT NULL,
    dag_run_id VARCHAR(250) NOT NULL,
    run_type VARCHAR(50) NOT NULL,
    logical_date TIMESTAMP WITH TIME ZONE,
    data_interval_start TIMESTAMP WITH TIME ZONE,
    data_interval_end TIMESTAMP WITH TIME ZONE,
    triggered_by VARCHAR(250),
    task_id VARCHAR(250) NOT NULL,
    map_index INTEGER NOT NULL,
    try_number INTEGER NOT NULL,
    org_id VARCHAR(64),
    data_center VARCHAR(20) NOT NULL,
    api_version VARCHAR(20) NOT NULL,
    strategy VARCHAR(20) NOT NULL,
    operation VARCHAR(20) DEFAULT 'delink' NOT NULL,
    module VARCHAR(100) NOT NULL,
    external_field VARCHAR(100) NOT NULL,
    related_list VARCHAR(100) NOT NULL,
    related_module VARCHAR(100) NOT NULL,
    related_external_field VARCHAR(100) NOT NULL,
    external_id VARCHAR(255) COLLATE "C" NOT NULL,
    related_external_id VARCHAR(255) COLLATE "C" NOT NULL,
    pair_key VARCHAR(64) COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    claim_no INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    sent_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE NOT NULL,
    duration_ms BIGINT,
    http_status INTEGER,
    zoho_code VARCHAR(100),
    zoho_message VARCHAR(1000),
    zoho_record_id VARCHAR(100),
    outcome VARCHAR(20) NOT NULL,
    detail VARCHAR(1000),
    dry_run BOOLEAN NOT NULL,
    snapshot TEXT,
    chunk_no INTEGER,
    chain_no BIGINT,
    row_hash VARCHAR(64) COLLATE "C",
    PRIMARY KEY (event_id)
);

CREATE INDEX zoho_delink_audit_chain ON zoho_delink_audit (run_key, chunk_no, chain_no);

CREATE INDEX zoho_delink_audit_pair ON zoho_delink_audit (pair_key, event_id);

CREATE INDEX zoho_delink_audit_run ON zoho_delink_audit (run_key, seq, claim_no DESC, event_id DESC);

CREATE TABLE zoho_delink_seal (
    seal_no BIGINT NOT NULL,
    run_key VARCHAR(512) COLLATE "C" NOT NULL,
    audit_rows BIGINT NOT NULL,
    ends TEXT NOT NULL,
    run_head VARCHAR(64) COLLATE "C" NOT NULL,
    head VARCHAR(64) COLLATE "C" NOT NULL,
    sealed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (seal_no)
);

CREATE INDEX zoho_delink_seal_run ON zoho_delink_seal (run_key, seal_no);

CREATE TABLE zoho_delink_job (
    job VARCHAR(250) COLLATE "C" NOT NULL,
    state VARCHAR(20) NOT NULL,
    run_key VARCHAR(512) COLLATE "C" NOT NULL,
    changed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (job)
);

CREATE TABLE zoho_delink_slot (
    connection VARCHAR(250) COLLATE "C" NOT NULL,
    slot INTEGER NOT NULL,
    holder VARCHAR(250) COLLATE "C",
    lease_end DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (connection, slot)
);

CREATE TABLE zoho_delink_slot_limit (
    connection VARCHAR(250) COLLATE "C" NOT NULL,
    slot_limit INTEGER NOT NULL,
    turn BIGINT NOT NULL,
    PRIMARY KEY (connection)
);

CREATE VIEW zoho_delink_latest AS SELECT ranked.event_id, ranked.run_key, ranked.job, ranked.dag_id, ranked.dag_run_id, ranked.run_type, ranked.logical_date, ranked.data_interval_start, ranked.data_interval_end, ranked.triggered_by, ranked.task_id, ranked.map_index, ranked.try_number, ranked.org_id, ranked.data_center, ranked.api_version, ranked.strategy, ranked.operation, ranked.module, ranked.external_field, ranked.related_list, ranked.related_module, ranked.related_external_field, ranked.external_id, ranked.related_external_id, ranked.pair_key, ranked.seq, ranked.claim_no, ranked.attempts, ranked.sent_at, ranked.finished_at, ranked.duration_ms, ranked.http_status, ranked.zoho_code, ranked.zoho_message, ranked.zoho_record_id, ranked.outcome, ranked.detail, ranked.dry_run, ranked.snapshot, ranked.chunk_no, ranked.chain_no, ranked.row_hash 
FROM (SELECT zoho_delink_audit.event_id AS event_id, zoho_delink_audit.run_key AS run_key, zoho_delink_audit.job AS job, zoho_delink_audit.dag_id AS dag_id, zoho_delink_audit.dag_run_id AS dag_run_id, zoho_delink_audit.run_type AS run_type, zoho_delink_audit.logical_date AS logical_date, zoho_delink_audit.data_interval_start AS data_interval_start, zoho_delink_audit.data_interval_end AS data_interval_end, zoho_delink_audit.triggered_by AS triggered_by, zoho_delink_audit.task_id AS task_id, zoho_delink_audit.map_index AS map_index, zoho_delink_audit.try_number AS try_number, zoho_delink_audit.org_id AS org_id, zoho_delink_audit.data_center AS data_center, zoho_delink_audit.api_version AS api_version, zoho_delink_audit.strategy AS strategy, zoho_delink_audit.operation AS operation, zoho_delink_audit.module AS module, zoho_delink_audit.external_field AS external_field, zoho_delink_audit.related_list AS related_list, zoho_delink_audit.related_module AS related_module, zoho_delink_audit.related_external_field AS related_external_field, zoho_delink_audit.external_id AS external_id, zoho_delink_audit.related_external_id AS related_external_id, zoho_delink_audit.pair_key AS pair_key, zoho_delink_audit.seq AS seq, zoho_delink_audit.claim_no AS claim_no, zoho_delink_audit.attempts AS attempts, zoho_delink_audit.sent_at AS sent_at, zoho_delink_audit.finished_at AS finished_at, zoho_delink_audit.duration_ms AS duration_ms, zoho_delink_audit.http_status AS http_status, zoho_delink_audit.zoho_code AS zoho_code, zoho_delink_audit.zoho_message AS zoho_message, zoho_delink_audit.zoho_record_id AS zoho_record_id, zoho_delink_audit.outcome AS outcome, zoho_delink_audit.detail AS detail, zoho_delink_audit.dry_run AS dry_run, zoho_delink_audit.snapshot AS snapshot, zoho_delink_audit.chunk_no AS chunk_no, zoho_delink_audit.chain_no AS chain_no, zoho_delink_audit.row_hash AS row_hash, row_number() OVER (PARTITION BY zoho_delink_audit.run_key, zoho_delink_audit.seq ORDER BY zoho_delink_audit.claim_no DESC, zoho_delink_audit.event_id DESC) AS newest 
FROM zoho_delink_audit) AS ranked 
WHERE ranked.newest = 1;

INSERT INTO zoho_delink_version (version, applied_at, code_version) VALUES (1, '2026-10-01 00:00:00.000000', '0.1.0'),
    (2, '2026-10-02 00:00:00.000000', '0.2.0');

INSERT INTO zoho_delink_run (run_key, job, dag_id, dag_run_id, run_type, logical_date, task_id, org_id, data_center,
    api_version, strategy, module, external_field, related_list, related_module, related_external_field, mode,
    window_start, window_end, reason, params, status, source_rows, planned, duplicates, chunks, started_at, planned_at,
    code_version, schema_version)
VALUES ('contacts_deals:1', 'contacts_deals', 'zoho_delink__contacts_deals', 'scheduled__1', 'scheduled',
    '2026-10-01 02:00:00.000000', 'plan', '70000001', 'eu', 'v7', 'single', 'Contacts', 'Customer_Ref', 'Deals', 'Deals',
    'Deal_Ref', 'apply', '2026-09-30 02:00:00.000000', '2026-10-01 02:00:00.000000', 'because', '{"mode": "auto"}',
    'running', 5, 4, 1, 1, '2026-10-01 02:00:01.000000', '2026-10-01 02:00:02.000000', '0.2.0', 2);

INSERT INTO zoho_delink_attempt (attempt, run_key, started_at)
VALUES ('an attempt', 'contacts_deals:2', '2026-10-01 02:00:00.000000');

INSERT INTO zoho_delink_staging (attempt, row_no, pair_key, external_id, related_external_id)
VALUES ('an attempt', 0, 'key', 'c', 'd');

INSERT INTO zoho_delink_link (run_key, seq, chunk_no, pair_key, external_id, related_external_id, state, outcome, fault)
VALUES ('contacts_deals:1', 0, 0, 'key 0', 'c-0', 'd-0', 'settled', 'removed', NULL),
    ('contacts_deals:1', 1, 0, 'key 1', 'c-1', 'd-1', 'in_flight', NULL, NULL),
    ('contacts_deals:1', 2, 0, 'key 2', 'c-2', 'd-2', 'planned', NULL, NULL),
    ('contacts_deals:1', 3, NULL, 'key 3', '', 'd-3', 'settled', 'invalid', 'external_id is missing');

INSERT INTO zoho_delink_chunk (run_key, chunk_no, links, first_seq, first_external_id, claim_no, batches, holder,
    claimed_at, chain_no, chain_hash)
VALUES ('contacts_deals:1', 0, 3, 0, 'c-0', 1, 2, 'a try of version 2', '2026-10-01 02:00:03.000000', 1,
    '000000000000000000000000000000000000000000000000000000000000000b');

INSERT INTO zoho_delink_audit (event_id, run_key, job, dag_id, dag_run_id, run_type, logical_date, task_id, map_index,
    try_number, org_id, data_center, api_version, strategy, module, external_field, related_list, related_module,
    related_external_field, external_id, related_external_id, pair_key, seq, claim_no, attempts, finished_at, outcome,
    detail, dry_run, chunk_no, chain_no, row_hash)
VALUES ('019a0000-0000-7000-8000-000000000000', 'contacts_deals:1', 'contacts_deals', 'zoho_delink__contacts_deals',
    'scheduled__1', 'scheduled', '2026-10-01 02:00:00.000000', 'plan', -1, 1, '70000001', 'eu', 'v7', 'single',
    'Contacts', 'Customer_Ref', 'Deals', 'Deals', 'Deal_Ref', '', 'd-3', 'key 3', 3, 0, 0, '2026-10-01 02:00:02.000000',
    'invalid', 'external_id is missing', false, -1, 1,
    '000000000000000000000000000000000000000000000000000000000000000a'),
    ('019a0000-0000-7000-8000-000000000001', 'contacts_deals:1', 'contacts_deals', 'zoho_delink__contacts_deals',
    'scheduled__1', 'scheduled', '2026-10-01 02:00:00.000000', 'delink', 0, 1, '70000001', 'eu', 'v7', 'single',
    'Contacts', 'Customer_Ref', 'Deals', 'Deals', 'Deal_Ref', 'c-0', 'd-0', 'key 0', 0, 1, 1,
    '2026-10-01 02:00:04.123456', 'removed', NULL, false, 0, 1,
    '000000000000000000000000000000000000000000000000000000000000000b');

INSERT INTO zoho_delink_slot (connection, slot, holder, lease_end) VALUES ('zoho_crm_default', 0, 'a try', 1790000000);

INSERT INTO zoho_delink_slot_limit (connection, slot_limit, turn) VALUES ('zoho_crm_default', 10, 3);

INSERT INTO zoho_delink_seal (seal_no, run_key, audit_rows, ends, run_head, head, sealed_at)
VALUES (1, 'contacts_deals:1', 2, '[]',
    '000000000000000000000000000000000000000000000000000000000000000a',
    '000000000000000000000000000000000000000000000000000000000000000b',
    '2026-10-01 02:00:05.000000');

INSERT INTO zoho_delink_job (job, state, run_key, changed_at)
VALUES ('contacts_deals', 'ok', 'contacts_deals:1', '2026-10-01 02:00:05.000000');
