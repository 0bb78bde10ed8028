"""Divergence step: KL divergence from the baseline, taken while perplexity decodes, or afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labctl.errors import LabError
from labctl.executors.child import OnProgress
from labctl.lab.lab import Lab, key_of
from labctl.records.store import write_record
from labctl.steps.base import stored
from labctl.steps.divergence.record import DivergenceRun, SpoolPlan
from labctl.steps.files import need_file
from labctl.steps.perplexity.record import COMMON_CHUNKS, Rider
from labctl.steps.perplexity.step import (
    ORDER_SEED,
    Attempt,
    RiderOf,
    kl_path,
    measure,
    nll_key,
    no_rider,
)

_SPOOL = ".spool-"
_SPARE_BYTES = 16 << 20  # beside the spool: journals and records


def _n_rows(lab: Lab, n_vocab: int | None = None) -> int:
    """How many chunks divergence is taken over: as many as fit the spool, and were visited for perplexity anyway."""
    config = lab.config
    fits = max(1, config.kl_spool_bytes // _row_bytes(lab, n_vocab))
    measured = COMMON_CHUNKS if config.is_auto else config.n_chunks
    return min(count for count in (fits, config.kl_chunks or measured) if count is not None)


def _row_bytes(lab: Lab, n_vocab: int | None = None) -> int:
    """Size of one chunk in the spool."""
    n_scored = lab.config.ctx - 1 - lab.config.ctx // 2
    return 4 * n_scored * max(1, n_vocab or need_file(lab, lab.model.baseline).shape.n_vocab)


def spool_bytes(lab: Lab, n_vocab: int | None = None) -> int:
    """Size of the temporary file of probabilities, at most.

    Args:
        n_vocab: of the model; None to take it from the baseline's record, which must be there.
    """
    n_text = max(1, lab.text.size_bytes // lab.config.ctx)  # no token is shorter than a byte
    return min(_n_rows(lab, n_vocab), n_text) * _row_bytes(lab, n_vocab)


def room(lab: Lab) -> LabError | None:
    """Why the disk has no room for the temporary file of probabilities; None if it has."""
    from labctl.records.disk import require_space

    path = _spool_path(lab)
    kept_bytes = path.stat().st_size if path.exists() else 0
    try:
        needed_bytes = max(0, spool_bytes(lab) - kept_bytes) + _SPARE_BYTES
        require_space(lab.folder.root, needed_bytes, "the temporary file of probabilities")
    except LabError as error:
        return LabError(
            f"{error.message.rstrip('.')}: KL divergence is left out.",
            f"{error.hint} Or let it be smaller: kl_spool_bytes in lab.toml. Then: labctl divergence",
        )
    return None


def _divergence_settings(lab: Lab) -> dict[str, Any]:
    return {
        "n_ctx": lab.config.ctx,
        "n_chunks": _n_rows(lab),
        "order_seed": ORDER_SEED if lab.config.is_auto else None,
    }


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


@contextlib.contextmanager
def spool_file(lab: Lab) -> Iterator[Path]:
    """The baseline's probabilities in the outputs folder while they are needed.

    A run that is killed or interrupted leaves them there, and the next one goes on with them.
    """
    path = _spool_path(lab)
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


def rider(lab: Lab, label: str, spool: Path, *, optional: bool = True) -> Rider:
    """This step's part in a format's perplexity task; where perplexity is measured beside it, it is `optional`."""
    plan = SpoolPlan(
        spool_path=str(spool),
        n_rows=_n_rows(lab),
        is_baseline=label == lab.model.baseline,
        kl_path=str(kl_path(lab, label)),
        optional=optional,
    )
    return plan.rider()


@contextlib.contextmanager
def riding(lab: Lab, wanted: bool) -> Iterator[RiderOf]:
    """Compare on the way, while perplexity is measured, where a format is still to be compared and there is room."""
    if not wanted or not stale_divergence(lab, force=False) or room(lab) is not None:
        yield no_rider
        return
    with spool_file(lab) as spool:
        yield lambda label: rider(lab, label, spool)


def run_divergence(lab: Lab, attempt: Attempt, labels: Sequence[str], cost: float) -> None:
    """Write the divergence records, comparing what the perplexity step has not compared already.

    Args:
        cost: of one format, for the progress display.
    """
    baseline = lab.model.baseline
    waiting = [label for label in labels if _n_compared(lab, label) < _n_rows(lab)]
    refused = room(lab) if waiting else None
    if refused is not None:

        def refuse(_on: OnProgress) -> None:
            raise refused

        attempt("divergence", baseline, cost * (1 + len(waiting)), refuse)
        labels = [label for label in labels if label not in waiting]
    elif waiting:
        with spool_file(lab) as spool:
            for label in (baseline, *waiting):
                mine = rider(lab, label, spool, optional=False)
                done = attempt(
                    "divergence",
                    label,
                    cost,
                    lambda on, label=label, mine=mine: measure(  # type: ignore[misc]
                        lab, label, on, n_first=_n_rows(lab), rider=mine
                    ),
                )
                if label == baseline and not done:
                    return
    for label in labels:
        if _n_compared(lab, label):
            attempt("divergence", label, 0.0, lambda _on, label=label: _write_divergence(lab, label))  # type: ignore[misc]


def _n_compared(lab: Lab, label: str) -> int:
    from labctl.records.arrays import load_nll

    values = load_nll(kl_path(lab, label))
    if values is None:
        return 0
    chosen = values[_kl_chunks(lab, len(values))]
    return int((chosen[:, 0] == chosen[:, 0]).sum())


def _kl_chunks(lab: Lab, n_chunks_text: int) -> list[int]:
    from labctl.steps.perplexity.scorer import chunk_order

    return chunk_order(n_chunks_text, ORDER_SEED if lab.config.is_auto else None)[: _n_rows(lab)]


def _write_divergence(lab: Lab, label: str) -> None:
    from labctl.records.arrays import load_nll, to_ranges
    from labctl.steps.divergence.spool import summary

    path = kl_path(lab, label)
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
