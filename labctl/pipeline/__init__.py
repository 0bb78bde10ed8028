"""One run: a lab opened, what is stale and what it costs, doing it, the report made from it."""
