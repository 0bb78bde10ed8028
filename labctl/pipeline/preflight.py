"""Before a run: what it will write, need and take, from a probe of its first chunks; large writes are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labctl.errors import LabError
from labctl.lab.lab import Lab, key_of
from labctl.lab.listener import Listener
from labctl.records.base import Provenance
from labctl.records.disk import free_bytes
from labctl.records.store import read_record, write_record
from labctl.records.units import size_text, time_text
from labctl.steps.base import Planned
from labctl.steps.bench.record import BenchEffort, BenchTask, SpeedVisit
from labctl.steps.bench.step import BENCH
from labctl.steps.perplexity.record import N_SIDE, PerplexityTask, Scored
from labctl.steps.perplexity.step import PERPLEXITY
from labctl.steps.rates import K_QUANTS, STAND_INS, Rates

FLOPS_PER_CORE = 40e9
"""Operations a second that one core of a laptop reaches in llama.cpp, within 3 times."""
_BYTES_PER_S = 10e9  # read from memory for a token
_OPEN_BYTES_PER_S = 1e9
_BLOCK = 256  # weights that a block of a k-quant holds
_N_NEW = 16
_LARGE = 500_000_000  # parameters: two chunks take seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The first chunks of the text through the baseline on this machine, and a few tokens generated.

    Attributes:
        tokens_per_s: reading and scoring, without loading the model.
        token_s: seconds for a generated token.
        open_s: seconds to open the file.
        peak_rss_bytes: of the process that read.
    """

    key: str
    tokens_per_s: float
    token_s: float
    open_s: float
    peak_rss_bytes: int
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What a run will do to this machine.

    Attributes:
        spool_bytes: of what it writes, the temporary file that only KL divergence needs.
    """

    write_bytes: int
    spool_bytes: int = 0
    free_bytes: int
    peak_ram_bytes: int
    ram_bytes: int
    estimate_s: float
    probed: bool


def guessed_tokens_per_s(n_params: int, n_threads: int) -> float:
    """Prompt tokens a second by arithmetic: two operations a weight and token."""
    return FLOPS_PER_CORE * n_threads / (2 * n_params)


def rough_s(seconds: float) -> float:
    """An estimate without the digits that it does not know: whole minutes from ten on, whole hours from three on."""
    unit = 1 if seconds < 60 else 10 if seconds < 600 else 60 if seconds < 3600 else 600 if seconds < 10_800 else 3600
    return round(seconds / unit) * unit


def rates(lab: Lab, probe: Probe | None = None) -> Rates:
    """Of this lab's baseline: as probed, if it was, else by arithmetic."""
    source = lab.source
    probe = probe or stored_probe(lab)
    if probe is None:
        prompt_s = 1 / guessed_tokens_per_s(source.n_params, lab.n_threads)
        token_s, open_s = source.size_bytes / _BYTES_PER_S, source.size_bytes / _OPEN_BYTES_PER_S
    else:
        prompt_s, token_s, open_s = 1 / probe.tokens_per_s, probe.token_s, probe.open_s
    matrices = [tensor for tensor in source.tensors if len(tensor.shape) > 1]
    n_filling = sum(tensor.n_params for tensor in matrices if tensor.shape[0] % _BLOCK == 0)
    return Rates(
        n_params=source.n_params,
        bits=8 * source.size_bytes / source.n_params,
        prompt_s=prompt_s,
        token_s=token_s,
        open_s=open_s,
        share=K_QUANTS if 2 * n_filling >= sum(tensor.n_params for tensor in matrices) else STAND_INS,
    )


def _key(lab: Lab) -> str:
    return key_of(
        "probe",
        lab,
        model=lab.model.sha256,
        machine=lab.machine.machine_id,
        n_threads=lab.n_threads,
        n_ctx=lab.config.ctx,
        n_new=_N_NEW,
    )


def stored_probe(lab: Lab) -> Probe | None:
    """The probe of an earlier run, if it was made with this model, machine and settings."""
    probe = read_record(lab.folder.record_path("probe"), Probe)
    return probe if probe is not None and probe.key == _key(lab) else None


def ensure_probe(lab: Lab) -> Probe | None:
    """Time the baseline, unless that was done before, and keep the result.

    Returns: None where that cannot be done; the run itself will say why.
    """
    known = stored_probe(lab)
    if known is not None:
        return known
    probe = timed(lab)
    if probe is not None:
        write_record(lab.folder.record_path("probe"), probe)
    return probe


def timed(lab: Lab) -> Probe | None:
    """The baseline timed; nothing is kept. None where that cannot be done."""
    if PERPLEXITY.lacking(lab) or BENCH.lacking(lab):
        return None
    key = _key(lab)
    settings = {"n_ctx": lab.config.ctx, "n_threads": lab.n_threads}
    provenance = lab.provenance("probe", key, {"model": lab.model.sha256}, settings)
    n_first = N_SIDE if lab.source.n_params >= _LARGE else 2 * N_SIDE
    reading = PerplexityTask(
        model_path=lab.model.path,
        format=lab.model.baseline,
        n_threads=lab.n_threads,
        text=lab.text,
        n_ctx=lab.config.ctx,
        n_first=n_first,
    )
    generating = BenchTask(
        model_path=lab.model.path,
        format=lab.model.baseline,
        n_threads=lab.n_threads,
        n_prompt=_N_NEW,
        n_gen=_N_NEW,
        effort=BenchEffort(min_reps=1, max_reps=1, min_s=0.0),
        round=0,
        order=0,
    )
    try:
        scored, visit = lab.ask(reading, Scored), lab.ask(generating, SpeedVisit)
    except LabError:
        return None
    # The first chunks wait for the file and for fresh memory; with a large model that hardly counts.
    n, done_s = len(scored.done_s), scored.done_s
    first_s, n_timed = (0.0, n) if n <= N_SIDE else (done_s[N_SIDE - 1], n - N_SIDE)
    return Probe(
        key=key,
        tokens_per_s=n_timed * lab.config.ctx / (done_s[-1] - first_s),
        token_s=min(visit.all_s("tg")),  # what is expected of an idle machine, whatever else runs now
        open_s=visit.load_s,
        peak_rss_bytes=scored.peak_rss_bytes,
        provenance=provenance,
    )


def spool_bytes(planned: Sequence[Planned]) -> int:
    """Of what a plan writes, the temporary file of probabilities: without room for it, all else goes on."""
    return sum(row.temporary_bytes for row in planned)


def preflight(lab: Lab, planned: Sequence[Planned]) -> Preflight:
    """Put together what a plan means for this machine."""
    probe = stored_probe(lab)
    return Preflight(
        write_bytes=sum(one.write_bytes for one in planned),
        spool_bytes=spool_bytes(planned),
        free_bytes=free_bytes(lab.folder.root),
        peak_ram_bytes=max(lab.source.peak_ram_bytes(lab.config.ctx), probe.peak_rss_bytes if probe else 0),
        ram_bytes=lab.machine.usable_ram_bytes,
        estimate_s=sum(one.estimate_s for one in planned),
        probed=probe is not None,
    )


def check(lab: Lab, found: Preflight, display: Listener) -> None:
    """Say what a run will do, refuse what cannot work, and ask before it writes much.

    Raises:
        LabError: the disk has no room, or the person did not agree.
    """
    from labctl.lab.dialogue import LARGE_BYTES

    text = (
        f"{lab.model.name}: writes {size_text(found.write_bytes)} ({size_text(found.free_bytes)} free), needs about"
        f" {size_text(found.peak_ram_bytes)} of memory at most ({size_text(found.ram_bytes)} here) and takes"
        f" about {time_text(rough_s(found.estimate_s))}"
        + (", judging by the first chunks." if found.probed else ", give or take a factor of 3.")
    )
    if found.write_bytes - found.spool_bytes > found.free_bytes:
        raise LabError(
            f"Not enough disk: this run writes {size_text(found.write_bytes)}, and {lab.folder.root} has"
            f" {size_text(found.free_bytes)} free.",
            "Free some space, choose another disk with --outputs, or fewer formats with --formats.",
        )
    if found.write_bytes > found.free_bytes:
        display.warn(
            f"KL divergence will be left out: its temporary file takes {size_text(found.spool_bytes)}, and"
            f" {lab.folder.root} has {size_text(found.free_bytes)} free. Free some space, or set kl_spool_bytes"
            " in lab.toml."
        )
    if found.peak_ram_bytes > found.ram_bytes:
        display.warn(
            f"{lab.model.baseline} needs about {size_text(found.peak_ram_bytes)} of memory, more than the"
            f" {size_text(found.ram_bytes)} that are here: it will be very slow, or fail."
        )
    if found.write_bytes > LARGE_BYTES:
        display.confirm(text, yes=lab.config.yes)
    else:
        display.note(text)
