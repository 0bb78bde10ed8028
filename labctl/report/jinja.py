"""The templates of the worksheet and of the page."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from labctl.report.text import escape, prose

if TYPE_CHECKING:
    from jinja2 import Environment


@functools.cache
def environment(package: str, *, html: bool = False) -> Environment:
    """The templates in a package; an unknown name in one of them is an error.

    Args:
        html: escape every value for HTML; else the filters `md` and `prose` do it for Markdown.
    """
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=html,
    )
    made.filters |= {"md": escape, "prose": prose}
    return made
