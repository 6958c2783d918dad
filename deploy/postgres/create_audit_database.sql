-- Run once, when the server's volume is new: plan and audit have a database of their own, beside Airflow's.
CREATE DATABASE zoho_delink_audit;
