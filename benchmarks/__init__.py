"""How fast the delinking is, what it costs, and beside what: ``make bench``."""
