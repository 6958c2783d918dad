"""Benchmarks of throughput and cost: ``make bench``."""
