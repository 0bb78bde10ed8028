"""A child process: one task in on stdin, events and the record out on stdout, llama.cpp's log on stderr.

llama.cpp aborts its process on a failed assertion and holds Ctrl-C back while it computes. So it lives here, and labctl
itself survives it. The child ends when its parent does: stdin closes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO, NoReturn

import msgspec

from labctl.engines.llama_cpp.tasks import EngineTask, LoadTask
from labctl.errors import LabError
from labctl.executors.base import AnyEvent, Failure, Progress, Result, Task
from labctl.machine.surroundings import fault
from labctl.steps.generate.record import GenerateTask
from labctl.steps.memory.record import MemoryTask
from labctl.steps.perplexity.record import PerplexityTask
from labctl.steps.quantize.record import QuantizeTask
from labctl.steps.speed.record import BatchTask, BenchTask

# A crash of llama.cpp is reported by the parent; its own backtrace would start a debugger.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
# numpy's matrix library starts a thread for every processor, which would spin beside llama.cpp's for a while.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


class Channel:
    """Where events go: the stdout this process was started with."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._last = 0.0

    def send(self, event: AnyEvent) -> None:
        self._stream.write(msgspec.json.encode(event) + b"\n")
        self._stream.flush()

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Report at most ten times a second, and always the end."""
        now = time.monotonic()
        if done >= total or now - self._last >= 0.1:
            self._last = now
            self.send(Progress(done=done, total=total, note=note))


def main() -> int:
    """Take the task from stdin's first line, do it, report."""
    _limit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    channel = _claim_stdout()
    line = _read_line()
    try:
        task = msgspec.json.decode(line, type=Task)
        threading.Thread(target=_die_with_parent, daemon=True).start()
        warnings: list[str] = []
        record = _run(task, channel, warnings)
        said = tuple(dict.fromkeys(warnings))
        channel.send(Result(record=msgspec.Raw(msgspec.json.encode(record)), warnings=said))
    except LabError as error:
        channel.send(Failure(message=error.message, hint=error.hint, for_all=error.for_all))
        return 1
    except Exception as error:
        found = fault(error)
        if found is None:
            raise
        channel.send(Failure(message=found.message, hint=found.hint, for_all=not isinstance(error, MemoryError)))
        return 1
    return 0


def _limit(address_space_bytes: int) -> None:
    """Limit this process's address space (0: not at all), and write no core file if it crashes."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if address_space_bytes <= 0:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = address_space_bytes if hard == resource.RLIM_INFINITY else min(address_space_bytes, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _read_line() -> bytes:
    """The first line of stdin; the pipe stays open behind it."""
    data = bytearray()
    while not data.endswith(b"\n") and (block := os.read(0, 1 << 16)):
        data += block
    return bytes(data)


def _claim_stdout() -> Channel:
    """Keep stdout for events only; whatever a library prints goes to the log on stderr."""
    events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return Channel(events)


def _die_with_parent() -> None:
    """End at once when the parent is gone, however it went: nobody would read the result."""
    while os.read(0, 1):  # not sys.stdin: its lock, held here, would abort Python's shutdown
        pass
    os._exit(3)


def _log(line: str) -> None:
    # Names and texts of a stranger's file come along; whoever looks at the log has a terminal.
    sys.stderr.write("".join(c if c.isprintable() or c == "\t" else "�" for c in line) + "\n")


def _run(task: Task, channel: Channel, warnings: list[str]) -> object:
    from labctl.engines.llama_cpp.binding import Llama

    llama = Llama(log_line=_log, warnings=warnings)
    match task:
        case EngineTask():
            return _engine(llama, task)
        case LoadTask():
            return _load(llama, task)
        case QuantizeTask():
            return _quantize(llama, task, channel)
        case PerplexityTask():
            from labctl.steps.perplexity.work import measure_perplexity

            return measure_perplexity(llama, task, channel.progress)
        case BenchTask():
            from labctl.steps.speed.work import bench_visit

            return bench_visit(
                llama,
                Path(task.model_path),
                n_threads=task.n_threads,
                n_prompt=task.n_prompt,
                n_gen=task.n_gen,
                effort=task.effort,
                round_number=task.round,
                order=task.order,
                deadline_s=task.deadline_s,
            )
        case BatchTask():
            from labctl.steps.speed.work import bench_batches

            return bench_batches(
                llama,
                Path(task.model_path),
                task.format,
                n_threads=task.n_threads,
                n_prompt=task.n_prompt,
                n_gen=task.n_gen,
                n_seqs=task.n_seqs,
                n_reps=task.n_reps,
                deadline_s=task.deadline_s,
                on_progress=channel.progress,
            )
        case MemoryTask():
            from labctl.steps.memory.work import measure_load

            return measure_load(
                llama, Path(task.model_path), n_ctx=task.n_ctx, n_threads=task.n_threads, mmap=task.mmap
            )
        case GenerateTask():
            return _generate(llama, task, channel)


def _engine(llama: object, task: EngineTask) -> dict[str, str]:
    """Version and CPU features; with a model, quantize it and read a few tokens to see that the build computes."""
    import tempfile

    from labctl.engines.llama_cpp.binding import Context, Llama, Model
    from labctl.engines.llama_cpp.formats import FORMATS
    from labctl.engines.llama_cpp.quantizer import quantize_file

    assert isinstance(llama, Llama)
    if task.model_path:
        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / "engine.gguf"
            for name in ("Q8_0", "Q4_K_M"):
                quantize_file(llama, Path(task.model_path), small, FORMATS[name].ftype, n_threads=task.n_threads)
                with Model(llama, small) as model, Context(model, n_ctx=64, n_threads=task.n_threads) as context:
                    context.prompt([token % model.n_vocab for token in range(64)])
                    context.synchronize()
    return {"llama_cpp": llama.version(), "system_info": llama.system_info()}


def _load(llama: object, task: LoadTask) -> bool:
    import numpy as np

    from labctl.engines.llama_cpp.binding import Context, Llama, Model
    from labctl.engines.llama_cpp.gguf.kind import other_kind
    from labctl.engines.llama_cpp.gguf.weights import require_finite

    assert isinstance(llama, Llama)
    path = Path(task.model_path)
    require_finite(path)
    with contextlib.ExitStack() as opened:
        model = opened.enter_context(Model(llama, path))
        context = opened.enter_context(Context(model, n_ctx=64, n_threads=task.n_threads)) if model.is_decoder else None
        if context is None or not context.is_causal:
            raise other_kind(path.name, "no causal decoder: by llama.cpp, it predicts no next token from those before")
        context.prompt([token % model.n_vocab for token in range(min(32, model.n_ctx_train))])
        context.synchronize()
        if not np.isfinite(context.logits(1)).all():
            raise LabError(
                f"{path.name} computes no probabilities (NaN): its weights overflow.",
                "Download or make the file again from the original.",
            )
    return True


def _quantize(llama: object, task: QuantizeTask, channel: Channel) -> object:
    from collections.abc import Sequence

    from labctl.engines.llama_cpp.binding import Llama
    from labctl.engines.llama_cpp.formats import FORMATS, Format
    from labctl.engines.llama_cpp.gguf.header import read_model
    from labctl.engines.llama_cpp.imatrix import read_imatrix
    from labctl.engines.llama_cpp.quantizer import quantize_file
    from labctl.steps.quantize.audit import audit
    from labctl.steps.quantize.work import planned_bytes, quantize, read_progress

    assert isinstance(llama, Llama)
    imatrix_path = Path(task.imatrix_path)
    imatrix = read_imatrix(imatrix_path) if task.imatrix_path else None

    def on_line(line: str) -> None:
        _log(line)
        if position := read_progress(line):
            channel.progress(*position)

    def run(source: Path, target: Path, format_: Format, dry_run: bool) -> Sequence[str]:
        llama.clear_log()
        llama.log_line = _log if dry_run else on_line
        quantize_file(
            llama,
            source,
            target,
            format_.ftype,
            n_threads=task.n_threads,
            dry_run=dry_run,
            allow_requantize=task.allow_requantize,
            imatrix=None if imatrix is None else imatrix.entries,
            metadata=() if imatrix is None else imatrix.metadata(imatrix_path.name),
        )
        return list(llama.lines)

    source, target = Path(task.model_path), Path(task.target_path)
    if task.dry_run:
        header, _ = read_model(source)
        return planned_bytes(header, run(source, target, FORMATS[task.format], True))
    begun = time.perf_counter()
    fallbacks = quantize(source, target, FORMATS[task.format], run)
    spent = time.perf_counter() - begun
    return audit(
        target, task.format, task.provenance, shown_path=task.shown_path, fallbacks=fallbacks, quantize_s=spent,
        imatrix=task.imatrix_shown,
    )  # fmt: skip


def _generate(llama: object, task: GenerateTask, channel: Channel) -> object:
    from labctl.engines.llama_cpp.binding import Llama, Model
    from labctl.steps.generate.probes import evenly, read_probe
    from labctl.steps.generate.record import GenerationRun, ProbeResult
    from labctl.steps.generate.writer import ANSWER_TOKENS, Writer

    assert isinstance(llama, Llama)
    probes = {name: evenly(read_probe(Path(path)), task.probe_items) for name, path in task.probes.items()}
    n_prompts = 2 * len(task.prompts) * task.n_tokens  # tokens, as all counts here
    total = n_prompts + ANSWER_TOKENS * sum(len(questions) for questions in probes.values())
    begun = time.perf_counter()
    with (
        Model(llama, Path(task.model_path)) as model,
        Writer(llama, model, n_ctx=task.n_ctx, n_threads=task.n_threads, n_side=task.n_side) as writer,
    ):
        generations = writer.write(
            task.prompts,
            n_tokens=task.n_tokens,
            temperature=task.temperature,
            top_p=task.top_p,
            seed=task.seed,
            on_progress=functools.partial(_tell, channel, 0, total, "prompts"),
        )
        written = time.perf_counter()
        results: list[ProbeResult] = []
        for name, questions in probes.items():
            before = n_prompts + ANSWER_TOKENS * sum(len(one.answers) for one in results)
            told = functools.partial(_tell, channel, before, total, name)
            results.append(ProbeResult(name=name, answers=writer.answer(questions, told)))
        answered = time.perf_counter()
    return GenerationRun(
        format=task.format,
        generations=tuple(generations),
        probes=tuple(results),
        prompts_s=written - begun,
        probes_s=answered - written,
        provenance=task.provenance,
    )


def _tell(channel: Channel, before: int, total: int, note: str, done: int) -> None:
    channel.progress(before + done, total, note)


def leave() -> NoReturn:
    """Do the task and end at once: Python's own tidying up would only take time."""
    status = main()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave()
