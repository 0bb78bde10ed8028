"""Perplexity and divergence steps: which chunks each format needs, and when its verdict is settled.

With `--chunks auto` the chunks are visited in one shuffled order. Every format gets the first 32, so that absolute
perplexities stand on a common set; from there a format goes on only while its verdict against the baseline is open, in
blocks that grow by half, and the baseline only as far as somebody needs it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labctl import tasks
from labctl.errors import LabError
from labctl.process import OnProgress
from labctl.records import BatchShape, DivergenceRun, GgufFile, PerplexityRun
from labctl.steps import Lab, Step, key_of, need_file, stored
from labctl.store import PARTIAL, write_record

Attempt = Callable[[str, str, float, Callable[[OnProgress], object]], bool]
"""Does one step: name, format, cost, work. Says whether it succeeded; a failure is reported there."""

SHAPE = BatchShape(n_seq=1, n_ubatch=256)
PROTOCOL = 1
"""As in measure/perplexity.py, which is not imported here because numpy would then load for every command."""

COMMON_CHUNKS = 32
ORDER_SEED = 2024
ALPHA = 0.05
_GROWTH = 1.5
_FIRST_BLOCKS = (8, 16, COMMON_CHUNKS)  # under a time budget: whatever it allows, all formats get alike


def nll_key(lab: Lab, file: GgufFile) -> str:
    """Digest of what a chunk's NLL depends on; which chunks are measured is not part of it."""
    return key_of(
        "nll", lab, file=file.sha256, text=lab.text.sha256, n_ctx=lab.config.ctx, protocol=PROTOCOL,
        machine=lab.machine.machine_id,
    )  # fmt: skip


def nll_path(lab: Lab, label: str) -> Path:
    """The .npy file with a format's NLL on this text; runs of any --chunks share it."""
    return lab.folder.nll / f"{label}-{nll_key(lab, need_file(lab, label))[:12]}.npy"


def _settings(lab: Lab) -> dict[str, Any]:
    config = lab.config
    plan: dict[str, Any] = {"chunks": config.chunks}
    if config.is_auto:
        plan |= {"order_seed": ORDER_SEED, "limit": config.limit, "alpha": ALPHA, "budget_s": config.budget_s}
    return {"n_ctx": config.ctx, "n_seq": SHAPE.n_seq, "n_ubatch": SHAPE.n_ubatch, **plan}


def _perplexity_key(lab: Lab, label: str) -> str:
    # With auto, where a format stops depends on the baseline, too.
    other = nll_key(lab, need_file(lab, lab.model.baseline)) if lab.config.is_auto else ""
    return key_of("perplexity", lab, nll=nll_key(lab, need_file(lab, label)), baseline=other, **_settings(lab))


def fresh_perplexity(lab: Lab, label: str) -> PerplexityRun | None:
    record = stored(lab, "perplexity", label, PerplexityRun, _perplexity_key(lab, label))
    return record if record is not None and (lab.folder.root / record.nll_path).is_file() else None


def _measure(
    lab: Lab, label: str, on_progress: OnProgress | None, *, n_first: int | None, stop: tasks.StopRule | None = None,
    deadline_s: float | None = None,
) -> PerplexityRun:  # fmt: skip
    """Measure what is missing of a format's first n chunks; the record is not stored yet."""
    path = nll_path(lab, label)
    task = tasks.PerplexityTask(
        model_path=str(lab.gguf_path(label)),
        format=label,
        n_threads=lab.n_threads,
        text=lab.text,
        n_ctx=lab.config.ctx,
        shape=SHAPE,
        order_seed=ORDER_SEED if lab.config.is_auto else None,
        n_first=n_first,
        stop=stop,
        deadline_s=deadline_s,
        nll_path=str(path),
        shown_nll_path=path.relative_to(lab.folder.root).as_posix(),
        provenance=lab.provenance(
            "perplexity",
            _perplexity_key(lab, label),
            {"model": need_file(lab, label).sha256, "text": lab.text.sha256},
            {**_settings(lab), "n_threads": lab.n_threads},
        ),
    )
    return lab.run(task, PerplexityRun, "perplexity", label, on_progress)


def _make_perplexity(lab: Lab, label: str, on_progress: OnProgress | None) -> PerplexityRun:
    record = _measure(lab, label, on_progress, n_first=lab.config.n_chunks)
    write_record(lab.folder.record_path("perplexity", label), record)
    return record


def perplexity_step(label: str) -> Step:
    """A format's perplexity over a fixed set of chunks; `run_auto` makes those of --chunks auto."""
    return Step(
        "perplexity", label, lambda lab: fresh_perplexity(lab, label), lambda lab, on: _make_perplexity(lab, label, on)
    )


# -- chunks as the verdicts need them ---------------------------------------------------------------------------------


def settled(lab: Lab, run: PerplexityRun) -> bool:
    """Whether a format's verdict against the baseline is settled by the chunks measured so far."""
    from labctl.journal import load_nll
    from labctl.measure.perplexity import chunk_order
    from labctl.measure.sequence import settle
    from labctl.measure.verdict import chunk_differences

    nll, base = (load_nll(nll_path(lab, label)) for label in (run.format, lab.model.baseline))
    if nll is None or base is None:
        return False
    visited = chunk_order(run.n_chunks_text, ORDER_SEED)[: run.n_chunks]
    differences = chunk_differences(nll[visited], base[visited])
    return settle(differences, limit=lab.config.limit, alpha=ALPHA).verdict != "undecided"


class _Auto:
    """One adaptive run: what each format has, and what is left of the budget."""

    def __init__(self, lab: Lab, attempt: Attempt, labels: Sequence[str], cost: float) -> None:
        self.lab = lab
        self.labels = labels
        self.runs: dict[str, PerplexityRun] = {}
        self._attempt = attempt
        self._cost = cost / max(1, len(labels) * COMMON_CHUNKS)
        self._begun = time.monotonic()

    def left_s(self) -> float | None:
        budget = self.lab.config.budget_s
        return None if budget is None else budget - (time.monotonic() - self._begun)

    def out_of_time(self) -> bool:
        left = self.left_s()
        return left is not None and left <= 0

    def measure(self, label: str, n_first: int, *, until_settled: bool = False) -> bool:
        """Bring a format to its first n chunks, or to a settled verdict before that."""
        lab = self.lab
        known = self.runs.get(label)
        stop = None
        if until_settled:
            stop = tasks.StopRule(
                baseline_nll_path=str(nll_path(lab, lab.model.baseline)),
                limit=lab.config.limit,
                alpha=ALPHA,
                at_least=COMMON_CHUNKS,
            )

        def work(on_progress: OnProgress) -> None:
            new = _measure(lab, label, on_progress, n_first=n_first, stop=stop, deadline_s=self.left_s())
            if known is not None:
                new = dataclasses.replace(
                    new,
                    wall_s=known.wall_s + new.wall_s,
                    n_tokens_evaluated=known.n_tokens_evaluated + new.n_tokens_evaluated,
                    peak_rss_bytes=max(known.peak_rss_bytes, new.peak_rss_bytes),
                )
            self.runs[label] = new

        n_new = n_first - (known.n_chunks if known is not None else 0)
        return self._attempt("perplexity", label, self._cost * max(0, n_new), work)


def run_auto(lab: Lab, attempt: Attempt, labels: Sequence[str], cost: float) -> None:
    """Measure perplexity until every verdict is settled, the text is used up, or the budget is spent.

    Args:
        labels: formats whose file is there, the baseline first.
        cost: of the whole step, for the progress display.
    """
    auto = _Auto(lab, attempt, labels, cost)
    baseline = lab.model.baseline
    for size in (COMMON_CHUNKS,) if lab.config.budget_s is None else _FIRST_BLOCKS:
        for label in labels:
            if not auto.out_of_time() and (label in auto.runs or size == _first_size(lab)):
                auto.measure(label, size)
    if baseline in auto.runs:
        size = COMMON_CHUNKS
        n_text = auto.runs[baseline].n_chunks_text
        open_labels = _open(lab, auto.runs)
        while open_labels and size < n_text and not auto.out_of_time():
            size = min(n_text, int(size * _GROWTH))
            if not auto.measure(baseline, size):
                break
            done = [auto.measure(label, size, until_settled=True) for label in open_labels if not auto.out_of_time()]
            if not any(done):
                break
            open_labels = _open(lab, auto.runs)
    for label, run in auto.runs.items():
        write_record(lab.folder.record_path("perplexity", label), run)


def _first_size(lab: Lab) -> int:
    return COMMON_CHUNKS if lab.config.budget_s is None else _FIRST_BLOCKS[0]


def _open(lab: Lab, runs: dict[str, PerplexityRun]) -> list[str]:
    """Formats whose verdict is open, those with the fewest chunks first."""
    waiting = [
        label
        for label, run in runs.items()
        if label != lab.model.baseline and run.n_chunks < run.n_chunks_text and not settled(lab, run)
    ]
    return sorted(waiting, key=lambda label: runs[label].n_chunks)


# -- divergence -------------------------------------------------------------------------------------------------------


def _divergence_settings(lab: Lab) -> dict[str, Any]:
    config = lab.config
    n_first = config.kl_chunks if config.is_auto or config.n_chunks is None else min(
        config.n_chunks, config.kl_chunks or config.n_chunks
    )  # fmt: skip
    return {"n_ctx": config.ctx, "n_first": n_first, "order_seed": ORDER_SEED if config.is_auto else None,
            "spool_bytes": config.kl_spool_bytes}  # fmt: skip


def _divergence_key(lab: Lab, label: str) -> str:
    files = [nll_key(lab, need_file(lab, one)) for one in (lab.model.baseline, label)]
    return key_of("divergence", lab, files=files, **_divergence_settings(lab))


def fresh_divergence(lab: Lab, label: str) -> DivergenceRun | None:
    """A format's divergence; of the baseline there is none."""
    record = stored(lab, "divergence", label, DivergenceRun, _divergence_key(lab, label))
    return record if record is not None and (lab.folder.root / record.values_path).is_file() else None


def stale_divergence(lab: Lab, force: bool) -> list[str]:
    """Formats with a file whose divergence is to be measured."""
    found = []
    for label in lab.labels:
        with contextlib.suppress(LabError):
            if label != lab.model.baseline and (force or fresh_divergence(lab, label) is None):
                need_file(lab, label)
                found.append(label)
    return found


def run_divergence(lab: Lab, attempt: Attempt, labels: Sequence[str], cost: float) -> None:
    """Spool the baseline's probabilities once, compare each format with them, remove the spool.

    Args:
        cost: of one format, for the progress display.
    """
    baseline = lab.model.baseline
    with _spool_file(lab) as path:
        if attempt("divergence", baseline, cost, lambda on: _diverge(lab, baseline, path, on)):
            for label in labels:
                attempt("divergence", label, cost, lambda on, label=label: _diverge(lab, label, path, on))  # type: ignore[misc]


@contextlib.contextmanager
def _spool_file(lab: Lab) -> Iterator[Path]:
    """A temporary name in the outputs folder; what a killed run left under it, the next run sweeps away."""
    path = lab.folder.root / f"{PARTIAL}{uuid.uuid4().hex[:12]}-spool"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _diverge(lab: Lab, label: str, spool: Path, on_progress: OnProgress | None) -> None:
    settings = _divergence_settings(lab)
    key = _divergence_key(lab, label)
    values = lab.folder.nll / f"{label}-kl-{key[:12]}.npz"
    is_baseline = label == lab.model.baseline
    if is_baseline:
        from labctl.prepare.quantize import require_space

        require_space(lab.folder.root, settings["spool_bytes"] + (64 << 20), "the spool of probabilities")
    task = tasks.DivergenceTask(
        model_path=str(lab.gguf_path(label)),
        format=label,
        n_threads=lab.n_threads,
        text=lab.text,
        n_ctx=lab.config.ctx,
        shape=SHAPE,
        order_seed=settings["order_seed"],
        n_first=settings["n_first"],
        is_baseline=is_baseline,
        spool_path=str(spool),
        spool_bytes=settings["spool_bytes"],
        values_path=str(values),
        shown_values_path=values.relative_to(lab.folder.root).as_posix(),
        provenance=lab.provenance(
            "divergence",
            key,
            {"model": need_file(lab, label).sha256, "text": lab.text.sha256},
            {**settings, "n_threads": lab.n_threads},
        ),
    )
    if is_baseline:
        lab.run(task, int, "divergence", label, on_progress)
        return
    record = lab.run(task, DivergenceRun, "divergence", label, on_progress)
    write_record(lab.folder.record_path("divergence", label), record)
