"""Generate step: sample outputs and answers to probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from labctl.executors.base import OnProgress
from labctl.lab.config import LabConfig
from labctl.lab.lab import Lab, key_of
from labctl.lab.prompts import OwnPrompt, read_prompts
from labctl.lab.reach import PROMPT_ROOM
from labctl.records.digests import digest
from labctl.records.disk import remove_partials, write_text
from labctl.records.places import typed
from labctl.records.store import write_record
from labctl.steps.base import Case, Step
from labctl.steps.files import need_file
from labctl.steps.generate.record import GenerateTask, GenerationRun, Written, prompt_file
from labctl.steps.rates import Rates

_SIDE_BY_SIDE = 16  # questions of a probe, where a cache of 512 tokens has room for them
_LARGE = 500_000_000  # parameters: from here on a text alone takes minutes, since all weights are read for each token
_ALL_QUESTIONS = 200  # of a probe of the demo, about
_QUESTION_TOKENS = 25  # a question and its answer, side by side with others, in prompt tokens of the same time

PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "To solve this math problem, first we need to",
    "In the field of artificial intelligence,",
    "Step-by-step reasoning: If x = 5 and y = 3, then x + y =",
)
"""The course's five prompts, in the worksheet's order."""


def texts_side_by_side(n_params: int) -> int:
    """How many sample texts are written side by side.

    One of a small model: alone, a text is token by token the one that llama-completion writes. All of a large one, in a
    quarter to half of the time; then sums come out in another order, and a text may turn elsewhere.
    """
    return len(PROMPTS) if n_params >= _LARGE else 1


def _task(lab: Lab, label: str) -> GenerateTask:
    config = lab.config
    n_tokens, n_side_texts = lab.reach.new_tokens(config.new_tokens), texts_side_by_side(lab.source.n_params)
    room = n_side_texts * (PROMPT_ROOM + n_tokens)
    return GenerateTask(
        model_path=str(lab.gguf_path(label)),
        format=label,
        n_threads=lab.n_threads,
        n_ctx=max(config.ctx, 512, min(room, lab.reach.limit) if n_side_texts > 1 else 0),
        n_side=_SIDE_BY_SIDE,
        n_side_texts=n_side_texts,
        prompts=PROMPTS,
        n_tokens=n_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
        probes={name: str(path) for name, path in lab.probes.items()},
        probe_items=config.n_probe_items(lab.is_demo),
        own=own_prompts(config),
        system=(config.system or "") if config.prompts is not None else "",
        n_ctx_limit=lab.reach.limit,
    )


def own_prompts(config: LabConfig) -> tuple[OwnPrompt, ...]:
    """The student's own prompts; none where no file is named."""
    return () if config.prompts is None else read_prompts(config.prompts)


def _settings(task: GenerateTask) -> dict[str, object]:
    plain = ("n_tokens", "temperature", "top_p", "seed", "n_ctx", "probe_items")
    made = {name: getattr(task, name) for name in plain}
    if task.n_side_texts > 1:
        made["texts_side_by_side"] = task.n_side_texts
    if task.own:
        # The template is part of the model's file, whose digest is in the key.
        chats = [[(one.role, one.content) for one in own.messages] for own in task.own]
        made["own_prompts"] = digest({"prompts": chats})
        made["system"] = task.system
    return {**made, "prompts": list(task.prompts), "questions_side_by_side": task.n_side}


def _probe_digests(lab: Lab) -> dict[str, str]:
    return {name: lab.digests.sha256(path) for name, path in lab.probes.items()}


def _generate_key(lab: Lab, label: str, kept: Mapping[str, object] | None = None) -> str:
    """Digest of what a record depends on.

    Args:
        kept: settings of the record itself, in place of what the lab's say.
    """
    return key_of(
        "generate",
        lab,
        file=need_file(lab, label).sha256,
        machine=lab.machine.machine_id,
        n_threads=lab.n_threads,
        probes=_probe_digests(lab),
        **{**_settings(_task(lab, label)), **(kept or {})},
    )


def prompt_path(lab: Lab, label: str, number: int, decoding: str) -> Path:
    """outputs/<model>/<format>/prompt_<n>.txt, and prompt_<n>_greedy.txt beside it."""
    return lab.folder.root / prompt_file(label, number, decoding)


def _make_generation(lab: Lab, label: str, on_progress: OnProgress | None) -> GenerationRun:
    task = _task(lab, label)
    written = lab.run(task, Written, "generate", label, on_progress)
    record = GenerationRun(
        format=label,
        generations=written.generations,
        probes=written.probes,
        prompts_s=written.prompts_s,
        probes_s=written.probes_s,
        own=written.own,
        template_fault=written.template_fault,
        provenance=lab.provenance(
            "generate",
            _generate_key(lab, label),
            {"model": need_file(lab, label).sha256, **_probe_digests(lab)},
            {**_settings(task), "n_threads": lab.n_threads},
        ),
    )
    for one in record.generations:
        write_text(prompt_path(lab, label, one.prompt_number, one.decoding), one.prompt + one.text + "\n")
    for own in record.own:
        write_text(prompt_path(lab, label, own.prompt_number, own.decoding), own.sent + own.text + "\n")
    write_record(lab.folder.record_path("generate", label), record)
    return record


class Generate(Step[GenerationRun]):
    """Sample outputs, and answers to questions with known answers."""

    name = "generate"
    words = "text and probes"
    record = GenerationRun
    asks = "text"
    settings = ("ctx", "threads", "temperature", "top_p", "seed", "new_tokens", "probe_items", "prompts", "system")
    unit = "item"
    figure = "right answers"
    claim = "sample outputs are the records'"

    def key(self, lab: Lab, case: Case) -> str:
        return _generate_key(lab, case.format)

    def fresh(self, lab: Lab, case: Case) -> GenerationRun | None:
        prompts = lab.config.prompts
        if prompts is None or typed(prompts).is_file():
            return super().fresh(lab, case)
        # The file of own prompts is gone: what was written for them stands, as everything else does.
        record = self.read(lab.folder, case)
        kept = (
            {} if record is None else {name: record.provenance.settings.get(name) for name in ("own_prompts", "system")}
        )
        without = lab.having({"prompts": None})
        if record is None or record.provenance.key != _generate_key(without, case.format, kept):
            return None
        return record if all((lab.folder.root / name).is_file() for name in self.raw(record)) else None

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        n_side = texts_side_by_side(rates.n_params)
        # A step of five texts is as long as one token where weights are read only, and longer where they are unpacked.
        step_s = rates.token_s * (1.0 if n_side == 1 else 1.2 if rates.is_float else 2.6)
        n_texts = 2 * (len(PROMPTS) + len(own_prompts(lab.config)))
        n_steps = n_texts * lab.config.new_tokens / n_side
        n_questions = len(lab.probes) * (lab.config.n_probe_items(lab.is_demo) or _ALL_QUESTIONS)
        return rates.process_s(n_prompt=_QUESTION_TOKENS * n_questions) + n_steps * step_s

    def make(self, lab: Lab, case: Case, on_progress: OnProgress | None) -> GenerationRun:
        return _make_generation(lab, case.format, on_progress)

    def outcome(self, record: GenerationRun) -> str:
        n_answers = sum(len(probe.answers) for probe in record.probes)
        return f"{sum(probe.n_correct for probe in record.probes)} of {n_answers}" if n_answers else ""

    def raw(self, record: GenerationRun) -> tuple[str, ...]:
        texts = (*record.generations, *record.own)
        return tuple(prompt_file(record.format, one.prompt_number, one.decoding) for one in texts)

    def asked_of(self, record: GenerationRun) -> dict[str, object]:
        # The record holds the prompts themselves, not the file that they came from.
        return {name: value for name, value in super().asked_of(record).items() if name not in ("prompts", "system")}

    def sweep(self, lab: Lab) -> None:
        for label in lab.formats:
            remove_partials(prompt_path(lab, label, 1, "greedy").parent)

    def doubts(self, record: GenerationRun, folder: Path) -> Iterator[str]:
        texts = [f"{one.prompt}{one.text}\n" for one in record.generations]
        texts += [f"{one.sent}{one.text}\n" for one in record.own]
        for text, name in zip(texts, self.raw(record), strict=True):
            try:
                there = (folder / name).read_bytes()
            except OSError:
                there = b""
            if there.decode("utf-8", "replace") != text:
                yield name


GENERATE = Generate()
