"""Reads a run that W&B keeps on disk, by wandb's own reader (``wandb leet inspect``). For tests, and for bench."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS_TO_READ = 60.0


@dataclass
class WandBFile:
    """What a folder ``wandb/offline-run-*`` (or ``run-*``) holds of a run."""

    folder: Path
    id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The history: all that was logged, in order."""
    summary: dict[str, Any] = field(default_factory=dict)
    system: list[dict[str, Any]] = field(default_factory=list)
    """Samples of the system's metrics."""
    files: list[str] = field(default_factory=list)
    """That ``wandb sync`` sends, relative to `folder`/files."""
    exit_code: int | None = None
    """None: the run was not finished."""

    def points(self) -> list[dict[str, Any]]:
        """Return the points of the curves, without W&B's own columns."""
        own = [{name: value for name, value in row.items() if not name.startswith("_")} for row in self.rows]
        return [row for row in own if not any(isinstance(value, dict) for value in row.values())]

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return a table that was logged, as a dict a row."""
        (shown,) = (row[name] for row in self.rows if name in row)
        found = json.loads((self.folder / "files" / shown["path"]).read_text())
        return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]

    def captions(self, name: str) -> list[str]:
        """Return the captions of the pictures that were logged, of the last time; each picture is there."""
        shown = [row[name] for row in self.rows if name in row][-1]
        for file in shown["filenames"]:
            assert (self.folder / "files" / file).stat().st_size > 0
        return shown["captions"]


def wandb_folders(run: Path) -> list[Path]:
    """Return W&B's folders in a run's, in the order in which they were begun."""
    return sorted(path.parent for path in run.glob("wandb/*run-*/*.wandb"))


def read_wandb(folder: Path) -> WandBFile:
    """Read one of W&B's folders."""
    from wandb.util import get_core_path

    (log,) = folder.glob("*.wandb")
    line = [get_core_path(), "leet", "inspect", "--json", "--no-observability", "-run-file", str(log)]
    told = subprocess.run(line, check=True, capture_output=True, timeout=SECONDS_TO_READ)
    found = WandBFile(folder)
    for record in map(json.loads, told.stdout.splitlines()):
        _take(found, record)
    return found


def _take(found: WandBFile, record: dict[str, Any]) -> None:
    """Add what a record of the log says."""
    body = record[record["type"]]
    match record["type"]:
        case "run":
            found.id, found.project = body["run_id"], body["project"]
            found.name, found.group = body.get("display_name", ""), body.get("run_group", "")
            found.job_type = body.get("job_type", "")
            found.config |= {name: value for name, value in body["config"]["update"].items() if name != "_wandb"}
        case "history":
            found.rows.append(_joined(body["item"]))
        case "summary":
            found.summary |= _joined(body.get("update", {}))
        case "stats":
            found.system.append(body["item"])
        case "files":
            found.files += [file["path"] for file in body["files"]]
        case "exit":
            found.exit_code = body["exit_code"]


def _joined(item: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its pictures and tables as a dict each: the log has ``name._type``, ``name.path`` and so on."""
    shown = [name.removesuffix("._type") for name in item if name.endswith("._type")]
    joined: dict[str, Any] = {name: {} for name in shown}
    for key, value in item.items():
        of = next((name for name in shown if key.startswith(f"{name}.")), None)
        if of is None:
            joined[key] = value
        else:
            joined[of][key.removeprefix(f"{of}.")] = value
    return joined
