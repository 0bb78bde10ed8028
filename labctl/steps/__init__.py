"""One folder a measurement step: its key, its task, its record, its arithmetic."""
