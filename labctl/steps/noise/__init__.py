"""Measure what arithmetic alone changes in the baseline.

A few chunks are read again in smaller pieces. No weight differs,
only the order of the sums: a format that is no further from the baseline
than the baseline from itself is told apart by nothing.

Example: labctl noise --ctx 512
"""
