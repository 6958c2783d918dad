"""Take stale links out of Zoho CRM by external ids, and prove what happened to each of them."""

__version__ = "0.1.0"
