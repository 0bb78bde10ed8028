"""Our own Markdown as HTML for the page: one source for both, and nothing in it can run or load anything."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labctl.report.text import with_units

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

_OWN_TAGS = frozenset({"<sub>", "</sub>", "<strong>", "</strong>"})


def to_html(markdown: str, images: Mapping[str, str], *, shift: int = 0, prefix: str = "") -> str:
    """Markdown of the worksheet's kind as HTML.

    Raw HTML shows as the text it is, except <sub> and <strong>. An image is drawn only if it is one of `images`: any
    other would be a request to somewhere.

    Args:
        images: file name as in the Markdown -> data URI.
        shift: how many levels deeper each heading goes.
        prefix: put before the id of each heading, so that two documents share a page.
    """
    from markdown_it import MarkdownIt
    from markdown_it.common.utils import escapeHtml

    def raw(_self: RendererHTML, tokens: Sequence[Token], place: int, *_: Any) -> str:
        content = tokens[place].content
        return content if content in _OWN_TAGS else escapeHtml(content)

    def image(_self: RendererHTML, tokens: Sequence[Token], place: int, *_: Any) -> str:
        token = tokens[place]
        address, words = str(token.attrs.get("src", "")), escapeHtml(token.content)
        if address not in images:
            return f"[image: {words}]"
        return f'<img class="chart" src="{images[address]}" alt="{words}">'

    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    for name, rule in (("html_inline", raw), ("html_block", raw), ("image", image)):
        parser.add_render_rule(name, rule)
    tokens = parser.parse(markdown)
    _prepare(tokens, shift, prefix)
    html: str = parser.renderer.render(tokens, parser.options, {})
    # A wide table scrolls by itself, so that a phone never scrolls the page sideways.
    html = re.sub(
        r"<table aria-label=(\"[^\"]*\")>",
        r'<div class="scroll" role="region" tabindex="0" aria-label=\1>'
        "<table>",
        html,
    )
    return html.replace("</table>", "</table></div>")


def _prepare(tokens: Sequence[Token], shift: int, prefix: str) -> None:
    """Levels and ids of headings, scopes of table heads, names of tables for screen readers."""
    heading = ""
    used: set[str] = set()
    first_cell = in_body = False
    for place, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + shift)}"
        if token.type == "heading_open":
            heading = tokens[place + 1].content
            slug = prefix + slug_of(heading)
            while slug in used:
                slug += "-"
            used.add(slug)
            token.attrSet("id", slug)
        elif token.type == "table_open":
            token.attrSet("aria-label", f"Table: {_plain(heading)}"[:90])
        elif token.type in ("tbody_open", "tbody_close"):
            in_body = token.type == "tbody_open"
        elif token.type == "tr_open":
            first_cell = in_body
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        elif token.type == "td_open" and first_cell:
            token.tag = "th"
            token.attrSet("scope", "row")
        elif token.type == "td_close" and first_cell:
            token.tag = "th"
            first_cell = False
        elif token.type == "inline":
            for child in token.children or ():
                if child.type == "link_open":
                    child.attrSet("rel", "noopener noreferrer")
                elif child.type == "text":
                    child.content = with_units(child.content)


def slug_of(heading: str) -> str:
    """A heading's id: q5 for a question, else as GitHub makes it."""
    question = re.match(r"Q(\d{1,2})\.", heading)
    if question:
        return f"q{question[1]}"
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def _plain(markdown: str) -> str:
    return re.sub(r"[\\*`\"<>]", "", markdown)
