"""Perplexity by llama-perplexity's protocol, its increase over the baseline, and when that is settled."""
