"""Tests of your own jobs and Dags against a Zoho CRM on this machine."""
