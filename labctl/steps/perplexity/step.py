"""Perplexity step: what its figures depend on, where they are kept, and one format over a fixed set of chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labctl.errors import LabError
from labctl.executors.child import OnProgress
from labctl.lab.lab import Lab, key_of
from labctl.records.files import GgufFile
from labctl.records.store import write_record
from labctl.steps.base import Step, stored
from labctl.steps.files import need_file
from labctl.steps.perplexity.record import PerplexityRun, PerplexityTask, Rider, StopRule

Attempt = Callable[[str, str, float, Callable[[OnProgress], object]], bool]
"""Does one step: name, format, cost, work. Says whether it succeeded; a failure is reported there."""

RiderOf = Callable[[str], Rider | None]
"""Another step's part in the task of a format."""


def no_rider(_label: str) -> Rider | None:
    """Nobody else looks at the logits."""
    return None


PROTOCOL = 1
"""Raised whenever the same file and text would give another figure."""

ORDER_SEED = 2024
ALPHA = 0.05
_NPY_HEADER_BYTES = 128


def nll_key(lab: Lab, file: GgufFile) -> str:
    """Digest of what a chunk's NLL depends on; which chunks are measured is not part of it."""
    return key_of(
        "nll", lab, file=file.sha256, text=lab.text.sha256, n_ctx=lab.config.ctx, protocol=PROTOCOL,
        machine=lab.machine.machine_id,
    )  # fmt: skip


def nll_path(lab: Lab, label: str) -> Path:
    """The .npy file with a format's NLL on this text; runs of any --chunks share it."""
    return lab.folder.nll / f"{label}-{nll_key(lab, need_file(lab, label))[:12]}.npy"


def kl_path(lab: Lab, label: str) -> Path:
    """The .npy file with each token's divergence; it grows with the chunks compared."""
    files = [nll_key(lab, need_file(lab, one)) for one in (lab.model.baseline, label)]
    return lab.folder.nll / f"{label}-kl-{key_of('kl', lab, files=files)[:12]}.npy"


def _settings(lab: Lab) -> dict[str, Any]:
    config = lab.config
    plan: dict[str, Any] = {"chunks": config.chunks}
    if config.is_auto:
        plan |= {"order_seed": ORDER_SEED, "limit": config.limit, "alpha": ALPHA, "budget_s": config.budget_s}
    return {"n_ctx": config.ctx, **plan}


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
        for path in (nll_path(lab, label), kl_path(lab, label)):
            path.unlink(missing_ok=True)
            path.with_name(f".journal-{path.stem}").unlink(missing_ok=True)


def measure(
    lab: Lab, label: str, on_progress: OnProgress | None, *, n_first: int | None, stop: StopRule | None = None,
    deadline_s: float | None = None, rider: Rider | None = None,
) -> PerplexityRun:  # fmt: skip
    """Measure what is missing of a format's first n chunks; the record is not stored yet."""
    path = nll_path(lab, label)
    task = PerplexityTask(
        model_path=str(lab.gguf_path(label)),
        format=label,
        n_threads=lab.n_threads,
        text=lab.text,
        n_ctx=lab.config.ctx,
        order_seed=ORDER_SEED if lab.config.is_auto else None,
        n_first=n_first,
        stop=stop,
        deadline_s=deadline_s,
        tokens_path=str(_tokens_path(lab)),
        rider=rider,
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
    lab: Lab, label: str, on_progress: OnProgress | None, rider: Rider | None = None
) -> PerplexityRun:  # fmt: skip
    """Measure a format over a fixed set of chunks; a rider looks at the logits on the way."""
    record = measure(lab, label, on_progress, n_first=lab.config.n_chunks, rider=rider)
    write_record(lab.folder.record_path("perplexity", label), record)
    return record


def perplexity_step(label: str) -> Step:
    """A format's perplexity over a fixed set of chunks; `adaptive.run_auto` makes those of --chunks auto."""
    return Step(
        "perplexity", label, lambda lab: fresh_perplexity(lab, label), lambda lab, on: make_perplexity(lab, label, on)
    )
