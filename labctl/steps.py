"""The lab's steps, one format each: what a step depends on, whether its record is fresh, how it is made anew."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from labctl import __version__, heard, tasks
from labctl.asked import command
from labctl.config import LabConfig
from labctl.errors import LabError
from labctl.formats import FORMATS
from labctl.groups import prompt_file
from labctl.lengths import N_PROMPT, Reach, reach_of
from labctl.process import ChildError, OnProgress, run_task
from labctl.records import GenerationRun, GgufFile, SourceModel, TextSource
from labctl.records_base import SCHEMA_VERSION, Machine, Provenance
from labctl.records_hardware import MemoryLoad, MemoryRun
from labctl.store import DigestCache, RunFolder, digest, model_sha256, read_record, write_record, write_text
from labctl.warned import in_words

if TYPE_CHECKING:
    from labctl.prepare.imatrix import Imatrix

RecordT = TypeVar("RecordT")

MEMORY_GEN = 16  # as in measure/memory.py: not imported, since numpy would then load for every command
_SIDE_BY_SIDE = 16  # questions of a probe, where a cache of 512 tokens has room for them
PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "To solve this math problem, first we need to",
    "In the field of artificial intelligence,",
    "Step-by-step reasoning: If x = 5 and y = 3, then x + y =",
)
"""The course's five prompts, in the worksheet's order."""


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Everything a step may read: settings, folders, sources, this machine and its llama.cpp.

    Attributes:
        asked: step -> the settings that it was last asked with, where they may differ from those of now.
        standing: the settings that lab.toml and variables give.
    """

    config: LabConfig
    folder: RunFolder
    model: SourceModel
    text: TextSource
    machine: Machine
    n_threads: int
    engine: dict[str, str]
    digests: DigestCache
    probes: dict[str, Path]
    imatrix: Imatrix | None = None
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    standing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_demo(self) -> bool:
        return self.model.origin == "demo"

    @property
    def labels(self) -> tuple[str, ...]:
        """Formats in the worksheet's order, the baseline first."""
        return (self.model.baseline, *(name for name in self.config.formats if name != self.model.baseline))

    def at(self, step: str) -> Lab:
        """The lab with the settings that a step was last asked with."""
        settings = dict(self.asked.get(step, {}))
        n_threads = settings.pop("threads", None) or self.n_threads
        return replace(self, config=self.config.having(settings), n_threads=n_threads) if self.asked else self

    def command(self, verb: str, *, exact: bool = False) -> str:
        """What to type for this very lab, from the folder it was measured in; of a run, with what it was asked.

        Args:
            exact: with folders from the root on, too: not for what is handed in, where they are nobody's business.
        """
        name = "demo" if self.is_demo else self.folder.root.name
        return command(verb, name, self.config, self.labels[1:] or self.labels, exact=exact)

    def gguf_path(self, label: str) -> Path:
        """Where a format's file is: the source itself for the baseline."""
        if label == self.model.baseline:
            return Path(self.model.path)
        return self.folder.root / f"{self.model.name}-{label}.gguf"

    @functools.cached_property
    def reach(self) -> Reach:
        """How many tokens the model takes."""
        from labctl.prepare.header import read_model

        return reach_of(read_model(Path(self.model.path))[0])

    @functools.cached_property
    def source_files(self) -> tuple[Path, ...]:
        """The source: one file, or all parts of a split model in order."""
        from labctl.prepare.header import read_model

        return read_model(Path(self.model.path))[1]

    def provenance(self, step: str, key: str, inputs: dict[str, str], settings: dict[str, Any]) -> Provenance:
        return Provenance(
            step=step,
            key=key,
            created_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            inputs=inputs,
            settings=settings,
            versions={
                "labctl": __version__,
                "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
                **self.engine,
            },
            machine=self.machine,
        )

    def run(
        self, task: tasks.AnyTask, kind: type[RecordT], step: str, label: str, on_progress: OnProgress | None
    ) -> RecordT:
        def keep(warnings: tuple[str, ...]) -> None:
            heard.keep(self.folder, self.notices_key, step, label, in_words(warnings))

        return run_task(
            task,
            kind,
            log_path=self.folder.log_path(step, label),
            hang_s=self.config.hang_s,
            on_progress=on_progress,
            on_warnings=keep,
            limit_bytes=self.config.memory_limit_bytes,
        )

    @property
    def notices_key(self) -> str:
        """Digest of all that llama.cpp's warnings depend on."""
        return key_of("notices", self, model=self.model.sha256)

    def with_notices(self) -> Lab:
        """The same with what is to be said of lengths and of llama.cpp's warnings so far among the model's notices."""
        lengths = self.reach.notices(self.config.ctx, self.config.new_tokens)
        said = (*self.model.notices, *lengths, *heard.notices(self.folder, self.notices_key))
        return replace(self, model=replace(self.model, notices=tuple(dict.fromkeys(said))))


def key_of(step: str, lab: Lab, **parts: Any) -> str:
    """Digest of all that a record depends on: schema, llama.cpp's build, and what the step names."""
    return digest({"step": step, "schema": SCHEMA_VERSION, "engine": lab.engine, **parts})


@dataclass(frozen=True, slots=True)
class Step:
    """One step for one format.

    Attributes:
        fresh: the record if it is there and still true, else None.
        make: makes and stores it anew. Raises LabError.
    """

    name: str
    label: str
    fresh: Callable[[Lab], object | None]
    make: Callable[[Lab, OnProgress | None], object]


def stored(lab: Lab, step: str, label: str, kind: type[RecordT], key: str) -> RecordT | None:
    """A step's record if it was made under this very key."""
    record = read_record(lab.folder.record_path(step, label), kind)
    provenance = getattr(record, "provenance", None)
    return record if provenance is not None and provenance.key == key else None


# -- quantize ---------------------------------------------------------------------------------------------------------


def _quantize_key(lab: Lab, label: str) -> str:
    imatrix = imatrix_of(lab, label)
    parts = {} if imatrix is None else {"imatrix": imatrix.key}
    return key_of(
        "quantize", lab, source=lab.model.sha256, format=label, requantize=lab.model.quantized, **parts
    )  # fmt: skip


def imatrix_of(lab: Lab, label: str) -> Imatrix | None:
    """The importance matrix that a format is made with: the lab's, if the format can use one."""
    return lab.imatrix if label != lab.model.baseline and FORMATS[label].uses_imatrix else None


def fresh_file(lab: Lab, label: str) -> GgufFile | None:
    """The record of a format's file, if the file is there and unchanged since."""
    record = stored(lab, "quantize", label, GgufFile, _quantize_key(lab, label))
    if record is None:
        return None
    paths = lab.source_files if label == lab.model.baseline else (lab.gguf_path(label),)
    if not all(path.is_file() for path in paths) or sum(path.stat().st_size for path in paths) != record.size_bytes:
        return None
    return record if model_sha256(paths, lab.digests.sha256) == record.sha256 else None


def load_source(lab: Lab) -> Lab:
    """Open the source once before anything is made of it: what is wrong with it is wrong with every format.

    Returns: the lab, with what llama.cpp warned of among the model's notices.
    Raises:
        LabError: its weights are not numbers, or llama.cpp does not take it; for all formats.
    """
    label = lab.model.baseline
    task = tasks.LoadTask(model_path=lab.model.path, format=label, n_threads=lab.n_threads)
    try:
        lab.run(task, bool, heard.LOAD, label, None)
    except ChildError as error:
        hint = f"{error.hint} llama.cpp's log: {error.log_path}."
        raise ChildError(error.message, hint, error.log_path, error.log_tail, for_all=True) from error
    return lab.with_notices()


def quantize_task(lab: Lab, label: str, *, provenance: Provenance, **options: Any) -> tasks.QuantizeTask:
    """The task that makes a format's file, or with dry_run says how large it would be."""
    path = lab.gguf_path(label)
    return tasks.QuantizeTask(
        model_path=lab.model.path,
        format=label,
        n_threads=lab.n_threads,
        target_path=str(path),
        shown_path=path.name,
        allow_requantize=lab.model.quantized,
        provenance=provenance,
        **options,
    )


def _make_file(lab: Lab, label: str, on_progress: OnProgress | None) -> GgufFile:
    provenance = lab.provenance(
        "quantize",
        _quantize_key(lab, label),
        {"model": lab.model.sha256},
        {"format": label, "n_threads": lab.n_threads, "allow_requantize": lab.model.quantized},
    )
    path = lab.gguf_path(label)
    imatrix = imatrix_of(lab, label)
    if label == lab.model.baseline:
        from labctl.prepare.quantize import audit

        record = audit(path, label, provenance, shown_path=lab.model.path, sha256=lab.model.sha256)
    else:
        task = quantize_task(
            lab,
            label,
            imatrix_path="" if imatrix is None else str(_need_imatrix(lab, imatrix)),
            imatrix_shown="" if imatrix is None else imatrix.shown,
            provenance=provenance,
        )
        record = lab.run(task, GgufFile, "quantize", label, on_progress)
        lab.digests.remember(path, record.sha256)
    write_record(lab.folder.record_path("quantize", label), record)
    return record


def _need_imatrix(lab: Lab, imatrix: Imatrix) -> Path:
    from labctl.prepare.imatrix import ensure_imatrix

    return ensure_imatrix(imatrix, lab.model, lab.n_threads, lab.folder.log_path("imatrix"))


def need_file(lab: Lab, label: str) -> GgufFile:
    """The file that a measurement needs.

    Raises:
        LabError: it was not made.
    """
    record = fresh_file(lab, label)
    if record is None:
        raise LabError(f"There is no {label} file of {lab.model.name}.", f"Make it first: {lab.command('quantize')}")
    return record


# -- generate ---------------------------------------------------------------------------------------------------------


def _generate_settings(lab: Lab) -> dict[str, Any]:
    config = lab.config
    return {
        "prompts": list(PROMPTS),
        "n_tokens": lab.reach.new_tokens(config.new_tokens),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": config.seed,
        "n_ctx": max(config.ctx, 512),
        "questions_side_by_side": _SIDE_BY_SIDE,
        "probe_items": config.n_probe_items(lab.is_demo),
    }


def _probe_digests(lab: Lab) -> dict[str, str]:
    return {name: lab.digests.sha256(path) for name, path in lab.probes.items()}


def _generate_key(lab: Lab, label: str) -> str:
    return key_of(
        "generate", lab, file=need_file(lab, label).sha256, machine=lab.machine.machine_id, n_threads=lab.n_threads,
        probes=_probe_digests(lab), **_generate_settings(lab),
    )  # fmt: skip


def prompt_path(lab: Lab, label: str, number: int, decoding: str) -> Path:
    """outputs/<model>/<format>/prompt_<n>.txt, and prompt_<n>_greedy.txt beside it."""
    return lab.folder.root / prompt_file(label, number, decoding)


def _fresh_generation(lab: Lab, label: str) -> GenerationRun | None:
    record = stored(lab, "generate", label, GenerationRun, _generate_key(lab, label))
    if record is None:
        return None
    paths = [prompt_path(lab, label, one.prompt_number, one.decoding) for one in record.generations]
    return record if all(path.is_file() for path in paths) else None


def _make_generation(lab: Lab, label: str, on_progress: OnProgress | None) -> GenerationRun:
    settings = _generate_settings(lab)
    task = tasks.GenerateTask(
        model_path=str(lab.gguf_path(label)),
        format=label,
        n_threads=lab.n_threads,
        n_ctx=settings["n_ctx"],
        n_side=settings["questions_side_by_side"],
        prompts=tuple(settings["prompts"]),
        n_tokens=settings["n_tokens"],
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        seed=settings["seed"],
        probes={name: str(path) for name, path in lab.probes.items()},
        probe_items=settings["probe_items"],
        provenance=lab.provenance(
            "generate",
            _generate_key(lab, label),
            {"model": need_file(lab, label).sha256, **_probe_digests(lab)},
            {**settings, "n_threads": lab.n_threads},
        ),
    )
    record = lab.run(task, GenerationRun, "generate", label, on_progress)
    for one in record.generations:
        write_text(prompt_path(lab, label, one.prompt_number, one.decoding), one.prompt + one.text + "\n")
    write_record(lab.folder.record_path("generate", label), record)
    return record


# -- memory -----------------------------------------------------------------------------------------------------------


def _memory_key(lab: Lab, label: str) -> str:
    return key_of(
        "memory", lab, file=need_file(lab, label).sha256, machine=lab.machine.machine_id, n_ctx=lab.config.ctx,
        n_threads=lab.n_threads, n_prompt=N_PROMPT, n_gen=MEMORY_GEN,
    )  # fmt: skip


def _make_memory(lab: Lab, label: str, on_progress: OnProgress | None) -> MemoryRun:
    loads = []
    for number, mmap in enumerate((False, True)):
        task = tasks.MemoryTask(
            model_path=str(lab.gguf_path(label)),
            format=label,
            n_threads=lab.n_threads,
            n_ctx=lab.config.ctx,
            mmap=mmap,
        )
        loads.append(lab.run(task, MemoryLoad, "memory", label, None))
        if on_progress is not None:
            on_progress(tasks.Progress(done=number + 1, total=2))
    settings = {"n_ctx": lab.config.ctx, "n_threads": lab.n_threads, "n_prompt": N_PROMPT, "n_gen": MEMORY_GEN}
    record = MemoryRun(
        format=label,
        n_ctx=lab.config.ctx,
        n_threads=lab.n_threads,
        loads=tuple(loads),
        provenance=lab.provenance(
            "memory", _memory_key(lab, label), {"model": need_file(lab, label).sha256}, settings
        ),
    )  # fmt: skip
    write_record(lab.folder.record_path("memory", label), record)
    return record


# -- all --------------------------------------------------------------------------------------------------------------


def quantize_step(label: str) -> Step:
    return Step("quantize", label, lambda lab: fresh_file(lab, label), lambda lab, on: _make_file(lab, label, on))


def generate_step(label: str) -> Step:
    return Step(
        "generate", label, lambda lab: _fresh_generation(lab, label), lambda lab, on: _make_generation(lab, label, on)
    )


def memory_step(label: str) -> Step:
    return Step(
        "memory",
        label,
        lambda lab: stored(lab, "memory", label, MemoryRun, _memory_key(lab, label)),
        lambda lab, on: _make_memory(lab, label, on),
    )
