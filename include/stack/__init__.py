"""Run a whole Airflow on this machine, for `make up` and for the end-to-end tests."""

from include.stack.client import ApiError
from include.stack.local_airflow import LocalAirflow
from include.stack.postgres import LocalPostgres
from include.stack.processes import StackError

__all__ = ["ApiError", "LocalAirflow", "LocalPostgres", "StackError"]
