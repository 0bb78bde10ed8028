"""Noise step: how far the baseline is from itself where only the arithmetic differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from labctl.executors.base import OnProgress
from labctl.lab.lab import Lab, key_of
from labctl.records.units import significant
from labctl.steps.base import Case, Scope, Step
from labctl.steps.files import need_file
from labctl.steps.noise.record import N_AT_ONCE, N_CHUNKS, NoiseRun, NoiseTask, Repeated
from labctl.steps.perplexity.step import ORDER_SEED, PROTOCOL, tokens_path
from labctl.steps.rates import Rates

_NOT_WHOLE = "Its figures do not fit its chunks"
_SLOWER = 2  # times a chunk as perplexity computes it: once as usual, once in small pieces


class Noise(Step[NoiseRun]):
    """What arithmetic alone changes: the baseline against itself, computed in another order."""

    name = "noise"
    record = NoiseRun
    asks = "logits"
    settings = ("text", "ctx")
    unit = "chunk"
    figure = "KL divergence from itself"
    claim = "the noise of arithmetic has possible figures of every chunk"

    def cases(self, scope: Scope) -> tuple[Case, ...]:
        return (self.case(scope, scope.model.baseline),)

    def _settings(self, lab: Lab) -> dict[str, object]:
        return {"n_ctx": lab.config.ctx, "n_chunks": N_CHUNKS, "n_at_once": N_AT_ONCE, "order_seed": ORDER_SEED}

    def key(self, lab: Lab, case: Case) -> str:
        return key_of(
            self.name,
            lab,
            file=need_file(lab, case.format).sha256,
            text=lab.text.sha256,
            protocol=PROTOCOL,
            machine=lab.machine.machine_id,
            **self._settings(lab),
        )

    def seconds(self, lab: Lab, case: Case, rates: Rates) -> float:
        return rates.process_s(n_prompt=lab.config.ctx * N_CHUNKS * _SLOWER)

    def make(self, lab: Lab, case: Case, on_progress: OnProgress | None) -> NoiseRun:
        path = tokens_path(lab)
        task = NoiseTask(
            model_path=str(lab.gguf_path(case.format)),
            format=case.format,
            n_threads=lab.n_threads,
            text=lab.text,
            n_ctx=lab.config.ctx,
            order_seed=ORDER_SEED,
            tokens_path=str(path) if path.is_file() else "",
        )
        found = lab.run(task, Repeated, self.name, case.format, on_progress)
        record = NoiseRun(
            chunks=found.chunks,
            differences=found.differences,
            klds=found.klds,
            same_tops=found.same_tops,
            format=case.format,
            text=lab.text,
            n_ctx=lab.config.ctx,
            n_at_once=N_AT_ONCE,
            provenance=lab.provenance(
                self.name,
                self.key(lab, case),
                {"model": need_file(lab, case.format).sha256, "text": lab.text.sha256},
                {**self._settings(lab), "n_threads": lab.n_threads},
            ),
        )
        self.write(lab.folder, case, record)
        return record

    def outcome(self, record: NoiseRun) -> str:
        return significant(sum(record.klds) / len(record.klds), 2) if record.is_whole else ""

    def unusable(self, records: Mapping[str, NoiseRun], folder: Path) -> Mapping[str, str]:
        return {name: f"{_NOT_WHOLE}." for name, record in records.items() if not record.is_whole}

    def doubts(self, record: NoiseRun, folder: Path) -> Iterator[str]:
        if not record.is_whole:
            yield _NOT_WHOLE


NOISE = Noise()
