"""Compare each format's predictions with the baseline's.

KL divergence, and how often the most likely token is the same.

Example: labctl divergence --formats Q4_K_M
"""
