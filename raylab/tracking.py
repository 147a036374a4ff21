"""A run's curves: in a file beside the run, as lines on the terminal, and in W&B, offline where there is no key.

Runs without curves (labels, annotations, scores) tell W&B of themselves when they are finished: `open_run`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylab.errors import RaylabError
from raylab.storage import Folder

logger = logging.getLogger(__name__)

CURVES = "curves.jsonl"
ATTACHED = (CURVES, "config.json", "examples.json")
"""Files of a run with curves that W&B keeps, too."""
WANDB = "wandb.json"
"""In a run's folder: the W&B run that its curves go to, also after it was begun again."""

SENT = "last-step"
"""Beside W&B's files: see `WandBRun.add`."""
INIT_SECONDS = 20.0
"""How long W&B's server may take to answer before a run is kept offline."""
FINISH_SECONDS = 60.0
"""How long a run that is finished waits until W&B's server has taken all of it."""


@dataclass(frozen=True)
class TrackingConfig:
    """What is told of a finished run that has no curves."""

    project: str = ""
    """W&B's; without WANDB_API_KEY the run is kept offline, in the run's folder. Empty: no W&B."""
    group: str = ""
    """W&B's name for runs that belong together."""


def check_installed(tracking: TrackingConfig) -> None:
    """Raise `RaylabError` where W&B is asked for and is not installed."""
    if tracking.project and importlib.util.find_spec("wandb") is None:
        raise RaylabError(
            "--track.project needs W&B, which is not installed: install raylab[train], or leave the project empty."
        )


class WandBRun:
    """A run in W&B, or its files that ``wandb sync`` sends later.

    What goes wrong in W&B ends no run of ours: it is said once, and W&B is left alone from there on.

    Args:
        out: the run's folder, whose last part is its name in W&B. W&B's files end in there.
        project: W&B's; empty: nothing is told.
        config: the run's, as plain values.
        group: W&B's name for runs that belong together.
        job_type: ``train``, ``label``, ``annotate`` or ``evaluate``.
        say: takes a line for people.
    """

    def __init__(
        self,
        out: Folder,
        project: str,
        config: Mapping[str, Any],
        *,
        group: str = "",
        job_type: str = "train",
        say: Callable[[str], object] = logger.warning,
    ) -> None:
        self._out, self._say = out, say
        self._run: Any = None
        self._sent = 0
        self._disk: Path | None = None
        if not project or os.environ.get("WANDB_MODE") == "disabled":
            return
        self._disk = Path(out.path("") if out.is_local else tempfile.mkdtemp(prefix="raylab-wandb-"))
        self._disk.mkdir(parents=True, exist_ok=True)
        about = {"project": project, "config": dict(config), "group": group or None, "job_type": job_type}
        with self._spared():
            self._run = _open_wandb(out, about, self._disk, say)
            self._sent = self._last_sent()

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """Spare the run what goes wrong in W&B."""
        try:
            yield
        except Exception as error:  # of W&B's service, its files, its server: none is worth a run
            self._run = None
            self._say(f"W&B is told no more of this run: {_first_line(error)}")

    def _last_sent(self) -> int:
        """Return the last step that W&B has: of a run that goes on, points behind its checkpoint are there already."""
        if not self._run.offline:
            return int(self._run.summary.get("step") or 0)
        return int(self._note.read_text()) if self._note.exists() else 0

    @property
    def _note(self) -> Path:
        """Where the last step that an offline run has lies: beside its files, and gone where they are gone."""
        assert self._disk is not None
        return self._disk / "wandb" / SENT

    def add(self, step: int, point: Mapping[str, float]) -> None:
        """Take a point of the curves, unless it is there already."""
        if self._run is None or step <= self._sent:
            return
        with self._spared():
            self._run.log({"step": step, **point})
            self._sent = step
            self._note.parent.mkdir(parents=True, exist_ok=True)
            self._note.write_text(str(step))

    def extend(self, step: int, more: Mapping[str, float]) -> None:
        """Take what became known after the point of a step."""
        if self._run is not None:
            with self._spared():
                self._run.log({"step": step, **more})

    def add_images(self, name: str, pictures: Iterable[tuple[Any, str]], file_type: str = "png") -> None:
        """Take pictures (anything that `wandb.Image` does) with captions."""
        if self._run is None:
            return
        with self._spared():
            import wandb

            shown = [wandb.Image(picture, caption=caption, file_type=file_type) for picture, caption in pictures]
            self._run.log({name: shown})

    def add_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Take a table. It is one of the run's files: an artifact would lie elsewhere on this host until it is sent."""
        if self._run is None:
            return
        with self._spared():
            import wandb

            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
            table.bind_to_run(self._run, name, self._run.step)
            self._run.log({name: table})

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Take the figures that stand for the whole run."""
        if self._run is not None:
            with self._spared():
                self._run.summary.update(dict(figures))

    def attach(self, names: Iterable[str]) -> None:
        """Take files of the run's folder, those that are there. They are copied: the run may be moved, then sent."""
        if self._run is None:
            return
        with self._spared():
            kept = Path(self._run.dir)
            for name in filter(self._out.exists, names):
                (kept / name).parent.mkdir(parents=True, exist_ok=True)
                (kept / name).write_bytes(self._out.read_bytes(name))
                self._run.save(kept / name, base_path=kept, policy="now", glob=False)

    def finish(self, failed: bool = False) -> None:
        """Let go of W&B; what it kept on this host's disk goes to the run's folder. Waits `FINISH_SECONDS` at most."""
        if self._run is not None:
            with self._spared():
                self._finish(failed)
            self._run = None
        if self._disk is not None and not self._out.is_local:
            for file in filter(Path.is_file, self._disk.rglob("*")):
                self._out.put(file, file.relative_to(self._disk).as_posix())
            shutil.rmtree(self._disk)
        self._disk = None

    def _finish(self, failed: bool) -> None:
        files = Path(self._run.dir).parent.name
        try:
            self._run.finish(exit_code=int(failed))
        except TimeoutError:
            self._say(f"W&B's server has not taken all of the run. {_sync(self._out, files)}")


class Tracker:
    """Takes points; one process of a run has one.

    Args:
        out: the run's folder.
        project: W&B's project; empty: no W&B.
        config: the run's, as plain values, for W&B.
        start: the step that the run goes on from: points behind it are dropped, they come again.
        group: W&B's name for runs that belong together.
        say: takes a line for people, where W&B is not to be had.
    """

    def __init__(
        self,
        out: Folder,
        project: str,
        config: Mapping[str, Any],
        start: int = 0,
        *,
        group: str = "",
        say: Callable[[str], object] = logger.warning,
    ) -> None:
        self._out = out
        self._lines = [line for line in self._read() if json.loads(line)["step"] <= start]
        self._wandb = WandBRun(out, project, config, group=group, say=say)

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
        self._wandb.add(step, point)
        shown = (f"{name} {value:.4g}" for name, value in point.items() if not name.startswith("rate/"))
        return f"step {step}  " + "  ".join(shown)

    def extend(self, step: int, more: Mapping[str, float]) -> None:
        """Add to the latest point, which is that of a step, what became known after it."""
        self._lines[-1] = json.dumps(json.loads(self._lines[-1]) | more)
        self.flush()
        self._wandb.extend(step, more)

    def add_images(self, name: str, pictures: list[tuple[Any, str]]) -> None:
        """Show pictures (anything that `wandb.Image` takes) with captions."""
        self._wandb.add_images(name, pictures)

    def flush(self) -> None:
        """Write the curves' file."""
        self._out.write_bytes(CURVES, "".join(f"{line}\n" for line in self._lines).encode())

    def close(self, failed: bool = False) -> None:
        """Write what is left, and let go of W&B."""
        self.flush()
        self._wandb.attach(ATTACHED)
        self._wandb.finish(failed)


@contextmanager
def open_run(out: Folder, tracking: TrackingConfig, config: Mapping[str, Any], job_type: str) -> Iterator[WandBRun]:
    """Open a finished run in W&B, to tell of it; see `WandBRun`."""
    run = WandBRun(out, tracking.project, config, group=tracking.group, job_type=job_type)
    try:
        yield run
    except BaseException:
        run.finish(failed=True)
        raise
    run.finish()


def _open_wandb(out: Folder, about: Mapping[str, Any], disk: Path, say: Callable[[str], object]) -> Any:
    """Begin the W&B run, or go on with it; its id lies in the run's folder.

    The key is read by wandb itself, from the environment or its own login file. Without one the run is kept offline,
    and where the server does not take it, too.
    """
    import wandb

    known = out.read_json(WANDB)["id"] if out.exists(WANDB) else None
    name = out.uri.rsplit("/", 1)[-1]
    more = dict(about) | {"name": name, "dir": disk, "id": known}
    before = set(disk.glob("wandb/*"))
    try:
        run = _init(more, wandb_mode(), resume=bool(known))
    except Exception as error:  # no server, a key that it refuses, one that is none
        wandb.teardown()  # else its service goes on with the run that did not begin, and refuses another of its id
        for left in set(disk.glob("wandb/run-*")) - before:  # of a run that never began
            shutil.rmtree(left)
        run = _init(more, "offline", resume=bool(known))
        say(f"W&B does not take the run: {_first_line(error)}. {_sync(out, Path(run.dir).parent.name)}")
    if about["job_type"] == "train":
        run.define_metric("*", step_metric="step")
    out.write_json(WANDB, {"id": run.id, "project": about["project"]})
    return run


def wandb_mode() -> str:
    """Return W&B's mode on this host: ``online`` where it has a key and WANDB_MODE does not say otherwise."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")


def _init(about: Mapping[str, Any], mode: str, *, resume: bool) -> Any:
    import wandb

    settings = wandb.Settings(
        silent=True, init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True
    )
    # Else a run that W&B has lost would be handed out again for the next of this process.
    options: dict[str, Any] = {"resume": "allow" if resume else None, "reinit": "create_new", "settings": settings}
    return wandb.init(**about, mode=mode, **options)  # type: ignore[arg-type]


def _first_line(error: BaseException) -> str:
    return (str(error).partition("\n")[0] or type(error).__name__)[:300]


def _sync(out: Folder, files: str) -> str:
    where = f"{out.uri}/wandb/{files}"
    way = f"wandb sync {where}" if out.is_local else f"copy {where} to a disk, and wandb sync it"
    return f"It is kept offline; to send it later: {way}"


def clear_temporary() -> None:
    """Remove W&B's temporary folders, as it does itself when an interpreter ends; Ray's workers end without that.

    This process can show no more pictures in W&B.
    """
    from wandb.sdk.artifacts.artifact import Artifact
    from wandb.sdk.data_types._private import MEDIA_TMP

    for folder in (Artifact._TMP_DIR, MEDIA_TMP):
        folder.cleanup()
