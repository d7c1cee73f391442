"""The parts of a report as HTML: one file, no script, nothing fetched. Every text is escaped here."""

from __future__ import annotations

import base64
import os
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

from dsp_plugin.records.record import Record
from dsp_plugin.reports.tables.rows import NOT_MEASURED, TEXT_COLUMNS, Row, cell_text

_PICTURE_DPI = 200  # of all pictures of this package

_STYLE = """
:root { --ink: #1d2125; --faint: #5c6670; --line: #d8dde2; --back: #ffffff; --soft: #f4f6f8; --link: #005a9c; --shade: #0004; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --faint: #9ba5af; --line: #3a424b; --back: #16191d; --soft: #1f242a; --link: #7cc0f5; --shade: #fff6; }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 66rem; padding: 1.2rem 1rem 4rem; color: var(--ink); background: var(--back);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .4rem 0 .6rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p, ul { margin: .5rem 0; }
a { color: var(--link); }
.faint, figcaption, .notes { color: var(--faint); font-size: .87rem; }
nav { background: var(--soft); border-radius: 8px; padding: .6rem 1rem; margin: 1.2rem 0; }
nav ul { list-style: none; padding: 0; margin: .2rem 0; }
nav ul ul { padding-left: 1.2rem; font-size: .92rem; }
nav ul ul li { display: inline-block; margin-right: 1rem; }
/* a shadow at the side where a wide table goes on */
.scroll { overflow-x: auto; margin: .8rem 0; background:
  linear-gradient(to right, var(--back) 30%, transparent) 0 0 / 2.5rem 100% local no-repeat,
  linear-gradient(to left, var(--back) 30%, transparent) 100% 0 / 2.5rem 100% local no-repeat,
  radial-gradient(farthest-side at 0 50%, var(--shade), transparent) 0 0 / .8rem 100% scroll no-repeat,
  radial-gradient(farthest-side at 100% 50%, var(--shade), transparent) 100% 0 / .8rem 100% scroll no-repeat; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; text-align: right; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; border-bottom: 2px solid var(--faint); line-height: 1.25; }
td { white-space: nowrap; }
th.text, td.text { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--back); }
td.missing { color: var(--faint); font-style: italic; }
th.note, td.note { white-space: normal; text-align: left; min-width: 12rem; overflow-wrap: anywhere; }
figure { margin: 1rem 0 1.8rem; }
figure .scroll { margin: 0 0 .4rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
.notes li, .where { overflow-wrap: anywhere; }
.warning { border-left: 4px solid #d55e00; padding: .3rem .8rem; background: var(--soft); }
code { font: .84rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { background: var(--soft); border-radius: 6px; padding: .5rem .7rem; margin: .4rem 0; white-space: pre-wrap; }
.record { border-bottom: 1px solid var(--line); padding: .2rem 0; margin: 0; font-size: .92rem; }
@media print { nav, summary::marker { display: none; } body { max-width: none; } }
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
</header>
<nav aria-label="Contents"><details><summary>Contents</summary>
<ul>
$contents
</ul>
</details></nav>
<main>
$body
</main>
</body>
</html>
""")


@dataclass
class Section:
    """A heading with what follows it.

    Args:
        heading: text, not HTML.
        parts: HTML, made by the functions of this module.
        below: sections one level lower.
    """

    heading: str
    parts: list[str] = field(default_factory=list)
    below: list[Section] = field(default_factory=list)


def page_html(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the whole page, with a table of contents.

    Args:
        title: text.
        lead: HTML parts below the title.
        sections: two levels of headings at most.
    """
    contents, body = [], []
    for number, section in enumerate(sections, 1):
        anchor = f"s{number}"
        body.append(f'<section id="{anchor}">\n<h2>{escape(section.heading)}</h2>')
        body += section.parts
        links = []
        for place, inner in enumerate(section.below, 1):
            body.append(f'<h3 id="{anchor}-{place}">{escape(inner.heading)}</h3>')
            body += inner.parts
            links.append(f'<li><a href="#{anchor}-{place}">{escape(inner.heading)}</a></li>')
        body.append("</section>")
        inside = f"<ul>{''.join(links)}</ul>" if links else ""
        contents.append(f'<li><a href="#{anchor}">{escape(section.heading)}</a>{inside}</li>')
    return _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        lead="\n".join(lead),
        contents="\n".join(contents),
        body="\n".join(body),
    )


def paragraph(text: str, kind: str = "") -> str:
    """Make text a paragraph; `kind` is a class of the style sheet, such as "faint" or "warning"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def code_block(text: str) -> str:
    """Make text a block of code."""
    return f"<pre><code>{escape(text)}</code></pre>"


def list_html(lines: Iterable[str]) -> str:
    """Make lines of text a list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def notes_html(notes: Iterable[str]) -> str:
    """Make lines of text the small print below a table; empty if there is none."""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def folded(summary: str, parts: Sequence[str]) -> str:
    """Fold parts away until `summary` is clicked."""
    return f"<details><summary>{escape(summary)}</summary>\n{''.join(parts)}\n</details>"


def table_html(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Show rows of `tables.table_rows` in a frame of their own that scrolls where the window is narrow."""

    def kind(column: str) -> str:
        return ' class="text"' if column in TEXT_COLUMNS else ' class="note"' if column == "note" else ""

    def cell(row: Row, column: str) -> str:
        if row.get(column) is None:
            return f'<td class="missing">{NOT_MEASURED}</td>'
        return f"<td{kind(column)}>{escape(cell_text(row[column]))}</td>"

    head = "".join(f'<th scope="col"{kind(column)}>{escape(column)}</th>' for column in columns)
    body = "\n".join("<tr>" + "".join(cell(row, column) for column in columns) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def figure_html(picture: str | os.PathLike, alt: str, caption: str, records: Sequence[Record]) -> str:
    """Inline a PNG, with its caption and the commands and versions that made the records it shows."""
    content = Path(picture).read_bytes()
    width, height = (round(side * 96 / _PICTURE_DPI) for side in struct.unpack(">II", content[16:24]))
    data = base64.b64encode(content).decode("ascii")
    image = (
        f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(alt)}"'
        # on the narrowest screens it scrolls sideways rather than get too small to read
        f' style="min-width: min({width}px, 22rem)">'
    )
    return (
        f'<figure><div class="scroll">{image}</div>\n'
        f"<figcaption>{escape(caption)}{provenance_html(records)}</figcaption></figure>"
    )


def provenance_html(records: Sequence[Record]) -> str:
    """Say which commands made these records, with which versions and on what device; folded if several."""
    commands = list(dict.fromkeys(record.command for record in records if record.command))
    surroundings = notes_html(surroundings_of(records))
    if len(commands) == 1:
        return f" Made by <code>{escape(commands[0])}</code>{surroundings}"
    return folded(f"made by {len(commands)} commands", [*map(code_block, commands), surroundings])


def surroundings_of(records: Iterable[Record]) -> list[str]:
    """List the versions and devices of the records, each once."""
    records = list(records)
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in record.versions.items()) for record in records)
    lines = [f"versions: {text}" for text in versions if text]
    devices = dict.fromkeys(record.device for record in records)
    return lines + [f"device: {text}" for text in devices if text]


def record_html(record: Record, where: str) -> str:
    """Show one record of the list of all: a line, and folded what made it."""
    heads = "" if record.heads is None else f"K {record.heads['kept']}/{record.heads['total']}"
    if record.heads is not None and (groups := record.heads.get("groups")):
        heads += f", groups {groups['kept']}/{groups['total']}"
    seed = "" if record.seed is None else f"seed {record.seed}"
    known = ", ".join(part for part in (record.kind, record.name, record.method, heads, seed) if part)
    metrics = [
        f"{m.name} {m.subset}".rstrip() + f" {cell_text(m.value)} {m.unit}".rstrip() for m in record.metrics
    ]
    shown = "; ".join(metrics[:3]) + (f"; and {len(metrics) - 3} more" if len(metrics) > 3 else "")
    notes = [f"data: {record.data}"] if record.data else []
    notes += [f"{m.name} {m.subset}".rstrip() + f": {m.signature}" for m in record.metrics if m.signature]
    notes += surroundings_of([record])
    command = code_block(record.command) if record.command else paragraph("no command was noted", "faint")
    summary = f'<span class="where">{escape(where)}</span> <span class="faint">{escape(known)}</span>'
    summary += f" {escape(shown)}" if shown else ""
    return f'<details class="record"><summary>{summary}</summary>\n{command}{notes_html(notes)}</details>'


def file_name(text: str) -> str:
    """Make `text` part of a file name: letters, digits, '.', '-' and '_' only, never hidden."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.") or "unnamed"
