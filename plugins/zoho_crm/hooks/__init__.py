"""Zoho's HTTP and OAuth. Nothing here knows SQL."""
