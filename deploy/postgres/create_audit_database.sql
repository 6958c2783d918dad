-- Run once, when the server initializes its volume: plan and audit have a separate database beside Airflow's.
CREATE DATABASE zoho_delink_audit;
