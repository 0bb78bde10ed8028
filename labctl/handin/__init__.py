"""A submission: packed, read without trust, checked, put side by side."""
