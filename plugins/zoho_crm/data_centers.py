"""Zoho's data centers and environments: the one table of the hosts that this package talks to or links to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DataCenter = Literal["us", "eu", "in", "au", "cn", "jp", "ca", "sa", "uk"]
Environment = Literal["production", "sandbox", "developer"]


@dataclass(frozen=True, slots=True)
class Hosts:
    """
    The hosts of one data center.

    :param accounts: where access tokens come from
    :param api_domain: domain of the API hosts, one host for each environment
    :param crm: where people use Zoho CRM
    """

    accounts: str
    api_domain: str
    crm: str

    def api(self, environment: Environment) -> str:
        """Return the API host of an environment, to which requests go."""
        return f"{_API_HOST_PREFIXES[environment]}.{self.api_domain}"

    def token_hosts(self, environment: Environment) -> frozenset[str]:
        """
        Return the hosts that Zoho may name as ``api_domain`` of an access token for an environment.

        Beside the API host itself this is the production host, since Zoho does not document which one it names for a
        sandbox, and the older ``api.zoho.<domain>``. None of them is an address that requests go to.
        """
        older = self.accounts.replace("accounts.", "api.", 1)
        return frozenset({self.api(environment), self.api("production"), older})


_API_HOST_PREFIXES: dict[Environment, str] = {
    "production": "www",
    "sandbox": "sandbox",
    "developer": "developer",
}

DATA_CENTERS: dict[str, Hosts] = {
    "us": Hosts("accounts.zoho.com", "zohoapis.com", "crm.zoho.com"),
    "eu": Hosts("accounts.zoho.eu", "zohoapis.eu", "crm.zoho.eu"),
    "in": Hosts("accounts.zoho.in", "zohoapis.in", "crm.zoho.in"),
    "au": Hosts("accounts.zoho.com.au", "zohoapis.com.au", "crm.zoho.com.au"),
    "cn": Hosts("accounts.zoho.com.cn", "zohoapis.com.cn", "crm.zoho.com.cn"),
    "jp": Hosts("accounts.zoho.jp", "zohoapis.jp", "crm.zoho.jp"),
    "ca": Hosts("accounts.zohocloud.ca", "zohoapis.ca", "crm.zohocloud.ca"),
    "sa": Hosts("accounts.zoho.sa", "zohoapis.sa", "crm.zoho.sa"),
    "uk": Hosts("accounts.zoho.uk", "zohoapis.uk", "crm.zoho.uk"),
}
"""
Hosts by :data:`DataCenter`.

Source: https://www.zoho.com/accounts/protocol/oauth/multi-dc.html
"""
