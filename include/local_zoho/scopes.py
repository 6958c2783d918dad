"""Which OAuth scope a call needs."""

from __future__ import annotations

from functools import lru_cache

READ = ("read",)
WRITE = ("write", "update", "create")
# "ZohoCRM.modules.{module}.{ALL|WRITE|DELETE}" removes links (page "Delete Related Records Using External ID").
DELETE = ("delete", "write")


@lru_cache(maxsize=4096)
def grants(scopes: frozenset[str], service: str, entity: str, operations: tuple[str, ...]) -> bool:
    """
    Decide whether scopes cover an operation.

    :param scopes: granted scopes in lower case, such as ``zohocrm.modules.deals.delete``.
    :param service: modules, settings, org or users.
    :param entity: the module or settings area as scopes name it (``pricebooks`` for Price_Books), may be empty.
    :param operations: any one of these suffices; ``all`` always does.
    """
    prefixes = [f"zohocrm.{service}.", f"zohocrm.{service}.{entity}."] if entity else [f"zohocrm.{service}."]
    return any(prefix + operation in scopes for prefix in prefixes for operation in ("all", *operations))


def scope_name(module: str) -> str:
    """Name a module as scopes do: ``Price_Books`` is ``pricebooks``, ``Services__s`` is ``services``."""
    return module.removesuffix("__s").replace("_", "").lower()
