"""Threads step, on request: one format with different numbers of threads."""
