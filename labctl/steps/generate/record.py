"""What the generate step asks of its child, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from labctl.executors.base import Task
from labctl.lab.prompts import OwnPrompt
from labctl.records.base import Provenance
from labctl.records.disk import safe_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A continuation of one prompt.

    Attributes:
        prompt_number: as on the worksheet, from 1.
        decoding: "sampled" (temperature, top-p, seed of the provenance's settings) or "greedy".
        tokens: ids of the new tokens, without the prompt's; an end-of-text token ends the list and is not in it.
        text: the new tokens as text (invalid UTF-8 replaced).
    """

    prompt_number: int
    prompt: str
    decoding: Literal["sampled", "greedy"]
    tokens: tuple[int, ...]
    text: str
    pieces: tuple[str, ...]
    n_prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnText(Generation):
    """A continuation of, or an answer to, one of the student's own prompts, numbered after the course's.

    Attributes:
        prompt: as it was typed; of a chat the contents of its messages.
        sent: what the model was given.
        chat: by its own chat template.
    """

    sent: str
    chat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """One question of a probe, answered greedily.

    Attributes:
        in_demo_training: whether the demo model was trained on it; None where nobody says.
    """

    prompt: str
    expected: str
    output: str
    correct: bool
    in_demo_training: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """A list of questions with known answers, scored. `name` is the CSV file's stem: capitals, sums, ..."""

    name: str
    answers: tuple[ProbeAnswer, ...]

    @property
    def n_correct(self) -> int:
        return sum(answer.correct for answer in self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a generate task wrote.

    Attributes:
        prompts_s, probes_s: seconds for all of the course's prompts, each both ways, and for all questions.
        own: of the student's own prompts; no figure is made from them.
        template_fault: why the model's chat template could not be used for these, without a full stop.
    """

    generations: tuple[Generation, ...]
    probes: tuple[ProbeResult, ...]
    prompts_s: float = 0.0
    probes_s: float = 0.0
    own: tuple[OwnText, ...] = ()
    template_fault: str = ""

    def find(self, prompt_number: int, decoding: str) -> Generation | None:
        for generation in self.generations:
            if (generation.prompt_number, generation.decoding) == (prompt_number, decoding):
                return generation
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRun(Written):
    """Sample outputs and probes of one file."""

    format: str
    provenance: Provenance


class GenerateTask(Task, frozen=True, kw_only=True):
    """Continue the prompts and answer the probes.

    Attributes:
        probes: name -> path of the CSV file.
        probe_items: at most so many questions of each, evenly spread; None for all.
        n_side: most questions of a probe side by side.
        n_side_texts: most sample texts side by side.
        own: the student's own prompts, numbered after `prompts`.
        system: the message that stands before them in a chat.
        n_ctx_limit: tokens that the model takes.
    """

    name = "generate"
    work = "labctl.steps.generate.work:generate"

    n_ctx: int
    n_side: int
    n_side_texts: int
    prompts: tuple[str, ...]
    n_tokens: int
    temperature: float
    top_p: float
    seed: int
    probes: dict[str, str]
    probe_items: int | None
    own: tuple[OwnPrompt, ...] = ()
    system: str = ""
    n_ctx_limit: int = 0

    def n_ctx_open(self) -> int:
        longest = max((len(prompt.text.encode()) for prompt in self.own), default=0)
        return max(self.n_ctx, min(self.n_ctx_limit, longest + len(self.system.encode()) + self.n_tokens + 1024))


def prompt_file(label: str, number: int, decoding: str) -> str:
    """<format>/prompt_<n>.txt, and prompt_<n>_greedy.txt beside it, in the model's outputs folder."""
    return f"{safe_name(label)}/prompt_{number}{'' if decoding == 'sampled' else '_greedy'}.txt"
