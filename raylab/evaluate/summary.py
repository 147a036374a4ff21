"""What a finished evaluation says of itself: scores.json, plots, report.html, the table on the terminal."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import raylab
from raylab.assets import locate
from raylab.config import to_dict
from raylab.evaluate.base import Benchmark, Outcome
from raylab.evaluate.plan import EvaluateConfig
from raylab.evaluate.report import write_report
from raylab.evaluate.tracked import track
from raylab.samples import read_samples
from raylab.storage import Folder

if TYPE_CHECKING:
    from raylab.evaluate.features import ModelSubject

PACKAGES = ("torch", "open-clip-torch", "scikit-learn", "numpy", "pyarrow", "pillow", "matplotlib", "ray")
"""Whose versions are recorded."""


def explain(
    config: EvaluateConfig,
    folder: Folder,
    benchmarks: Mapping[str, Benchmark],
    outcomes: Mapping[str, Outcome],
    subject: ModelSubject,
    *,
    seconds: float,
) -> dict[str, Any]:
    """Write scores.json, the benchmarks' own files, plots and report.html; tell W&B where it is asked.

    Args:
        config: the run's.
        folder: the run's folder.
        benchmarks: what was run, by name.
        outcomes: what each said.
        subject: the model that was asked.
        seconds: wall-clock time of the run.

    Returns:
        The summary, as it lies in scores.json.
    """
    for outcome in outcomes.values():
        for file, data in (outcome.files or {}).items():
            folder.write_bytes(file, data)
    plots = _plots(config, outcomes) if config.plots else {}
    for file, (_, data) in plots.items():
        folder.write_bytes(file, data)
    summary = summarise(config, benchmarks, outcomes, subject, seconds=seconds)
    summary["plots"] = list(plots)
    folder.write_json("scores.json", summary)
    write_report(folder, summary, plots)
    track(config, folder, summary, plots)
    return summary


def _plots(config: EvaluateConfig, outcomes: Mapping[str, Outcome]) -> dict[str, tuple[str, bytes]]:
    """Return figures, and what a training run showed of its model: file -> title and PNG."""
    from raylab.evaluate.plots import draw

    plots = {}
    for name, outcome in outcomes.items():
        for number, figure in enumerate(outcome.figures):
            plots[f"plots/{name}-{number}.png"] = figure.title, draw(figure)
    shown = read_samples(Folder(locate(config.model))) if config.model else []
    for number, (data, said) in enumerate(shown):
        plots[f"plots/sample-{number:02d}.png"] = f"held out in training: {said}", data
    return plots


def summarise(
    config: EvaluateConfig,
    benchmarks: Mapping[str, Benchmark],
    outcomes: Mapping[str, Outcome],
    subject: ModelSubject,
    *,
    seconds: float,
) -> dict[str, Any]:
    """Return the summary as plain values."""
    scores = [score for outcome in outcomes.values() for score in outcome.scores]
    used = {(score.benchmark, score.protocol) for score in scores}
    return {
        "scores": [asdict(score) for score in scores],
        "protocols": {
            name: {key: text for key, text in benchmark.protocols.items() if (name, key) in used}
            for name, benchmark in benchmarks.items()
        },
        "refused": {name: n for outcome in outcomes.values() for name, n in (outcome.refused or {}).items()},
        "notes": [*(note for outcome in outcomes.values() for note in outcome.notes), *subject.notes],
        "models": list(subject.used),
        "seconds": round(seconds, 2),
        "out": config.out,
        "config": to_dict(config),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "raylab": raylab.__version__,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # labels are scored on hosts without torch


def headline(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a job's last line of standard output holds: each score by its full name, and where the rest is."""
    names = ("benchmark", "protocol", "part", "metric")
    scores = {"/".join(score[name] for name in names): round(score["value"], 6) for score in summary["scores"]}
    return {"scores": scores, "refused": sum(summary["refused"].values()), **_only(summary, "seconds", "out")}


def _only(summary: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: summary[name] for name in names}


def table(summary: Mapping[str, Any]) -> str:
    """Return the run as lines for a terminal: scores in percent, then what a reader should know."""
    rows = [("benchmark", "protocol", "part", "metric", "%", "over")]
    for one in summary["scores"]:
        names = (one["benchmark"], one["protocol"], one["part"], one["metric"])
        rows.append((*names, f"{100 * one['value']:.2f}", f"{one['count']:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [_line(row, widths) for row in rows]
    refused = [f"refused   {name}: {count:,}" for name, count in summary["refused"].items()]
    extra = [*refused, *summary["notes"]]
    return "\n".join([*lines, *([""] if extra else []), *extra, "", f"report: {_report_path(summary['out'])}"])


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    texts = [cell.ljust(width) for cell, width in zip(row[:4], widths)]
    numbers = [cell.rjust(width) for cell, width in zip(row[4:], widths[4:])]
    return "  ".join([*texts, *numbers])


def _report_path(out: str) -> str:
    return f"{out.rstrip('/')}/report.html" if "://" in out else str(Path(out).resolve() / "report.html")
