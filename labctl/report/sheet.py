"""What worksheet and recommendation are made from: a lab's figures, and the answers that several places need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from labctl.lab.config import Weights
from labctl.records.base import Machine
from labctl.report import tradeoffs
from labctl.report.board import Boards, boards
from labctl.report.demo_training import training_note
from labctl.report.figures import Figures
from labctl.report.gaps import Gap, gaps
from labctl.report.order import Orders
from labctl.report.rules import Answer, in_ram, production
from labctl.report.uses import minimum_formats, reasoning
from labctl.steps.measured import Measured


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One lab as the worksheet shows it; each answer is worked out when it is first asked for.

    Attributes:
        weights: of size, quality and speed in the combined score (Q15).
        limit: largest acceptable increase of perplexity, as a fraction.
        machine: shown if no record names one.
        charts: those that were drawn, each as from `Chart.entry`.
        answers: the student's own words by number of the question.
        blank: leave a line instead of a draft.
        q13_limits: the student's allowances of Q13; what it leaves out has its default.
    """

    records: Measured
    figures: Figures
    weights: Weights
    limit: float
    machine: Machine | None = None
    charts: Sequence[Mapping[str, str]] = ()
    answers: Mapping[int, str] = field(default_factory=dict)
    blank: bool = False
    q13_limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return self.records.formats[0]

    @property
    def not_original(self) -> str:
        """What stands behind every answer of a lab whose source was quantized already."""
        return f" The baseline {self.base} is not the original model." if self.records.model.quantized else ""

    @cached_property
    def orders(self) -> Orders:
        return Orders(self.records, self.figures)

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        return gaps(self.records)

    @cached_property
    def boards(self) -> Boards:
        return boards(self.figures, self.orders, self.weights)

    @cached_property
    def training_note(self) -> str:
        return training_note(self.records)

    @cached_property
    def production(self) -> Answer:
        """Q10, which the recommendation and Q18 rest on."""
        return production(self.records, self.figures, self.limit)

    @cached_property
    def reasoning(self) -> Answer:
        """Q7."""
        return reasoning(self.figures, self.base, self.q13_limits)

    @cached_property
    def in_8_gb(self) -> Answer:
        """Q9."""
        return in_ram(self.records, self.figures, self.orders, 8)

    @cached_property
    def sweet_spot(self) -> Answer:
        """Q11."""
        return tradeoffs.sweet_spot(self.figures, self.boards)

    @cached_property
    def uses(self) -> list[tuple[str, Answer]]:
        """Q13: use -> the least format for it."""
        return minimum_formats(self.figures, self.base, self.q13_limits)
