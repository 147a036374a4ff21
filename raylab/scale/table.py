"""The answer as lines for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

LEAST_WIDTH = 100


def table(found: dict[str, Any]) -> str:
    """Return what `plan.size_labels` or `plan.size_training` found, for people."""
    lines = _training(found) if "steps" in found else _labels(found)
    return "\n".join(lines)


def _labels(found: dict[str, Any]) -> list[str]:
    lines = [*_said("run", f"{found['recipe']}, {found['rows']:,} rows"), *_said("on", found["cluster"])]
    lines += _said("rates", found["rates"])
    for one in found["phases"]:
        lines += _phase(one)
    lines += ["", *_said("hours", _hours(found["hours"])), *_cost(found)]
    lines += _said(
        "bytes", f"{_bytes(found['read_bytes'])} read, {_bytes(found['stored_bytes'])} labels and rejects stored"
    )
    lines += _said("line", found["line"])
    return lines + _assumed(found["assumed"])


def _phase(one: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"{one['phase']}, {one['rows']:,} rows".ljust(38) + f"{'actors':>8}{'CPUs':>7}{'GPUs':>8}{'busy':>7}  on",
    ]
    for pool in one["pools"]:
        where = ", ".join(f"{count} {name}" for name, count in pool["on"].items())
        gpus = f"{pool['num_gpus']:g}" if pool["num_gpus"] else ""
        lines.append(
            f"  {pool['stage']:<36}{pool['actors']:>8}{pool['num_cpus']:>7g}{gpus:>8}{pool['busy']:>7.0%}  {where}"
        )
    machines = ", ".join(f"{count} x {name}" for name, count in one["machines"].items())
    lines += _said("  bottleneck", f"{one['bottleneck']}, {one['rows_per_s']:,.0f} rows/s", 16)
    next_ = list(one["limits"].items())[1:3]
    lines += _said("  then", "; ".join(f"{what} ({rows:,.0f} rows/s)" for what, rows in next_), 16) if next_ else []
    lines += _said("  machines", machines + (f"; {one['losses']} lost on the way" if one["losses"] else ""), 16)
    times = (
        f"{_hours(one['hours'])}: start {one['start_s']:,.0f} s, rows {one['work_s']:,.0f} s, end {one['end_s']:,.0f} s"
    )
    lines += _said("  time", times, 16)
    return lines + _said("  object store", f"{_bytes(one['object_store_bytes'])} on the fullest node", 16)


def _training(found: dict[str, Any]) -> list[str]:
    machines = ", ".join(f"{count} x {name}" for name, count in found["machines"].items())
    lines = [
        *_said("run", f"{found['recipe']}, {found['steps']:,} steps of {found['batch']:,}"),
        *_said("on", f"{found['cluster']}: {machines}"),
        *_said("rates", found["rates"]),
        *_said("images/s", f"{found['rows_per_s']:,.0f}; {found['device_rows_per_s']:,.1f} a device (or core)"),
        *_said("bottleneck", found["bottleneck"]),
        *_said("hours", _hours(found["hours"])),
    ]
    return [*lines, *_cost(found), *_assumed(found["assumed"])]


def _said(name: str, text: str, indent: int = 14) -> list[str]:
    width = max(LEAST_WIDTH, shutil.get_terminal_size((120, 24)).columns)
    return textwrap.wrap(
        f"{name:<{indent}}{text}", width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False
    )


def _cost(found: dict[str, Any]) -> list[str]:
    if found["cost"] is None:
        return _said("cost", f"no price for {', '.join(found['no_price'])}: give --price {found['no_price'][0]}=PRICE")
    return _said("cost", f"{found['cost']:,.2f}, an hour of: {'; '.join(found['prices'])}")


def _assumed(lines: Iterable[str]) -> list[str]:
    return [line for text in lines for line in _said("assumed", text)]


def _hours(hours: float) -> str:
    return f"{hours:,.2f} h" if hours >= 0.1 else f"{hours * 60:.1f} min"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} PB"
