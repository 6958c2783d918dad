"""
Keep external ids out of what Airflow's OpenLineage provider tells by itself.

It puts the values of a run's trigger form into each event, and no setting of it or of Airflow's masks them there.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)

FIELDS_WITH_IDS = ("links", "where")
_OUR_DAGS = ("zoho_delink", "zoho_relink")
_HIDDEN = "***"


def hide_ids_of_forms() -> None:
    """Have the provider leave out the fields that may hold ids, where it is installed and set to tell anything."""
    try:
        from airflow.providers.openlineage import conf
    except ImportError:
        return
    if conf.is_disabled():
        return
    try:
        from airflow.providers.openlineage.utils.utils import DagRunInfo

        # The provider's own way to say how it writes an attribute.
        DagRunInfo.casts["conf"] = form_without_ids
    except (AttributeError, ImportError, TypeError):
        log.warning(
            "This release of apache-airflow-providers-openlineage is not known: links that are pasted into a trigger "
            "form may be told by it"
        )


def form_without_ids(dag_run: Any) -> Any:
    """Return the values of a run's form; those of this package's Dags without the fields that may hold ids."""
    form = getattr(dag_run, "conf", None)
    if not isinstance(form, dict) or not str(dag_run.dag_id).startswith(_OUR_DAGS):
        return form
    return {name: _HIDDEN if name in FIELDS_WITH_IDS and value else value for name, value in form.items()}
