"""Measuring a GGUF file: perplexity, speed, memory, sample outputs."""
