"""The command line: ``zoho-delink``."""
