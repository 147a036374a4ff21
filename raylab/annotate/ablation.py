"""The paper's ablation in one line: four targets from the same candidates (arXiv 2410.23676, section 4.3)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from raylab.annotate import run as annotate_run
from raylab.annotate.plan import AblationConfig, check
from raylab.config import to_dict
from raylab.kb.catalog import Catalog
from raylab.session import plain_errors, session
from raylab.storage import Folder

DECIDED = ("verified", "corrected", "unresolved")
SHOWN = ("precision", "recall", "coverage")


def run(config: AblationConfig) -> dict[str, Any]:
    """Annotate the same rows once for each target, or finish what an earlier call began.

    Returns:
        The summary of the last target, the corrected labels, with ``targets``: each one's counts and figures. It lies
        in ``ablation.json``.

    Raises:
        RaylabError: see `raylab.annotate.run.run`.
    """
    check(config)
    started = time.perf_counter()
    folder = Folder(config.out)
    kb = Catalog.open(config.kb).info
    connected = session(
        *annotate_run.needed(config), worker_logs=False, places=config.places(), shared_disk=config.shared_disk
    )
    with connected, plain_errors():
        _, found = annotate_run.candidates_of(config, kb.fingerprint)
        summary: dict[str, Any] = {}
        targets: dict[str, Any] = {}
        for target, one in config.targets().items():
            source = replace(one.source, uri=found.folder.uri)
            summary = annotate_run.run(replace(one, source=source))
            if not targets:
                targets["candidate"] = _figures(summary, "select")
            targets[target] = _figures(summary, "verify")
    summary |= {"out": config.out, "seconds": round(time.perf_counter() - started, 2), "targets": targets}
    folder.write_json("config.json", to_dict(config))
    folder.write_json("ablation.json", summary)
    return summary


def _figures(summary: dict[str, Any], step: str) -> dict[str, Any]:
    """Return what a target came to: of the candidates as they are, that of the selection in the same rows."""
    truth = summary.get("truth", {}).get(step, {})
    said = {} if step == "select" else {name: summary["annotation"][name] for name in DECIDED}
    return said | {name: truth[name] for name in SHOWN if name in truth}


def table(summary: dict[str, Any]) -> str:
    """Return the targets as lines for a terminal."""
    columns = (*DECIDED, *SHOWN)
    lines = [f"{'target':<16}" + "".join(f"{name:>12}" for name in columns)]
    for target, figures in summary["targets"].items():
        lines.append(f"{target:<16}" + "".join(f"{_cell(figures.get(name)):>12}" for name in columns))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
