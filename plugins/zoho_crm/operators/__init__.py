"""The tasks of a delink Dag."""
