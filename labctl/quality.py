"""Perplexity and divergence steps: which chunks each format needs, and when its verdict is settled.

With `--chunks auto` the chunks are visited in one shuffled order. Every format gets the first 32, so that absolute
perplexities stand on a common set; from there a format goes on only while its verdict against the baseline is open, in
blocks that grow by half, and the baseline only as far as somebody needs it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labctl import tasks
from labctl.errors import LabError
from labctl.process import OnProgress
from labctl.records import BatchShape, DivergenceRun, GgufFile, PerplexityRun
from labctl.steps import Lab, Step, key_of, need_file, stored
from labctl.store import write_record

Attempt = Callable[[str, str, float, Callable[[OnProgress], object]], bool]
"""Does one step: name, format, cost, work. Says whether it succeeded; a failure is reported there."""

PROTOCOL = 1
"""Raised whenever the same file and text would give another figure."""

SHAPE = BatchShape(n_seq=1, n_ubatch=256)
"""One chunk a decode: as fast as llama-perplexity's four, with a quarter of its logits. The shape changes no digit of
the result (measured: bit-identical NLL for n_seq 1 to 4, n_ubatch 64 to 512, 1 and 2 threads), as long as each chunk
asks for as many rows of logits as llama-perplexity does: the matrix kernels work on four rows at once, and the last
rows of a count that is not a multiple of four come out different in the fourth digit."""

COMMON_CHUNKS = 32
ORDER_SEED = 2024
ALPHA = 0.05
_NPY_HEADER_BYTES = 128
_SPOOL = ".spool-"
_SPARE_BYTES = 16 << 20  # beside the spool: journals and records
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
    if record is None:
        return None
    # The size tells a whole .npy file from a torn one without loading numpy.
    expected = _NPY_HEADER_BYTES + 8 * record.n_chunks_text * record.n_scored_per_chunk
    try:
        return record if (lab.folder.root / record.nll_path).stat().st_size == expected else None
    except OSError:
        return None


def forget(lab: Lab, label: str) -> None:
    """Drop a format's measured chunks, so that they are measured again."""
    with contextlib.suppress(LabError):  # without the file there is nothing to drop
        for path in (nll_path(lab, label), _kl_path(lab, label)):
            path.unlink(missing_ok=True)
            path.with_name(f".journal-{path.stem}").unlink(missing_ok=True)


def _measure(
    lab: Lab, label: str, on_progress: OnProgress | None, *, n_first: int | None, stop: tasks.StopRule | None = None,
    deadline_s: float | None = None, divergence: tasks.SpoolPlan | None = None,
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
        tokens_path=str(_tokens_path(lab)),
        divergence=divergence,
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


def _tokens_path(lab: Lab) -> Path:
    """Token ids of the text: the same for all formats of a model."""
    return lab.folder.nll / f"tokens-{key_of('tokens', lab, model=lab.model.sha256, text=lab.text.sha256)[:12]}.npy"


def make_perplexity(
    lab: Lab, label: str, on_progress: OnProgress | None, spool: Path | None = None
) -> PerplexityRun:  # fmt: skip
    """Measure a format over a fixed set of chunks; with a spool, compare it with the baseline on the way."""
    plan = None if spool is None else spool_plan(lab, label, spool)
    record = _measure(lab, label, on_progress, n_first=lab.config.n_chunks, divergence=plan)
    write_record(lab.folder.record_path("perplexity", label), record)
    return record


def perplexity_step(label: str) -> Step:
    """A format's perplexity over a fixed set of chunks; `run_auto` makes those of --chunks auto."""
    return Step(
        "perplexity", label, lambda lab: fresh_perplexity(lab, label), lambda lab, on: make_perplexity(lab, label, on)
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

    def __init__(
        self, lab: Lab, attempt: Attempt, labels: Sequence[str], cost: float, spool: Path | None
    ) -> None:  # fmt: skip
        self.lab = lab
        self._spool = spool
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
            plan = None if self._spool is None or until_settled else spool_plan(lab, label, self._spool)
            new = _measure(
                lab, label, on_progress, n_first=n_first, stop=stop, deadline_s=self.left_s(), divergence=plan
            )  # fmt: skip
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


def run_auto(
    lab: Lab, attempt: Attempt, labels: Sequence[str], cost: float, spool: Path | None = None
) -> None:  # fmt: skip
    """Measure perplexity until every verdict is settled, the text is used up, or the budget is spent.

    Args:
        labels: formats whose file is there, the baseline first.
        cost: of the whole step, for the progress display.
        spool: a file for the baseline's probabilities, to compare the other formats with them on the way.
    """
    auto = _Auto(lab, attempt, labels, cost, spool)
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


def _n_rows(lab: Lab) -> int:
    """How many chunks divergence is taken over: as many as fit the spool, and were visited for perplexity anyway."""
    config = lab.config
    fits = max(1, config.kl_spool_bytes // _row_bytes(lab))
    measured = COMMON_CHUNKS if config.is_auto else config.n_chunks
    return min(count for count in (fits, config.kl_chunks or measured) if count is not None)


def _row_bytes(lab: Lab) -> int:
    """Size of one chunk in the spool."""
    n_scored = lab.config.ctx - 1 - lab.config.ctx // 2
    return 4 * n_scored * max(1, need_file(lab, lab.model.baseline).shape.n_vocab)


def _divergence_settings(lab: Lab) -> dict[str, Any]:
    return {
        "n_ctx": lab.config.ctx,
        "n_chunks": _n_rows(lab),
        "order_seed": ORDER_SEED if lab.config.is_auto else None,
    }


def _divergence_key(lab: Lab, label: str) -> str:
    files = [nll_key(lab, need_file(lab, one)) for one in (lab.model.baseline, label)]
    return key_of("divergence", lab, files=files, **_divergence_settings(lab))


def _kl_path(lab: Lab, label: str) -> Path:
    """The .npy file with each token's divergence; it grows with the chunks compared."""
    files = [nll_key(lab, need_file(lab, one)) for one in (lab.model.baseline, label)]
    return lab.folder.nll / f"{label}-kl-{key_of('kl', lab, files=files)[:12]}.npy"


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


@contextlib.contextmanager
def spool_file(lab: Lab) -> Iterator[Path]:
    """The baseline's probabilities in the outputs folder while they are needed.

    A run that is killed or interrupted leaves them there, and the next one goes on with them.

    Raises:
        LabError: the disk has no room for the spool.
    """
    from labctl.prepare.quantize import require_space

    path = _spool_path(lab)
    kept_bytes = path.stat().st_size if path.exists() else 0
    needed_bytes = max(0, _n_rows(lab) * _row_bytes(lab) - kept_bytes) + _SPARE_BYTES
    require_space(lab.folder.root, needed_bytes, "the temporary file of probabilities")
    try:
        yield path
    except Exception:  # not Ctrl-C
        _remove_spool(path)
        raise
    _remove_spool(path)


def _spool_path(lab: Lab) -> Path:
    key = key_of("spool", lab, file=nll_key(lab, need_file(lab, lab.model.baseline)), **_divergence_settings(lab))
    return lab.folder.root / f"{_SPOOL}{key[:12]}"


def has_spool(lab: Lab) -> bool:
    """Whether an interrupted run left the baseline's probabilities."""
    return _spool_path(lab).is_file()


def sweep_spools(lab: Lab) -> None:
    """Remove spools that no run goes on with: of other settings, or with nothing left to compare."""
    keep = ""
    with contextlib.suppress(LabError):  # no file of the baseline: nothing to go on with
        keep = _spool_path(lab).name if stale_divergence(lab, force=False) else ""
    for path in lab.folder.root.glob(f"{_SPOOL}*"):
        if not keep or path.name.removesuffix(".rows") != keep:
            with contextlib.suppress(OSError):
                path.unlink()


def _remove_spool(path: Path) -> None:
    with contextlib.suppress(OSError):  # the folder may be gone or read-only by now; the next run sweeps
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".rows").unlink(missing_ok=True)


def spool_plan(lab: Lab, label: str, spool: Path) -> tasks.SpoolPlan:
    return tasks.SpoolPlan(
        spool_path=str(spool),
        n_rows=_n_rows(lab),
        is_baseline=label == lab.model.baseline,
        kl_path=str(_kl_path(lab, label)),
    )


def run_divergence(lab: Lab, attempt: Attempt, labels: Sequence[str], cost: float) -> None:
    """Write the divergence records, comparing what the perplexity step has not compared already.

    Args:
        cost: of one format, for the progress display.
    """
    baseline = lab.model.baseline
    waiting = [label for label in labels if _n_compared(lab, label) < _n_rows(lab)]
    if waiting:
        with spool_file(lab) as spool:
            for label in (baseline, *waiting):
                plan = spool_plan(lab, label, spool)
                done = attempt(
                    "divergence",
                    label,
                    cost,
                    lambda on, label=label, plan=plan: _measure(  # type: ignore[misc]
                        lab, label, on, n_first=plan.n_rows, divergence=plan
                    ),
                )
                if label == baseline and not done:
                    return
    for label in labels:
        if _n_compared(lab, label):
            attempt("divergence", label, 0.0, lambda _on, label=label: _write_divergence(lab, label))  # type: ignore[misc]


def _n_compared(lab: Lab, label: str) -> int:
    from labctl.journal import load_nll

    values = load_nll(_kl_path(lab, label))
    if values is None:
        return 0
    chosen = values[_kl_chunks(lab, len(values))]
    return int((chosen[:, 0] == chosen[:, 0]).sum())


def _kl_chunks(lab: Lab, n_chunks_text: int) -> list[int]:
    from labctl.measure.perplexity import chunk_order

    return chunk_order(n_chunks_text, ORDER_SEED if lab.config.is_auto else None)[: _n_rows(lab)]


def _write_divergence(lab: Lab, label: str) -> None:
    from labctl.journal import load_nll, to_ranges
    from labctl.measure.divergence import summary

    path = _kl_path(lab, label)
    values = load_nll(path)
    assert values is not None
    chunks = [chunk for chunk in _kl_chunks(lab, len(values)) if values[chunk, 0] == values[chunk, 0]]
    figures = summary(values[chunks])
    record = DivergenceRun(
        format=label,
        text=lab.text,
        n_ctx=lab.config.ctx,
        n_chunks=len(chunks),
        n_tokens=figures.n_tokens,
        chunks=to_ranges(chunks),
        values_path=path.relative_to(lab.folder.root).as_posix(),
        kld_mean=figures.mean,
        kld_mean_low=figures.mean_low,
        kld_mean_high=figures.mean_high,
        kld_median=figures.median,
        kld_p90=figures.p90,
        kld_p99=figures.p99,
        kld_max=figures.max,
        same_top_p=figures.same_top_p,
        same_top_low=figures.same_top_low,
        same_top_high=figures.same_top_high,
        provenance=lab.provenance(
            "divergence",
            _divergence_key(lab, label),
            {"model": need_file(lab, label).sha256, "text": lab.text.sha256},
            {**_divergence_settings(lab), "n_threads": lab.n_threads},
        ),
    )
    write_record(lab.folder.record_path("divergence", label), record)
