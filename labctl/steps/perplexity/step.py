"""Perplexity step: what its figures depend on, where they are kept, and one format over a fixed set of chunks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.errors import LabError
from labctl.executors.base import OnProgress
from labctl.lab.config import FIELDS
from labctl.lab.lab import Lab, key_of
from labctl.records.files import GgufFile
from labctl.records.units import percent
from labctl.steps.base import AnyStep, Case, RecordT, Running, Step
from labctl.steps.files import need_file
from labctl.steps.intervals import ALPHA
from labctl.steps.perplexity.record import COMMON_CHUNKS, PerplexityRun, PerplexityTask, Rider
from labctl.steps.rates import Rates

if TYPE_CHECKING:
    from labctl.steps.measured import Measured
    from labctl.steps.perplexity.keep import Enough

RiderOf = Callable[[str], Rider | None]
"""Another step's part in the task of a format."""


def no_rider(_label: str) -> Rider | None:
    """Nobody else looks at the logits."""
    return None


PROTOCOL = 1
"""Raised whenever the same file and text would give another figure."""

ORDER_SEED = 2024
_NPY_HEADER_BYTES = 128
_FURTHER_CHUNKS = 4  # on average: most verdicts need no more than the common chunks


def nll_key(lab: Lab, file: GgufFile) -> str:
    """Digest of what a chunk's NLL depends on; which chunks are measured is not part of it."""
    return key_of(
        "nll",
        lab,
        file=file.sha256,
        text=lab.text.sha256,
        n_ctx=lab.config.ctx,
        protocol=PROTOCOL,
        machine=lab.machine.machine_id,
    )


def nll_path(lab: Lab, label: str) -> Path:
    """The .npy file with a format's NLL on this text; runs of any --chunks share it."""
    return lab.folder.nll / f"{label}-{nll_key(lab, need_file(lab, label))[:12]}.npy"


def kl_path(lab: Lab, label: str) -> Path:
    """The .npy file with each token's divergence; it grows with the chunks compared."""
    files = [nll_key(lab, need_file(lab, one)) for one in (lab.model.baseline, label)]
    return lab.folder.nll / f"{label}-kl-{key_of('kl', lab, files=files)[:12]}.npy"


def _settings(lab: Lab) -> dict[str, object]:
    config = lab.config
    plan: dict[str, object] = {"chunks": config.chunks}
    if config.is_auto:
        plan |= {"order_seed": ORDER_SEED, "limit": config.limit, "alpha": ALPHA, "budget_s": config.budget_s}
        spending = {"settle": config.settle, "patience": config.patience}
        plan |= {name: value for name, value in spending.items() if value != FIELDS[name].default}
    return {"n_ctx": config.ctx, **plan}


def _perplexity_key(lab: Lab, label: str) -> str:
    # With auto, where a format stops depends on the baseline, too.
    other = nll_key(lab, need_file(lab, lab.model.baseline)) if lab.config.is_auto else ""
    return key_of("perplexity", lab, nll=nll_key(lab, need_file(lab, label)), baseline=other, **_settings(lab))


def measure(
    lab: Lab,
    label: str,
    on_progress: OnProgress | None,
    *,
    n_first: int | None,
    enough: Enough | None = None,
    deadline_s: float | None = None,
    rider: Rider | None = None,
) -> PerplexityRun:
    """Measure what is missing of a format's first n chunks; the record is not stored yet."""
    from labctl.steps.perplexity import keep

    path = nll_path(lab, label)
    task = PerplexityTask(
        model_path=str(lab.gguf_path(label)),
        format=label,
        n_threads=lab.n_threads,
        text=lab.text,
        n_ctx=lab.config.ctx,
        order_seed=ORDER_SEED if lab.config.is_auto else None,
        n_first=n_first,
        deadline_s=deadline_s,
    )
    place = keep.Place(nll=path, shown=path.relative_to(lab.folder.root).as_posix(), tokens=tokens_path(lab))
    provenance = lab.provenance(
        "perplexity",
        _perplexity_key(lab, label),
        {"model": need_file(lab, label).sha256, "text": lab.text.sha256},
        {**_settings(lab), "n_threads": lab.n_threads},
    )
    run = functools.partial(lab.run, step="perplexity", label=label, on_progress=on_progress)
    return keep.measure(run, task, place, provenance, enough=enough, rider=rider)


def tokens_path(lab: Lab) -> Path:
    """Token ids of the text: the same for all formats of a model."""
    return lab.folder.nll / f"tokens-{key_of('tokens', lab, model=lab.model.sha256, text=lab.text.sha256)[:12]}.npy"


class Companion(Step[RecordT]):
    """A step that rides on perplexity: it looks at the logits while they are at hand."""

    rides = "perplexity"

    def n_chunks(self, lab: Lab) -> int:
        """How many chunks of each format it looks at, the first of the visit."""
        raise NotImplementedError

    def riding(self, lab: Lab, stale: Sequence[Case]) -> contextlib.AbstractContextManager[RiderOf]:
        """Its part in the task of each format, while the stale cases of perplexity are measured."""
        raise NotImplementedError


class Perplexity(Step[PerplexityRun]):
    """A format's perplexity, over a fixed set of chunks or as far as its verdict needs."""

    name = "perplexity"
    record = PerplexityRun
    asks = "logits"
    settings = ("text", "ctx", "chunks", "budget_s", "limit", "settle", "patience")
    unit = "chunk"
    claim = "perplexities follow from the tokens' values"

    def key(self, lab: Lab, case: Case) -> str:
        return _perplexity_key(lab, case.format)

    def fresh(self, lab: Lab, case: Case) -> PerplexityRun | None:
        record = super().fresh(lab, case)
        if record is None:
            return None
        # The size tells a whole .npy file from a torn one without loading numpy.
        expected = _NPY_HEADER_BYTES + 8 * record.n_chunks_text * record.n_scored_per_chunk
        return record if (lab.folder.root / record.nll_path).stat().st_size == expected else None

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        n_text = lab.text.size_bytes / 4 / lab.config.ctx
        n_first = COMMON_CHUNKS + _FURTHER_CHUNKS if lab.config.is_auto else lab.config.n_chunks
        again_s = rates.process_s() if lab.config.is_auto else 0.0  # the next block has a process of its own
        return again_s + rates.process_s(
            n_prompt=lab.config.ctx * (n_text if n_first is None else min(n_first, n_text))
        )

    def writes(self, lab: Lab, case: Case) -> int:
        return lab.text.size_bytes  # about 8 bytes for every second token of four letters

    def run(self, running: Running, stale: Sequence[Case], riders: Sequence[AnyStep] = ()) -> None:
        lab = running.lab
        with contextlib.ExitStack() as stack:
            rider_of: RiderOf = no_rider
            n_common = COMMON_CHUNKS
            for one in riders:
                if isinstance(one, Companion):
                    rider_of = stack.enter_context(one.riding(lab, stale))
                    n_common = max(n_common, one.n_chunks(lab)) if rider_of is not no_rider else n_common
            if lab.config.is_auto:
                from labctl.steps.perplexity.adaptive import run_auto

                run_auto(running, [case.format for case in running.cases(self)], rider_of, n_common)
                return
            for case in stale:
                work = functools.partial(self.make, lab, case, rider=rider_of(case.format))
                running.attempt(self.name, case, self.expected_s(lab, case, running.rates), work)

    def make(self, lab: Lab, case: Case, on_progress: OnProgress | None, rider: Rider | None = None) -> PerplexityRun:
        record = measure(lab, case.format, on_progress, n_first=lab.config.n_chunks, rider=rider)
        self.write(lab.folder, case, record)
        return record

    def forget(self, lab: Lab, case: Case) -> None:
        from labctl.records.arrays import journal_path

        with contextlib.suppress(LabError):  # without the file there is nothing to drop
            for path in (nll_path(lab, case.format), kl_path(lab, case.format)):
                path.unlink(missing_ok=True)
                journal_path(path).unlink(missing_ok=True)

    def unusable(self, records: Mapping[str, PerplexityRun], folder: Path) -> Mapping[str, str]:
        from labctl.steps.perplexity.figures import nll_of

        usable = nll_of(records, folder)
        reason = "The file of its token values is missing or damaged, or belongs to another text or chunk size."
        return {name: reason for name in records if name not in usable}

    def outcomes(self, records: Measured, limit: float) -> str:
        """The increases and their verdicts, which rest on the baseline's chunks, too."""
        from labctl.steps.perplexity.figures import VERDICTS, perplexity_figures

        listed = []
        for name, row in perplexity_figures(records, limit).items():
            if row.increase is not None and row.verdict in VERDICTS:
                listed.append(f"{name} {percent(row.increase.pct)} {VERDICTS[row.verdict]}")
            elif row.ppl is not None:
                listed.append(f"{name} {row.ppl:.4f}")
        if not listed:
            return ""
        chunks = sorted({run.n_chunks for run in records.of(self).values()})
        many = f"{chunks[0]} to {chunks[-1]} chunks" if len(chunks) > 1 else f"{chunks[0]} chunks each"
        return f"{many}: {', '.join(listed)}"

    def raw(self, record: PerplexityRun) -> tuple[str, ...]:
        return (record.nll_path,)

    def doubts(self, record: PerplexityRun, folder: Path) -> Iterator[str]:
        from labctl.steps.perplexity.figures import doubts

        return doubts(record, folder)


PERPLEXITY = Perplexity()
