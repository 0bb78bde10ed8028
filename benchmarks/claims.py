"""From raw samples to claims: what each comparison shows, and whether its target is met."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from benchmarks import claims_busy
from benchmarks.claim import Claim, by_round
from benchmarks.records import AS_NEEDED, OURS, THEIRS, ModelResults, Section
from benchmarks.stats import (
    AS_IT_COMES,
    EARLY_SHARE,
    HELP_S,
    KL_STORED,
    LOOK_S,
    PERPLEXITY_PEAK,
    PERPLEXITY_WALL,
    SECOND_RUN_S,
    SETTLED_SHARE,
    SPEED,
    WRONG_STOPS,
    Ratio,
    Target,
    ratio,
)


def process_ratio(section: Section, label: str, step: str, figure: str) -> Ratio:
    """One figure of a step's whole processes, side against side."""
    return ratio(
        by_round(section.samples, OURS, label, step, figure), by_round(section.samples, THEIRS, label, step, figure)
    )


def total_ratio(section: Section, labels: Iterable[str], step: str, figure: str) -> Ratio:
    """The same, summed over the formats within each round."""
    names = list(labels)
    sides = [
        [
            sum(values)
            for values in zip(*(by_round(section.samples, side, label, step, figure) for label in names), strict=True)
        ]
        for side in (OURS, THEIRS)
    ]
    return ratio(*sides)


def speed_ratio(section: Section, label: str, test: str) -> Ratio:
    """Tokens per second: medians over all repetitions; the ratio from each round's medians."""

    def rounds(side: str) -> list[tuple[float, ...]]:
        found = [one for one in section.speed if (one.side, one.format, one.test) == (side, label, test)]
        return [one.tps for one in sorted(found, key=lambda one: one.round)]

    ours, theirs = rounds(OURS), rounds(THEIRS)
    within = ratio([statistics.median(one) for one in ours], [statistics.median(one) for one in theirs])
    mine = statistics.median(value for one in ours for value in one)
    other = statistics.median(value for one in theirs for value in one)
    return Ratio(
        ours=mine, theirs=other, value=within.value, low=within.low, high=within.high, n_rounds=within.n_rounds
    )


def lab_rounds(section: Section) -> tuple[list[float], list[float]]:
    """Seconds of each round of the whole lab: `labctl run`, and the sum of the loops' processes."""
    samples = [one for one in section.samples if one.step != AS_NEEDED]
    numbers = sorted({one.round for one in samples})
    sides = [
        [sum(one.wall_s for one in samples if one.round == number and one.side == side) for number in numbers]
        for side in (OURS, THEIRS)
    ]
    return sides[0], sides[1]


def claims(model: ModelResults) -> tuple[Claim, ...]:
    """Every target that the measured comparisons speak to, in the order of the comparisons."""
    found: list[Claim] = []
    for name, section in sorted(model.sections.items(), key=lambda item: int(item[0])):
        found += _CLAIMS[name](model, section)
    return tuple(found)


def _parity(_model: ModelResults, section: Section) -> list[Claim]:
    pairs = section.perplexity
    same = sum(pair.ours == pair.theirs for pair in pairs)
    running = sum(pair.n_equal for pair in pairs)
    total = sum(pair.n_chunks for pair in pairs)
    return [
        Claim(
            section="1",
            what="perplexity to 4 decimals and its standard error to 5",
            target="equal for every format",
            value=same / len(pairs),
            result=f"{same} of {len(pairs)} formats equal; {running:,} of {total:,} running values equal",
            met=same == len(pairs),
        )
    ]


def _of_all(section: str, what: str, target: Target, ratios: dict[str, Ratio]) -> Claim:
    """A claim about a ratio that must hold for each format."""
    met = {label: target.met(one.value) for label, one in ratios.items()}
    worst = max(
        ratios, key=lambda label: abs(math.log(ratios[label].value)) if target is SPEED else ratios[label].value
    )
    return Claim(
        section=section,
        what=what,
        target=target.text,
        value=ratios[worst].value,
        met=all(met.values()),
        result=f"{sum(met.values())} of {len(met)} formats; the furthest, {worst}, {ratios[worst].value:.3f}",
    )


def _cost(model: ModelResults, section: Section) -> list[Claim]:
    total = total_ratio(section, model.formats, "perplexity", "wall_s")
    found = [
        Claim(
            section="2",
            what="wall time of the perplexity step, all formats",
            target=PERPLEXITY_WALL.text,
            value=total.value,
            result=f"{total.value:.3f} ({total.ours:.1f} s against {total.theirs:.1f} s)",
            met=PERPLEXITY_WALL.met(total.value),
        )
    ]
    for what, figure, target in (
        ("wall time of each format; labctl tokenizes in the first one, for all", "wall_s", PERPLEXITY_WALL),
        ("peak memory of the perplexity step", "peak_rss_bytes", PERPLEXITY_PEAK),
    ):
        ratios = {label: process_ratio(section, label, "perplexity", figure) for label in model.formats}
        found.append(_of_all("2", what, target, ratios))
    return found


def _quantized(_model: ModelResults, section: Section) -> list[Claim]:
    same = sum(pair.same for pair in section.quantized)
    tensors = sum(pair.n_same_bytes for pair in section.quantized)
    total = sum(pair.n_tensors for pair in section.quantized)
    return [
        Claim(
            section="3",
            what="quantized tensors",
            target="byte-identical",
            value=tensors / total,
            result=f"{tensors:,} of {total:,} tensors in {len(section.quantized)} files",
            met=same == len(section.quantized),
        )
    ]


def _speed(model: ModelResults, section: Section) -> list[Claim]:
    tests = sorted({one.test for one in section.speed})
    return [
        _of_all(
            "4",
            f"{test} tokens per second",
            SPEED,
            {label: speed_ratio(section, label, test) for label in model.formats},
        )
        for test in tests
    ]


def _lab(_model: ModelResults, section: Section) -> list[Claim]:
    """As it comes against the loops over the whole text; equal work is reported, and has no target."""
    ours, loops = by_round(section.samples, OURS, "", AS_NEEDED, "wall_s"), lab_rounds(section)[1]
    if not ours:
        return []
    one = ratio(ours, loops)
    return [
        Claim(
            section="5",
            what="labctl run as it comes, against the loops over the whole text",
            target=AS_IT_COMES.text,
            value=one.value,
            result=f"{one.value:.3f} ({one.ours:.0f} s against {one.theirs:.0f} s)",
            met=AS_IT_COMES.met(one.value),
        )
    ]


def _start_up(_model: ModelResults, section: Section) -> list[Claim]:
    found = []
    for what, step, target in (("labctl --help", "help", HELP_S), ("a second labctl run", "second run", SECOND_RUN_S)):
        values = by_round(section.samples, OURS, "", step, "wall_s")
        middle = statistics.median(values)
        found.append(
            Claim(
                section="6",
                what=what,
                target=target.text,
                value=middle,
                result=f"{middle:.3f} s (median of {len(values)}, {min(values):.3f} to {max(values):.3f})",
                met=target.met(middle),
            )
        )
    return found


def _verdicts(_model: ModelResults, section: Section) -> list[Claim]:
    pairs = section.verdicts
    wrong = [pair.format for pair in pairs if pair.early not in (pair.whole, "undecided")]
    n_open = sum(pair.early == "undecided" for pair in pairs)
    found = [
        Claim(
            section="7",
            what="verdicts from chunks as needed",
            target="none that differs from all chunks', one undecided at most",
            value=len(wrong),
            result=f"{len(wrong)} differ, {n_open} undecided, of {len(pairs)} formats",
            met=not wrong and n_open <= 1,
        ),
        _share(section, "tokens of all formats", EARLY_SHARE, "baseline_chunks", [pair.n_chunks for pair in pairs]),
    ]
    if all(pair.settled for pair in pairs):
        same = sum(pair.settled == pair.whole for pair in pairs)
        found += [
            Claim(
                section="7",
                what="verdicts with --settle",
                target="those of all chunks",
                value=same / len(pairs),
                result=f"{same} of {len(pairs)} formats",
                met=same == len(pairs),
            ),
            _share(
                section,
                "tokens of all formats with --settle",
                SETTLED_SHARE,
                "baseline_chunks_settled",
                [pair.n_settled for pair in pairs],
            ),
        ]
    looks = [pair.look_s for pair in pairs]
    middle = statistics.median(looks)
    found.append(
        Claim(
            section="7",
            what="one decision",
            target=LOOK_S.text,
            value=middle,
            met=LOOK_S.met(middle),
            result=f"{1e3 * middle:.2f} ms (median of {len(looks)}; the slowest, the first of its process included, "
            f"{1e3 * max(looks):.2f} ms)",
        )
    )
    return found


def _share(section: Section, what: str, target: Target, baseline: str, counts: list[int]) -> Claim:
    """Chunks read, the baseline's included, of those of full runs."""
    n_read = section.settings[baseline] + sum(counts)
    n_all = (len(counts) + 1) * section.verdicts[0].n_chunks_text
    return Claim(
        section="7",
        what=what,
        target=target.text,
        value=n_read / n_all,
        result=f"{n_read / n_all:.3f} ({n_read:,} of {n_all:,} chunks)",
        met=target.met(n_read / n_all),
    )


def _coverage(_model: ModelResults, section: Section) -> list[Claim]:
    found = []
    for asked in ("this text", "text like it"):
        of_it = [one for one in section.coverage if one.asked == asked]
        worst = max(of_it, key=lambda one: one.share)
        real = max((one.share for one in of_it if one.is_real), default=math.nan)
        found.append(
            Claim(
                section="9",
                what=f"wrong verdicts of {asked} at the limit itself, a look after every chunk",
                target=WRONG_STOPS.text,
                value=worst.share,
                result=f"{worst.share:.4f} at most ({worst.kind}), {real:.4f} of real runs; {worst.n_texts:,} texts"
                " each",
                met=WRONG_STOPS.met(worst.share),
            )
        )
    return found


def _divergence(_model: ModelResults, section: Section) -> list[Claim]:
    furthest = max(section.divergence, key=lambda pair: pair.largest_difference_stored)
    value = furthest.largest_difference_stored
    direct = max(pair.largest_difference for pair in section.divergence)
    return [
        Claim(
            section="8",
            what="KL divergence (mean, median, quantiles), the baseline in 16 bits on both sides",
            target=KL_STORED.text,
            value=value,
            result=f"{value:.6f} nats at most ({furthest.format}), {len(section.divergence)} formats; "
            f"with labctl's own 32 bits {direct:.6f}",
            met=KL_STORED.met(value),
        )
    ]


_CLAIMS = {
    "1": _parity,
    "2": _cost,
    "3": _quantized,
    "4": _speed,
    "5": _lab,
    "6": _start_up,
    "7": _verdicts,
    "8": _divergence,
    "9": _coverage,
    "10": claims_busy.busy,
    "11": claims_busy.predictions,
    "12": claims_busy.again,
}
