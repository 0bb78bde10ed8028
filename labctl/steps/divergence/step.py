"""Divergence step: KL divergence from the baseline, taken while perplexity decodes, or afterwards."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from labctl.errors import LabError
from labctl.executors.base import OnProgress
from labctl.lab.lab import Lab, key_of
from labctl.records.units import significant
from labctl.steps.base import ALL, AnyStep, Case, Planned, Running, Scope
from labctl.steps.divergence.record import DivergenceRun, remove_spool
from labctl.steps.files import need_file
from labctl.steps.perplexity.record import COMMON_CHUNKS, Rider, n_scored
from labctl.steps.perplexity.step import ORDER_SEED, Companion, RiderOf, kl_path, measure, nll_key, no_rider
from labctl.steps.rates import Rates

_SHARE = 0.05  # of computing a chunk: what comparing it takes while perplexity computes it anyway
_SPARE_BYTES = 16 << 20  # beside the spool: journals and records


def _n_rows(lab: Lab, n_vocab: int | None = None) -> int:
    """How many chunks divergence is taken over: as many as fit the spool, and were visited for perplexity anyway."""
    config = lab.config
    fits = max(1, config.kl_spool_bytes // _row_bytes(lab, n_vocab))
    measured = COMMON_CHUNKS if config.is_auto else config.n_chunks
    return min(count for count in (fits, config.kl_chunks or measured) if count is not None)


def _row_bytes(lab: Lab, n_vocab: int | None = None) -> int:
    """Size of one chunk in the spool."""
    return 4 * n_scored(lab.config.ctx) * max(1, n_vocab or need_file(lab, lab.model.baseline).shape.n_vocab)


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


def _divergence_settings(lab: Lab) -> dict[str, object]:
    return {"n_ctx": lab.config.ctx, "n_chunks": _n_rows(lab), "order_seed": ORDER_SEED if lab.config.is_auto else None}


def _divergence_key(lab: Lab, label: str) -> str:
    files = [nll_key(lab, need_file(lab, one)) for one in (lab.model.baseline, label)]
    return key_of("divergence", lab, files=files, **_divergence_settings(lab))


@contextlib.contextmanager
def spool_file(lab: Lab) -> Iterator[Path]:
    """The baseline's probabilities in the scratch folder while they are needed.

    A run that is killed or interrupted leaves them there, and the next one goes on with them.
    """
    path = _spool_path(lab)
    try:
        yield path
    except Exception:  # not Ctrl-C
        remove_spool(path)
        raise
    remove_spool(path)


def _spool_path(lab: Lab) -> Path:
    key = key_of("spool", lab, file=nll_key(lab, need_file(lab, lab.model.baseline)), **_divergence_settings(lab))
    return lab.folder.scratch / f"spool-{key[:12]}"


def has_spool(lab: Lab) -> bool:
    """Whether an interrupted run left the baseline's probabilities."""
    return _spool_path(lab).is_file()


def rider(lab: Lab, label: str, spool: Path, *, optional: bool = True) -> Rider:
    """This step's part in a format's perplexity task; where perplexity is measured beside it, it is `optional`."""
    from labctl.steps.divergence.keep import Comparison

    path = None if label == lab.model.baseline else kl_path(lab, label)
    return Comparison(spool, _n_rows(lab), lab.config.ctx, path, optional=optional)


def _with_files(lab: Lab, cases: Sequence[Case]) -> list[Case]:
    """Those whose file is there, and the baseline's."""
    found = []
    for case in cases:
        with contextlib.suppress(LabError):
            need_file(lab, lab.model.baseline)
            need_file(lab, case.format)
            found.append(case)
    return found


def _n_compared(lab: Lab, label: str) -> int:
    from labctl.records.arrays import load_rows

    values = load_rows(kl_path(lab, label))
    if values is None:
        return 0
    chosen = values[_kl_chunks(lab, len(values))]
    return int((chosen[:, 0] == chosen[:, 0]).sum())


def _kl_chunks(lab: Lab, n_chunks_text: int) -> list[int]:
    from labctl.steps.perplexity.scorer import chunk_order

    return chunk_order(n_chunks_text, ORDER_SEED if lab.config.is_auto else None)[: _n_rows(lab)]


def _divergence(lab: Lab, label: str) -> DivergenceRun:
    from labctl.records.arrays import load_rows, to_ranges
    from labctl.steps.divergence.spool import summary

    path = kl_path(lab, label)
    values = load_rows(path)
    assert values is not None
    chunks = [chunk for chunk in _kl_chunks(lab, len(values)) if values[chunk, 0] == values[chunk, 0]]
    figures = summary(values[chunks])
    return DivergenceRun(
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


class Divergence(Companion[DivergenceRun]):
    """How far each format's predictions are from the baseline's; of the baseline itself there is nothing to say."""

    name = "divergence"
    record = DivergenceRun
    asks = "logits"
    settings = ("text", "ctx", "chunks", "kl_chunks", "kl_spool_bytes")
    figure = "KL divergence"
    claim = "KL divergences follow from the tokens' values"

    def cases(self, scope: Scope) -> tuple[Case, ...]:
        return tuple(case for case in super().cases(scope) if case.format != scope.model.baseline)

    def key(self, lab: Lab, case: Case) -> str:
        return _divergence_key(lab, case.format)

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        n_text = lab.text.size_bytes / 4 / lab.config.ctx
        baseline = self.case(lab, lab.model.baseline)
        alone = lab.folder.record_path(self.rides, str(baseline)).exists()
        n_chunks = min(n_text, lab.config.kl_chunks or COMMON_CHUNKS)
        n_tokens = lab.config.ctx * n_chunks
        return rates.process_s(n_prompt=n_tokens) if alone else _SHARE * n_tokens * rates.prompt_s

    def total_s(self, lab: Lab, stale: Sequence[Case], baseline: Rates) -> float:
        """The baseline is read once, too."""
        cases = (self.case(lab, lab.model.baseline), *stale) if stale else ()
        return super().total_s(lab, cases, baseline)

    def planned(self, lab: Lab, stale: Sequence[Case], baseline: Rates) -> list[Planned]:
        n_bytes = spool_bytes(lab, lab.source.shape.n_vocab)
        seconds = self.total_s(lab, stale, baseline)
        return [Planned(step=self.name, label=ALL, write_bytes=n_bytes, temporary_bytes=n_bytes, estimate_s=seconds)]

    def n_chunks(self, lab: Lab) -> int:
        return _n_rows(lab)

    @contextlib.contextmanager
    def riding(self, lab: Lab, stale: Sequence[Case]) -> Iterator[RiderOf]:
        """Compare on the way, where there is room, and the baseline passes by or has left its probabilities."""
        passes = lab.config.is_auto or any(case.format == lab.model.baseline for case in stale) or has_spool(lab)
        if not passes or not _with_files(lab, self.stale(lab)) or room(lab) is not None:
            yield no_rider
            return
        with spool_file(lab) as spool:
            yield lambda label: rider(lab, label, spool)

    def run(self, running: Running, stale: Sequence[Case], riders: Sequence[AnyStep] = ()) -> None:
        """Write the records, comparing what the perplexity step has not compared already."""
        lab = running.lab
        stale = _with_files(lab, stale)
        if not stale:
            return
        baseline = self.case(lab, lab.model.baseline)
        waiting = [case for case in stale if _n_compared(lab, case.format) < _n_rows(lab)]
        refused = room(lab) if waiting else None
        if refused is not None:

            def refuse(_on: OnProgress) -> None:
                raise refused

            running.attempt(self.name, baseline, self.total_s(lab, waiting, running.rates), refuse)
            stale = [case for case in stale if case not in waiting]
        elif waiting:
            with spool_file(lab) as spool:
                for case in (baseline, *waiting):
                    compare = functools.partial(
                        measure,
                        lab,
                        case.format,
                        n_first=_n_rows(lab),
                        rider=rider(lab, case.format, spool, optional=False),
                    )
                    expected_s = self.expected_s(lab, case, running.rates)
                    if not running.attempt(self.name, case, expected_s, compare) and case == baseline:
                        return
        for case in stale:
            if _n_compared(lab, case.format):
                running.attempt(self.name, case, 0.0, functools.partial(self.make, lab, case))

    def make(self, lab: Lab, case: Case, on_progress: OnProgress | None) -> DivergenceRun:
        """The record, from what was compared."""
        record = _divergence(lab, case.format)
        self.write(lab.folder, case, record)
        return record

    def asked_of(self, record: DivergenceRun) -> dict[str, object]:
        shuffled = record.provenance.settings.get("order_seed") is not None
        chunks = {"chunks": "auto" if shuffled else record.n_chunks, "kl_chunks": record.n_chunks}
        return super().asked_of(record) | chunks

    def kept_scratch(self, lab: Lab) -> str:
        """The baseline's probabilities, unless they are of other settings or nothing is left to compare."""
        with contextlib.suppress(LabError):  # no file of the baseline: nothing to go on with
            return _spool_path(lab).name if _with_files(lab, self.stale(lab)) else ""
        return ""

    def outcome(self, record: DivergenceRun) -> str:
        return significant(record.kld_mean)

    def raw(self, record: DivergenceRun) -> tuple[str, ...]:
        return (record.values_path,)

    def doubts(self, record: DivergenceRun, folder: Path) -> Iterator[str]:
        from labctl.steps.divergence.figures import doubts

        return doubts(record, folder)


DIVERGENCE = Divergence()
