"""Quantized files, and what they really contain."""
