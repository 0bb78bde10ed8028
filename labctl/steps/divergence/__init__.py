"""KL divergence from the baseline; it rides on the perplexity step."""
