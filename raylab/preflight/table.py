"""What was found, for people and for programs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raylab.preflight.base import Finding, Level

LEAST_WIDTH = 60


def table(findings: Sequence[Finding]) -> str:
    """Return the findings as lines for a terminal: check, level, what was seen; below it the way out."""
    names = max(len(one.check) for one in findings)
    indent = " " * (names + 8)
    width = max(LEAST_WIDTH, shutil.get_terminal_size((120, 24)).columns)
    lines = []
    for one in findings:
        head = f"{one.check:<{names}}  {one.level:<4}  "
        said = [f"{head}{one.seen}"] + ([f"{indent}-> {one.way_out}"] if one.way_out else [])
        lines += [textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False) for text in said]
    return "\n".join(lines)


def report(findings: Sequence[Finding], seconds: float) -> dict[str, Any]:
    """Return the findings as plain values, with the worst level of all."""
    worst = Level.worst([one.level for one in findings])
    return {"level": worst, "seconds": round(seconds, 1), "checks": [asdict(one) for one in findings]}
