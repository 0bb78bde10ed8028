"""What a question of the worksheet is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from labctl.report.sheet import Sheet

Kind = Literal["measured", "rule", "weighed", "judged"]
"""What answers it: a table; a written rule; a rule that depends on what one weighs; the student, from a draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question, with all that stands under it.

    Attributes:
        title: as it is asked; {base}, {limit} and {weights} are filled in.
        values: what the template prints, from the sheet.
        template: the section in Jinja and Markdown, with the macros of templates/macros.md.j2: own(), ruled(answer),
            drafted(text), source(step), charts_at(place), see_training().
    """

    number: int
    title: str
    kind: Kind
    values: Callable[[Sheet], dict[str, object]]
    template: str

    @property
    def name(self) -> str:
        """As in answers.toml: Q7."""
        return f"Q{self.number}"

    def asked(self, sheet: Sheet) -> str:
        """The title for this lab."""
        limit, weights = f"{100 * sheet.limit:g} %", [100 * weight for weight in sheet.weights]
        return self.title.format(base=sheet.base, limit=limit, weights=weights)
