"""How sure a figure is: intervals of medians and shares, and McNemar's exact test."""

from __future__ import annotations

import math

ALPHA = 0.05
"""Accepted probability that an interval, or what is said of one, is wrong: intervals are of 95 %."""


def median_ranks(n: int, alpha: float = ALPHA) -> tuple[int, int]:
    """Places, from 0, of the ordered values between which the median lies but for a share `alpha`; the ends for few."""
    below, rank = 0.0, 0
    while below + math.comb(n, rank) * 0.5**n <= alpha / 2:
        below += math.comb(n, rank) * 0.5**n
        rank += 1
    rank = max(rank, 1)
    return rank - 1, n - rank


def student_t(alpha: float, df: int) -> float:
    """How far Student's t reaches to either side but for a share `alpha`, 0..1.

    Args:
        df: degrees of freedom, 1 or more.
    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.
    """

    def outside(t: float) -> float:
        angle = math.atan(t / math.sqrt(df))
        cos, sin = math.cos(angle), math.sin(angle)
        term = sin * (cos if df % 2 else 1.0)
        total = 0.0
        for k in range(2 + df % 2, df + 1, 2):
            total += term
            term *= cos * cos * (k - 1) / k
        if df % 2:
            return 1 - 2 / math.pi * (angle + total)
        return 1 - total

    low, high = 0.0, 1.0
    while outside(high) > alpha and high < 1e9:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle) > alpha else (low, middle)
    return high


def wilson(n_correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, 0..1; NaN for n = 0."""
    if n == 0:
        return math.nan, math.nan
    z = 1.959963984540054
    share = n_correct / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (0.0 if n_correct == 0 else middle - half), (1.0 if n_correct == n else middle + half)


def mcnemar_exact(n_lost: int, n_gained: int) -> float:
    """McNemar's exact test of paired answers: how likely so uneven a split of lost and gained is by chance alone.

    Answers that both formats have right, or both have wrong, say nothing about a difference and are left out; of the
    others each would be lost or gained with probability one half.

    Returns: two-sided probability; 1 where nothing was lost or gained.
    Source: McNemar, Psychometrika 12 (1947); the exact form is the binomial (sign) test on the discordant pairs.
    """
    n = n_lost + n_gained
    tail = sum(math.comb(n, k) for k in range(min(n_lost, n_gained) + 1))
    return min(1.0, float(2 * tail / 2**n))
