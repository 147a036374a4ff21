"""What a finished run says of itself: summary.json, the dataset card, the report, the table on the terminal."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

import raylab
from raylab.config import to_dict
from raylab.kb.catalog import KBInfo
from raylab.label.annotated import annotation_figures
from raylab.label.audit import truth_report
from raylab.label.card import write_card
from raylab.label.plan import LabelConfig
from raylab.label.report import write_report
from raylab.label.store import LabelStore
from raylab.label.tracked import track
from raylab.schema import SCHEMA_VERSION
from raylab.sources.base import Source
from raylab.storage import Folder

PACKAGES = ("ray", "torch", "open-clip-torch", "spacy", "pyarrow", "pillow", "numpy")
"""Whose versions are recorded."""

TOP_ENTITIES = 50


def explain(
    config: LabelConfig,
    kb: KBInfo,
    source: Source,
    folder: Folder,
    seconds: float,
    *,
    step_seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write summary.json, README.md and report.html beside the labels of a finished run; tell W&B of it.

    Args:
        config: the run's.
        kb: what the knowledge base says of itself.
        source: shows the images in the report.
        folder: the run's folder.
        seconds: wall-clock time of this call of the run.
        step_seconds: what steps took whose rows do not tell it themselves.

    Returns:
        The summary.
    """
    store = LabelStore(folder.uri)
    labels, rejects = store.labels(), store.rejects()
    summary = summarise(config, kb, store, seconds, step_seconds or {})
    folder.write_json("summary.json", summary)
    write_card(folder, summary, to_dict(config))
    exhibits = write_report(folder, summary, labels, rejects, source, config.source.limits)
    track(config, folder, summary, exhibits)
    return summary


def summarise(
    config: LabelConfig, kb: KBInfo, store: LabelStore, seconds: float, step_seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Return the summary of a finished run as plain values."""
    labels, rejects, manifest = store.labels(), store.rejects(), store.manifest
    counts = manifest["counts"]
    steps = [_step(name, step, step_seconds.get(name, 0.0)) for name, step in counts["steps"].items()]
    reasons: dict[str, int] = {}
    for step in steps:
        for reason, n in step["rejected"].items():
            reasons[reason] = reasons.get(reason, 0) + n
    failed = sum(step["failed"] for step in steps)
    given = "given" in counts["steps"]  # such labels are the truth, and nobody annotated them: nothing to measure
    truth = {} if given else truth_report(labels, rejects)
    annotation = {} if given else annotation_figures(labels, rejects)
    return {
        "rows_in": counts["rows"],
        "labelled": counts["labelled"],
        "rejected": sum(reasons.values()),
        "failed": failed,
        "seconds": round(seconds, 2),
        "out": config.out,
        **({"truth": truth} if truth else {}),
        **({"annotation": annotation} if annotation else {}),
        "source": config.source.uri,
        "recipe": config.recipe,
        "steps": steps,
        "reasons": reasons,
        "kb": {
            "fingerprint": kb.fingerprint,
            "dump_date": kb.dump_date,
            "entities": kb.entities,
            "aliases": kb.aliases,
            "sources": list(kb.sources),
        },
        "models": _models(labels),
        "entities": {**manifest["entities"], "top": _top(store.folder)},
        "licences": _licences(labels),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "raylab": raylab.__version__,
        "schema_version": SCHEMA_VERSION,
    }


def _step(name: str, step: dict[str, Any], engine_seconds: float) -> dict[str, Any]:
    rows_out = step["rows_in"] - sum(step["rejected"].values()) - step["failed"]
    seconds = step["worker_seconds"] + engine_seconds
    return {
        "name": name,
        "rows_in": step["rows_in"],
        "rows_out": rows_out,
        "rejected": step["rejected"],
        "failed": step["failed"],
        "worker_seconds": round(seconds, 3),
        "cpu_seconds": round(step["cpu_seconds"], 3),
        "rows_per_s": round(step["rows_in"] / seconds, 1) if seconds else None,
    }


def _models(labels: ds.Dataset) -> dict[str, str]:
    """The models are the same for all rows of a run: one row tells."""
    row = labels.head(1, columns=["models"])
    return {note["step"]: note["model"] for note in row["models"][0].as_py() or []} if row.num_rows else {}


def _licences(labels: ds.Dataset) -> dict[str, int]:
    found: dict[str, int] = {}
    for batch in labels.to_batches(columns=["licence"]):
        for value, n in zip(*batch["licence"].value_counts().flatten()):
            name = value.as_py() or "not stated"
            found[name] = found.get(name, 0) + n.as_py()
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _top(folder: Folder) -> list[list[Any]]:
    counts = folder.read_parquet("entity_counts.parquet")
    kept: pa.Table = counts.filter(counts["kept"]).slice(0, TOP_ENTITIES)
    return [[row["entity_id"], row["entity_name"], row["images"]] for row in kept.to_pylist()]


def headline(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what a job's last line of standard output holds; of an ablation also its targets."""
    names = ("rows_in", "labelled", "rejected", "failed", "seconds", "out", "truth", "targets")
    return {name: summary[name] for name in names if name in summary}


def table(summary: dict[str, Any]) -> str:
    """Return the run as lines for a terminal: the steps, then truth where known, then where the report is."""
    lines = [f"{'step':<12}{'rows in':>10}{'rows out':>10}{'rows/s':>10}  rejected"]
    for step in summary["steps"]:
        rate = "" if step["rows_per_s"] is None else f"{step['rows_per_s']:,.0f}"
        why = ", ".join(f"{reason} {n:,}" for reason, n in step["rejected"].items())
        why += f"{', ' if why else ''}failed {step['failed']:,}" if step["failed"] else ""
        lines.append(f"{step['name']:<12}{step['rows_in']:>10,}{step['rows_out']:>10,}{rate:>10}  {why}")
    if "truth" in summary:
        lines += ["", f"{'against truth':<12}{'precision':>12}{'recall':>10}{'coverage':>10}"]
        lines += [_truth_line(name, values) for name, values in summary["truth"].items()]
    if "annotation" in summary:
        lines += ["", annotation_line(summary["annotation"])]
    lines += ["", f"report: {_report_path(summary['out'])}"]
    return "\n".join(lines)


def annotation_line(figures: dict[str, Any]) -> str:
    """Return the block ``annotation`` of a summary in one line."""
    resolved = figures["resolved_share"]
    found = "" if resolved is None else f" ({resolved:.1%} of the titles found, {figures['unresolved']:,} unresolved)"
    words = f"{figures['verified']:,} verified, {figures['corrected']:,} corrected{found}"
    refused = sum(figures["by_reason"].values())
    return (
        f"annotated   {figures['annotated']:,}: {words}, {refused:,} rejected; {figures['questions']:,} questions kept"
    )


def _truth_line(name: str, values: dict[str, float | None]) -> str:
    cells = ["" if values.get(key) is None else f"{values[key]:.3f}" for key in ("precision", "recall", "coverage")]
    return f"{name:<12}{cells[0]:>13}{cells[1]:>10}{cells[2]:>10}"


def _report_path(out: str) -> str:
    return f"{out.rstrip('/')}/report.html" if "://" in out else str(Path(out).resolve() / "report.html")
