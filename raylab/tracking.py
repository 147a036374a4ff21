"""A run's curves: in a file beside the run, as lines on the terminal, and in W&B, offline where there is no key."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raylab.storage import Folder

CURVES = "curves.jsonl"
WANDB = "wandb.json"
"""In a run's folder: the W&B run that its curves go to, also after it was begun again."""

SENT = "last-step"
"""Beside W&B's files: see `Tracker`."""


class Tracker:
    """Takes points; one process of a run has one.

    Args:
        out: the run's folder.
        project: W&B's project; empty: no W&B.
        config: the run's, as plain values, for W&B.
        start: the step that the run goes on from: points behind it are dropped, they come again.
    """

    def __init__(self, out: Folder, project: str, config: Mapping[str, Any], start: int = 0) -> None:
        self._out = out
        self._lines = [line for line in self._read() if json.loads(line)["step"] <= start]
        self._disk = Path(out.path("") if out.is_local else tempfile.mkdtemp(prefix="raylab-wandb-"))
        self._wandb = _open_wandb(out, project, config, self._disk) if project else None
        self._sent = self._last_sent()

    def _last_sent(self) -> int:
        """Return the last step that W&B has: of a run that goes on, points behind its checkpoint are there already."""
        if self._wandb is not None and not self._wandb.offline:
            return int(self._wandb.summary.get("step") or 0)
        return int(self._note.read_text()) if self._note.exists() else 0

    @property
    def _note(self) -> Path:
        """Where the last step that an offline run has lies: beside its files, and gone where they are gone."""
        return self._disk / "wandb" / SENT

    def _read(self) -> list[str]:
        return self._out.read_bytes(CURVES).decode().splitlines() if self._out.exists(CURVES) else []

    @property
    def last(self) -> dict[str, float]:
        """The latest point, empty before the first."""
        found = json.loads(self._lines[-1]) if self._lines else {"step": 0}
        return {name: value for name, value in found.items() if name != "step"}

    def add(self, step: int, point: Mapping[str, float]) -> str:
        """Take a point of the curves; return it as a line for people."""
        self._lines.append(json.dumps({"step": step, **point}))
        if self._wandb is not None and step > self._sent:
            self._wandb.log({"step": step, **point})
            self._sent = step
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.write_text(str(step))
        shown = (f"{name} {value:.4g}" for name, value in point.items() if not name.startswith("rate/"))
        return f"step {step}  " + "  ".join(shown)

    def add_images(self, name: str, pictures: list[tuple[Any, str]]) -> None:
        """Show pictures (anything that `wandb.Image` takes) with captions."""
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: [wandb.Image(picture, caption=caption) for picture, caption in pictures]})

    def flush(self) -> None:
        """Write the curves' file."""
        self._out.write_bytes(CURVES, "".join(f"{line}\n" for line in self._lines).encode())

    def close(self) -> None:
        """Write what is left, and let go of W&B; what it kept on this host's disk goes to the run's folder."""
        self.flush()
        if self._wandb is not None:
            self._wandb.finish()
        if not self._out.is_local:
            for file in filter(Path.is_file, self._disk.rglob("*")):
                self._out.put(file, file.relative_to(self._disk).as_posix())
            shutil.rmtree(self._disk)


def _open_wandb(out: Folder, project: str, config: Mapping[str, Any], disk: Path) -> Any:
    """Begin the W&B run, or go on with it; its id lies in the run's folder.

    The key is read by wandb itself, from the environment or its own login file; without one the run is kept offline,
    and ``wandb sync`` sends it later.
    """
    import wandb

    known = out.read_json(WANDB)["id"] if out.exists(WANDB) else None
    online = bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
    run = wandb.init(
        project=project,
        id=known,
        name=out.uri.rsplit("/", 1)[-1],
        dir=disk,
        config=dict(config),
        mode=os.environ.get("WANDB_MODE") or ("online" if online else "offline"),  # type: ignore[arg-type]
        resume="allow" if known else None,
        settings=wandb.Settings(silent=True),
    )
    run.define_metric("*", step_metric="step")
    out.write_json(WANDB, {"id": run.id, "project": project})
    return run


def clear_temporary() -> None:
    """Remove W&B's temporary folders, as it does itself when an interpreter ends; Ray's workers end without that.

    This process can show no more pictures in W&B.
    """
    from wandb.sdk.artifacts.artifact import Artifact
    from wandb.sdk.data_types._private import MEDIA_TMP

    for folder in (Artifact._TMP_DIR, MEDIA_TMP):
        folder.cleanup()
