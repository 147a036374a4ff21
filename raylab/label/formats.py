"""Numbers and names in words, the same in the report and in the card."""

from __future__ import annotations

from typing import Any


def count(number: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """Return a part in percent, "none" of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "none"


def percent(part: float, whole: float) -> str:
    """Return a part in percent as a bare number from 0 to 100, the way a style's width wants it."""
    return f"{100 * min(1.0, part / whole):.2f}".rstrip("0").rstrip(".") if whole else "0"


def figure(number: float | None, missing: str = "") -> str:
    """Return a score with three decimals."""
    return missing if number is None else f"{number:.3f}"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    return f"{minutes // 60} h {minutes % 60} min"


def words(reason: str) -> str:
    """Return a reason or a decision as plain words: ``low_score`` as "low score"."""
    return reason.replace("_", " ")


def kb_source(source: dict[str, Any]) -> str:
    """Return a file that the knowledge base was made from, with its counts.

    Args:
        source: an entry of ``summary["kb"]["sources"]``: ``path``, ``rows`` and ``bad``, a count a reason.
    """
    path = str(source["path"])
    name = path if "://" in path else path.rstrip("/").rsplit("/", 1)[-1]
    bad = sum(source["bad"].values())
    return f"{name} ({count(source['rows'])} rows{f', {count(bad)} bad lines' if bad else ''})"
