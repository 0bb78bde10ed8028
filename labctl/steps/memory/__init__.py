"""Peak memory of a fresh process."""
