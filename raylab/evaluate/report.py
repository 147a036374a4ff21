"""report.html: the scores, their protocols and the plots in one file that needs no other."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from raylab.storage import Folder

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; color: #1b1f24 }
table { border-collapse: collapse }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #d9dee3; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100%; height: auto }
figure { margin: 1.5rem 0 } figcaption { font-weight: 600 } .note { color: #57606a }
"""


def write_report(folder: Folder, summary: Mapping[str, Any], plots: Mapping[str, tuple[str, bytes]]) -> None:
    """Write report.html.

    Args:
        folder: the run's folder.
        summary: as in scores.json.
        plots: file name -> (title, PNG).
    """
    tested = ", ".join(summary["models"]) or "no model was asked"
    body = [
        f"<h1>{escape(tested)}</h1>",
        f'<p class="note">{summary["seconds"]:g} s. All of it: <a href="scores.json">scores.json</a>, '
        '<a href="config.json">config.json</a>.</p>',
        _scores(summary),
        _protocols(summary),
        *(f'<p class="note">{escape(note)}</p>' for note in (*_refused(summary), *summary["notes"])),
        *(_plot(title, data) for title, data in plots.values()),
    ]
    head = f'<meta charset="utf-8"><title>{escape(tested)}</title><style>{_STYLE}</style>'
    html = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"
    folder.write_bytes("report.html", html.encode())


def _scores(summary: Mapping[str, Any]) -> str:
    names = ("benchmark", "protocol", "part", "metric")
    head = "".join(f"<th>{name}</th>" for name in (*names, "%", "over"))
    rows = []
    for one in summary["scores"]:
        texts = "".join(f"<td>{escape(one[name])}</td>" for name in names)
        value, count = (
            f'<td class="number">{text}</td>' for text in (f"{100 * one['value']:.2f}", f"{one['count']:,}")
        )
        rows.append(f"<tr>{texts}{value}{count}</tr>")
    return f"<table><tr>{head}</tr>\n" + "\n".join(rows) + "\n</table>"


def _protocols(summary: Mapping[str, Any]) -> str:
    lines = [
        f"<dt>{escape(benchmark)}: {escape(protocol)}</dt><dd>{escape(text)}</dd>"
        for benchmark, protocols in summary["protocols"].items()
        for protocol, text in protocols.items()
    ]
    return f"<h2>What was measured</h2><dl>{''.join(lines)}</dl>"


def _refused(summary: Mapping[str, Any]) -> list[str]:
    return [f"{count:,} images refused: {name}" for name, count in summary["refused"].items()]


def _plot(title: str, data: bytes) -> str:
    address = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<figure><figcaption>{escape(title)}</figcaption><img alt="{escape(title)}" src="{address}"></figure>'
