"""Measure perplexity as llama-perplexity does.

Every token's value is kept.

Example: labctl perplexity --chunks 64
"""
