"""Batch step, on request: several sequences side by side."""
