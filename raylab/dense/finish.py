"""What a search ends with: the best cell as a file, the ranking, how well the proxy ranks, a gallery."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raylab.dense.diagram import draw_cell
from raylab.dense.features import FeatureMaps
from raylab.dense.search_plan import SearchConfig
from raylab.dense.trials import Tried, ranked
from raylab.models.cell_space import Cell, branch_weights, read_cell, to_json
from raylab.storage import Folder
from raylab.tune.fidelity import FEWEST, correlation

logger = logging.getLogger(__name__)

SUMMARY = "summary.json"
BEST = "best.json"
"""In a search's folder: the best cell, in DeepLab's format."""
CELLS = "cells.json"
"""In a search's folder: every cell that was drawn, and how it did."""
REPORT = "search.html"
SHOWN = 5
"""Of the best and of the worst cells."""


@dataclass(frozen=True)
class Full:
    """A cell that was trained in full."""

    name: str
    """Its number, or the name of one to compare with."""
    cell: Cell
    weights: int
    """Of its branches."""
    miou: float
    model: str
    """Where the trained model is."""
    tried: Tried | None
    """How it did by the proxy; None of one to compare with."""


def write_cells(out: Folder, best: Sequence[Tried]) -> None:
    """Write the cells that are trained in full, a file each."""
    for one in best:
        out.write_json(f"cells/{one.number:05d}.json", to_json(one.cell))


def weights_of(config: SearchConfig, cell: Cell) -> int:
    """Return a cell's weights on the search's maps, as the paper counts them."""
    channels = FeatureMaps(f"{config.out}/features/train").channels
    return branch_weights(cell, channels, config.full.task.head.filters)


def of_summary(config: SearchConfig, name: str, cell: str, tried: Tried | None, summary: dict[str, Any]) -> Full:
    """Return what full training found; `cell`: its file or name."""
    found = tried.cell if tried else read_cell(cell)
    return Full(name, found, weights_of(config, found), summary["scores"]["miou"], summary["model"], tried)


def finish(
    config: SearchConfig, out: Folder, tried: list[Tried], full: Sequence[Full], speed: dict[str, float]
) -> dict[str, Any]:
    """Write table, best cell and gallery; return the summary."""
    order = sorted(full, key=lambda one: -one.miou)
    rho, pairs = fidelity(order)
    out.write_json(CELLS, [_plain(one) for one in tried])
    _write_report(out, tried, order, rho, pairs)
    cells = ranked(tried)
    best = next((one for one in order if one.tried), None)
    cell = best.cell if best else cells[0].cell
    out.write_json(BEST, to_json(cell))
    logger.info("\n%s", table(order))
    summary = {
        "recipe": config.recipe,
        "cells": len(tried),
        **Counter(one.result.status for one in tried),
        **speed,
        "best": best.name if best else f"{cells[0].number:05d}",
        "best_cell": f"{out.uri}/{BEST}",
        "proxy_miou": cells[0].score,
        "full": {one.name: {"miou": one.miou, "weights": one.weights, "model": one.model} for one in order},
        "fidelity": {"rho": rho, "cells": pairs},
        "report": f"{out.uri}/{REPORT}",
        "out": out.uri,
    }
    out.write_json(SUMMARY, summary)
    return summary


def fidelity(full: Sequence[Full]) -> tuple[float | None, int]:
    """Return Spearman's rho of proxy and full training, None where too few cells say nothing; and their number."""
    pairs = [(one.tried.score, one.miou) for one in full if one.tried]
    if len(pairs) < FEWEST:
        return None, len(pairs)
    rho = correlation([cheap for cheap, _ in pairs], [dear for _, dear in pairs])
    return (None if math.isnan(rho) else rho), len(pairs)


def _plain(one: Tried) -> dict[str, Any]:
    return {
        "number": one.number,
        "cell": to_json(one.cell),
        "status": one.result.status,
        "error": one.result.error,
        "looks": list(one.result.points),
    }


def table(full: Sequence[Full]) -> str:
    """Return full training as lines for people."""
    lines = [f"{'cell':<12}{'mIoU':>8}{'proxy':>8}{'weights':>10}"]
    for one in full:
        proxy = f"{one.tried.score:.4f}" if one.tried else "-"
        lines.append(f"{one.name:<12}{one.miou:>8.4f}{proxy:>8}{one.weights:>10}")
    return "\n".join(lines)


def _write_report(out: Folder, tried: list[Tried], full: Sequence[Full], rho: float | None, pairs: int) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("raylab.dense"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    cells = ranked(tried)
    galleries = {
        "The best by the proxy": cells[:SHOWN],
        "The worst that were trained to the end": cells[SHOWN:][-SHOWN:],
    }
    counts = Counter(one.result.status for one in tried)
    html = environment.get_template("search.html.j2").render(
        title=out.uri.rstrip("/").rpartition("/")[2],
        counts=f"{len(tried)} cells: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())),
        rho=rho,
        pairs=pairs,
        full=full,
        galleries=[(title, shown) for title, shown in galleries.items() if shown],
        draw=draw_cell,
    )
    out.write_bytes(REPORT, html.encode())
