"""A challenge's brief as HTML: headings, paragraphs, lists, code and strong words, which is all that briefs have.

Everything is escaped, and what is not understood stays as it was written; so no library stands between.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from markupsafe import Markup

_FENCE = "```"
_HEADING = re.compile(r"(#{1,6})\s+(.+)")
_ITEM = re.compile(r"(?:[-*+]|(\d{1,3})[.)])\s+(.*)")
_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*")
_HIGHEST, _LOWEST = 3, 6  # headings stand below the page's own


def as_html(text: str) -> Markup:
    """The brief without its title, which the page shows by itself."""
    return Markup("\n").join(_written(list(_blocks(text.splitlines()))))


def _blocks(lines: list[str]) -> Iterator[tuple[str, str]]:
    """What the text is made of, as (kind, text): kinds are h1 to h6, p, ul, ol (one item each) and pre."""
    kind, held = "", list[str]()
    for line in [*lines, ""]:
        if kind == "pre":
            if line.strip().startswith(_FENCE):
                yield "pre", "\n".join(held)
                kind, held = "", []
            else:
                held.append(line)
            continue
        heading, item = _HEADING.fullmatch(line.strip()), _ITEM.fullmatch(line.strip())
        starts = heading or item or not line.strip() or line.strip().startswith(_FENCE)
        if starts and held:
            yield kind, " ".join(held)
            kind, held = "", []
        if heading:
            yield f"h{len(heading[1])}", heading[2]
        elif item:
            kind, held = ("ol" if item[1] else "ul"), [item[2]]
        elif line.strip().startswith(_FENCE):
            kind = "pre"
        elif line.strip():
            kind, held = kind or "p", [*held, line.strip()]
    if held:
        yield kind, "\n".join(held)  # a fence that nobody closed


def _written(blocks: list[tuple[str, str]]) -> Iterator[Markup]:
    for number, (kind, text) in enumerate(blocks):
        if kind == "h1":
            continue
        if kind in ("ul", "ol"):
            first = number == 0 or blocks[number - 1][0] != kind
            last = number + 1 == len(blocks) or blocks[number + 1][0] != kind
            item = Markup("<li>{}</li>").format(_inline(text))
            yield Markup(f"<{kind}>" if first else "") + item + Markup(f"</{kind}>" if last else "")
        elif kind == "pre":
            yield Markup('<pre class="out" tabindex="0">{}</pre>').format(text)
        elif kind == "p":
            yield Markup("<p>{}</p>").format(_inline(text))
        else:
            level = min(_LOWEST, int(kind[1]) + _HIGHEST - 2)
            yield Markup(f"<h{level}>{{}}</h{level}>").format(_inline(text))


def _inline(text: str) -> Markup:
    done, at = Markup(""), 0
    for found in _INLINE.finditer(text):
        done += text[at : found.start()]
        kind = "code" if found[1] is not None else "strong"
        done += Markup(f"<{kind}>{{}}</{kind}>").format(found[1] if found[1] is not None else found[2])
        at = found.end()
    return done + text[at:]
