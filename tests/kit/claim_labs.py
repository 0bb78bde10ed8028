"""Invented labs of every kind that a report must get right, and their figures worked out again by other code."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from scipy import stats

from kit.lab_factory import (
    FIGURES,
    N_CHUNKS,
    PPL_BASE,
    base_nll,
    divergence_run,
    generation_run,
    gguf_file,
    make_lab,
    memory_run,
    nll_of,
    noise_run,
    perplexity_run,
    speed_run,
    text_source,
)
from labctl.steps.base import AnyStep
from labctl.steps.bench.ratios import speed_warnings
from labctl.steps.bench.step import BENCH
from labctl.steps.divergence.step import DIVERGENCE
from labctl.steps.generate.record import Generation, ProbeAnswer
from labctl.steps.generate.step import GENERATE
from labctl.steps.measured import Measured
from labctl.steps.memory.step import MEMORY
from labctl.steps.noise.step import NOISE
from labctl.steps.perplexity.sequence import shuffled_chunks
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.quantize.step import QUANTIZE

NAMES = ("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M")
STEPS = (QUANTIZE, PERPLEXITY, DIVERGENCE, BENCH, MEMORY, GENERATE)
TEXTS = ("same", "leaves", "ends", "empty", "goes on", "loops")
LIMIT = 0.02


@dataclass(frozen=True, kw_only=True)
class Format:
    """What one format is like against the baseline, whose factors are all 1."""

    name: str
    size: float = 1.0
    ppl: float = 1.0
    spread_pct: float = 0.1
    chunks: int = N_CHUNKS
    tps: float = 1.0
    stall: float = 1.0
    text: str = "same"
    right: tuple[int, int] = (190, 80)
    missing: tuple[AnyStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole lab; `adaptive` chunks come in the shuffled order and may differ by format."""

    formats: tuple[Format, ...]
    adaptive: bool = False
    rounds: int = 3
    noise: tuple[float, float] = (1e-4, 8e-6)
    demo: bool = True
    demo_text: bool = False
    n_cores: int = 2


def plans() -> st.SearchStrategy[Plan]:
    """Labs of one to four formats with ties, gaps, huge spreads, one chunk, one round, identical files and texts."""

    def formats(name: str) -> st.SearchStrategy[Format]:
        return st.builds(
            Format,
            name=st.just(name),
            size=st.just(1.0) if name == "F16" else st.sampled_from((1.0, 1.002, 1.5, 2.4, 2.4, 3.4)),
            ppl=st.just(1.0) if name == "F16" else st.sampled_from((1.0, 0.98, 1.0004, 1.01, 1.0199, 1.021, 1.3, 9.0)),
            spread_pct=st.sampled_from((0.0, 0.05, 0.5, 30.0)),
            chunks=st.sampled_from((N_CHUNKS, N_CHUNKS, 33, 32, 12, 2, 1)),
            tps=st.sampled_from((1.0, 1.0, 0.5, 1.02, 1.6, 2.8)),
            stall=st.sampled_from((1.0, 1.0, 1.0, 12.0)),
            text=st.sampled_from(TEXTS),
            right=st.tuples(st.sampled_from((190, 189, 150, 0)), st.sampled_from((80, 79, 60, 0))),
            missing=st.sampled_from(((), (), (), *((step,) for step in STEPS), STEPS)),
        )

    chosen = st.lists(st.sampled_from(NAMES[1:]), unique=True, max_size=3).map(
        lambda names: ("F16", *sorted(names, key=NAMES.index))
    )
    return st.builds(
        Plan,
        formats=chosen.flatmap(lambda names: st.tuples(*map(formats, names))),
        adaptive=st.booleans(),
        rounds=st.sampled_from((1, 2, 3, 7)),
        noise=st.sampled_from(((0.0, 0.0), (1e-4, 8e-6), (0.01, 0.005))),
        demo=st.booleans(),
        demo_text=st.booleans(),
        n_cores=st.sampled_from((1, 2)),
    )


def lab_of(plan: Plan, folder: Path) -> Measured:
    """The records of a plan; token files go below the folder."""
    names = tuple(one.name for one in plan.formats)
    lab = make_lab(folder, ("F16",))
    lab.of(NOISE)["F16"] = noise_run("F16", *plan.noise)
    place = Path(lab.folder)
    lab = replace(lab, formats=names, text=text_source("demo", "NOT WIKITEXT") if plan.demo_text else text_source())
    if not plan.demo:
        lab = replace(lab, model=replace(lab.model, origin="gguf", spec="x.gguf"))
    size_base, _, _, pp, tg, *_ = FIGURES["F16"]
    machine = replace(
        lab.of(QUANTIZE)["F16"].provenance.machine, n_cores_physical=plan.n_cores, n_cores_logical=plan.n_cores
    )
    # What every format has been measured on, the baseline at least as far as any other, as the adaptive run does it.
    fixed = min(one.chunks for one in plan.formats)
    most = max(one.chunks for one in plan.formats)
    for seed, one in enumerate(plan.formats):
        name, is_base = one.name, one.name == names[0]
        lab.of(QUANTIZE)[name] = replace(gguf_file(name), size_bytes=round(size_base / one.size))
        count = (most if is_base else one.chunks) if plan.adaptive else fixed
        order: Sequence[int] = shuffled_chunks(N_CHUNKS, 2024).tolist() if plan.adaptive else range(N_CHUNKS)
        nll = base_nll() if is_base else nll_of(PPL_BASE * one.ppl, one.spread_pct, seed + 2)
        run = perplexity_run(place, name, nll, tuple((n, n + 1) for n in sorted(order[:count])), n_unread=0)
        lab.of(PERPLEXITY)[name] = replace(run, order_seed=2024 if plan.adaptive else None)
        if not is_base:
            run_kl = divergence_run(place, name, max(1e-5, abs(one.ppl - 1) / 2))
            if count == 1:
                run_kl = replace(run_kl, kld_mean_low=0.0, kld_mean_high=math.inf)
            lab.of(DIVERGENCE)[name] = run_kl
        speed = speed_run(name, pp * one.tps, tg * one.tps, seed + 2, plan.rounds)
        first = speed.visits[0]
        stalled = replace(
            first,
            tg_s=tuple(s * one.stall for s in first.tg_s),
            token_s=tuple(tuple(s * one.stall for s in times) for times in first.token_s),
        )
        lab.of(BENCH)[name] = replace(
            speed, visits=(stalled, *speed.visits[1:]), provenance=replace(speed.provenance, machine=machine)
        )
        lab.of(MEMORY)[name] = memory_run(name, lab.of(QUANTIZE)[name].size_bytes)
        run_ = generation_run(name, *one.right, 100)
        lab.of(GENERATE)[name] = replace(
            run_,
            generations=tuple(
                _text(text, one.text if text.decoding == "greedy" else "same") for text in run_.generations
            ),
            probes=tuple(
                replace(probe, answers=tuple(map(_flagged, probe.answers, range(999)))) for probe in run_.probes
            ),
        )
        for step in one.missing:
            lab.of(step).pop(name, None)
    return replace(lab, warnings=speed_warnings(lab.of(BENCH), names[0], 3))


def _flagged(answer: ProbeAnswer, place: int) -> ProbeAnswer:
    """Every other question is one that the demo model was trained on."""
    return replace(answer, in_demo_training=place % 2 == 0)


def _text(text: Generation, kind: str) -> Generation:
    """A text that never repeats itself, changed as asked for even prompts: so a format has texts of two kinds."""
    own = tuple(range(1000 * text.prompt_number, 1000 * text.prompt_number + 100))
    kind = "same" if text.prompt_number % 2 else kind
    tokens = {
        "same": own,
        "leaves": (*own[:7], *(99 for _ in own[7:])),
        "ends": own[:30],
        "empty": (),
        "goes on": (*own, 5, 6),
        "loops": (*own[:3], *((1, 2, 3) * 30)),
    }[kind]
    pieces = tuple(f" w{token}" for token in tokens)
    return replace(text, tokens=tokens, pieces=pieces, text="".join(pieces))


# -- the same figures, worked out again -------------------------------------------------------------------------------


def sizes(lab: Measured) -> dict[str, int]:
    return {name: lab.of(QUANTIZE)[name].size_bytes for name in lab.formats if name in lab.of(QUANTIZE)}


def differences(lab: Measured, name: str) -> np.ndarray | None:
    """Mean difference of each chunk that the format and the baseline share, in the order in which they were visited."""
    base = lab.formats[0]
    if name == base or name not in lab.of(PERPLEXITY) or base not in lab.of(PERPLEXITY):
        return None
    runs = [lab.of(PERPLEXITY)[one] for one in (name, base)]
    shared = set.intersection(*({n for start, stop in run.chunks for n in range(start, stop)} for run in runs))
    seed = runs[0].order_seed
    order = [n for n in (range(N_CHUNKS) if seed is None else shuffled_chunks(N_CHUNKS, seed)) if n in shared]
    mine, theirs = (np.load(Path(lab.folder) / run.nll_path) for run in runs)
    return np.asarray([mine[n].mean() - theirs[n].mean() for n in order])


def increase(lab: Measured, name: str) -> tuple[float, float, float] | None:
    """Increase of perplexity in percent with Student's 95 % interval."""
    found = differences(lab, name)
    if found is None or not len(found):
        return None
    mean = found.mean()
    half = (
        stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found)) if len(found) > 1 else math.inf
    )
    low, high = (100 * math.expm1(min(700.0, x)) for x in (mean - half, mean + half))
    return 100 * math.expm1(min(700.0, mean)), low, high


def may_pass(lab: Measured, name: str) -> bool:
    """Whether any honest method can have said "pass" of the text: of all of it, or at a look on the way.

    The narrowest that it may claim on the way is Student's interval with the correction for a finite text.
    """
    return _ever(lab, name, lambda low, high: high < LIMIT)


def may_fail(lab: Measured, name: str) -> bool:
    return _ever(lab, name, lambda low, high: low > LIMIT)


def _ever(lab: Measured, name: str, says: Callable[[float, float], bool]) -> bool:
    found = differences(lab, name)
    if found is None:
        return False
    run = lab.of(PERPLEXITY)[name]
    n_text = run.n_chunks_text
    looks = range(2, len(found) + 1) if run.order_seed is not None and run.n_chunks < N_CHUNKS else [len(found)]
    for n in looks:
        if n == n_text:
            mean = math.expm1(min(700.0, found.mean()))
            return says(mean, mean)
        if n > 1:
            part = found[:n]
            half = stats.t.ppf(0.975, n - 1) * part.std(ddof=1) / math.sqrt(n)
            half *= math.sqrt(1 - n / n_text) if len(looks) > 1 else 1.0
            if says(math.expm1(part.mean() - half), math.expm1(min(700.0, part.mean() + half))):
                return True
    return False


def round_speedups(lab: Measured, name: str, other: str, test: str) -> list[float]:
    """How many times as fast a format was as another, in each round that timed both, by the median of its times."""
    times: list[dict[int, float]] = []
    for one in (name, other):
        run = lab.of(BENCH).get(one)
        found: dict[int, list[float]] = {}
        for visit in run.visits if run else ():
            own = [s for token in visit.token_s for s in token] if test == "tg" else list(visit.pp_s)
            found.setdefault(visit.round, []).extend(own)
        times.append({number: statistics.median(values) for number, values in found.items()})
    return [times[1][number] / times[0][number] for number in times[0] if number in times[1]]


def surely_faster(lab: Measured, name: str, other: str, test: str) -> bool:
    """Whether the rounds show it: all of a few, or so many that a fair coin would not."""
    ratios = round_speedups(lab, name, other, test)
    won = sum(ratio > 1 for ratio in ratios)
    return won == len(ratios) > 1 or (bool(ratios) and stats.binomtest(won, len(ratios)).pvalue < 0.05)


def answers(lab: Measured, name: str) -> tuple[int, int] | None:
    """Answers lost and gained against the baseline."""
    runs = [lab.of(GENERATE).get(one) for one in (name, lab.formats[0])]
    if None in runs:
        return None
    mine, theirs = ([a.correct for probe in run.probes for a in probe.answers] for run in runs if run)
    return sum(b and not a for a, b in zip(mine, theirs, strict=True)), sum(
        a and not b for a, b in zip(mine, theirs, strict=True)
    )


def greedy_pairs(lab: Measured, name: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Tokens of the format's and of the baseline's greedy text, prompt by prompt."""
    runs = [lab.of(GENERATE).get(one) for one in (name, lab.formats[0])]
    if None in runs:
        return []
    mine, theirs = (
        {text.prompt_number: text.tokens for text in run.generations if text.decoding == "greedy"}
        for run in runs
        if run
    )
    return [(mine[number], theirs[number]) for number in sorted(mine.keys() & theirs.keys())]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n
