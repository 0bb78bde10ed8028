"""This computer: processor, memory, limits, conditions, and whether it is ready."""
