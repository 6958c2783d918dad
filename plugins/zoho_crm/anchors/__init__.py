"""Anchors of the audit's seals, outside of its database."""
