"""What a row costs at each step: shipped measurements and assumptions, or those of a user's own run.

A run of `jobs/label.py` writes what it takes: ``summary.json`` has each step's core seconds, the manifest the parts. So
ten thousand rows of one's own, on one's own machine, give the rates of a run of any size.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raylab.errors import RaylabError, nearest
from raylab.label.store import LabelStore
from raylab.storage import Folder

SHIPPED = Path(__file__).with_name("rates.toml")
BASES = ("measured", "counted", "assumed")
"""Seen on a machine; counted from a model's operations or from files; or neither, with a reason."""


@dataclass(frozen=True)
class Rate:
    """What one step takes for a row, and how that is known."""

    cpu_s: float
    """Core seconds a row, all of it on cores."""
    basis: str
    by: str
    """The command and the machine, or why it is assumed."""
    host_s: float = 0.0
    """Core seconds a row that are left where a GPU runs the model: reading and decoding."""
    gflop: float = 0.0
    """Of the model, a row: what a GPU does. 0: the step has no use for a GPU."""
    gpu_s: float = 0.0
    """Device seconds a row, where a run on a GPU was measured; goes before `gflop`."""


@dataclass(frozen=True)
class Sizes:
    """Bytes a row."""

    image: float
    """Of the image, read over the network by the step that looks at it."""
    pair: float
    """Of caption and key, read by the read task."""
    flow: Mapping[str, float]
    """Of a row in the object store before each step, by the step's name."""
    out: float
    """On the run's storage: labels and rejects, Parquet."""


@dataclass(frozen=True)
class Fixed:
    """What a run costs beside its steps."""

    start_cpu_s: float
    """Core seconds of the driver until the pools are asked for."""
    start_ray_s: float
    """Core seconds of Ray's processes meanwhile."""
    start_wait_s: float
    """Seconds of the same without work on a core, on one machine. Where a cluster is up, `join_wait_s` instead."""
    join_cpu_s: float
    """Of the driver, where the cluster is up."""
    join_wait_s: float
    reader_cpu_s: float
    """Core seconds until a process that reads has started."""
    actor_cpu_s: float
    """Core seconds until an actor has its models."""
    actor_wait_s: float
    actor_row_s: float
    """Core seconds of an actor a row, beside its steps: blocks in and out, pieces written."""
    driver_row_s: float
    """Core seconds of the driver a row: blocks, commits."""
    driver_share: float
    """Cores that the driver takes all the time: Ray Data's scheduling."""
    node_share: float
    """Cores that Ray's own processes take on a node all the time."""
    end_cpu_s: float
    """Core seconds behind the last row: shutdown, files of the run."""
    end_row_s: float
    """The same a row: the second pass, counts."""
    report_row_s: float
    """The same a row that the report looks at."""
    report_rows: float
    """Those, at the most: of labels and of rejects `label.survey.MOST_ROWS` each."""
    boot_s: float
    """Until a machine that the autoscaler asked for has joined."""


@dataclass(frozen=True)
class Device:
    """A kind of GPU or TPU."""

    tflops: float
    """Dense, bfloat16."""
    by: str


@dataclass(frozen=True)
class Answers:
    """What an annotator takes."""

    share: float
    """Rows that are asked about, as a share of all."""
    tokens: float
    """Answer tokens a row."""
    tokens_per_s: Mapping[str, float]
    """Kind of GPU -> answer tokens/s of one card (of a copy on several: of each)."""
    gpus: float
    """Cards a copy of the model takes."""
    start_s: float
    """Until the engine answers."""
    host_s: float
    """Core seconds a row: templates, pictures, tokens."""
    basis: str
    by: str


@dataclass(frozen=True)
class Training:
    """What a training recipe takes."""

    gflop: float
    """A row, forward and backward."""
    cpu_s: float
    """Core seconds a row on a machine without a GPU; 0: nobody has measured it."""
    host_s: float
    """Core seconds a row beside the device: reading and decoding."""
    basis: str
    by: str


@dataclass(frozen=True)
class Rates:
    """All that the model needs to know."""

    said: str
    """Where this is from."""
    steps: Mapping[str, Rate]
    sizes: Sizes
    fixed: Fixed
    devices: Mapping[str, Device]
    use: Mapping[str, float]
    """``infer`` and ``train``: the share of a device's peak that a model gets. Assumed."""
    answers: Answers | None = None
    training: Training | None = None
    assumed: tuple[str, ...] = field(default_factory=tuple)
    """What of this nobody measured, in words."""


def load(recipe: str, given: str = "") -> Rates:
    """Return the rates for a recipe.

    Args:
        recipe: of labeling, annotation or training.
        given: a run's folder, or a file in the form of `SHIPPED`; empty: `SHIPPED`.

    Raises:
        RaylabError: a key is missing or no number (file and key are named); no rates for the recipe; not a run.
    """
    if not given or given.endswith(".toml"):
        return _of_file(Path(given) if given else SHIPPED, recipe)
    shipped = _of_file(SHIPPED, recipe)
    return of_run(given, shipped)


def of_run(uri: str, shipped: Rates) -> Rates:
    """Return `shipped` with what a finished labeling run took in place of the steps and sizes.

    Raises:
        RaylabError: the run is not finished, or was made by a version that kept no core seconds.
    """
    store = LabelStore(uri)
    folder = store.folder
    summary, config = folder.read_json("summary.json"), folder.read_json("config.json")
    rows = summary["rows_in"]
    if not rows:
        raise RaylabError(f"--rates {uri}: the run has no rows.")
    steps = {}
    for step in summary["steps"]:
        name = step["name"]
        if name == "count":
            continue
        if not step.get("cpu_seconds"):
            raise RaylabError(f"--rates {uri}/summary.json: steps.{name}.cpu_seconds is missing: run it again.")
        steps[name] = _of_step(step, rows, config["pools"].get(name, {}), f"{uri}, {rows:,} rows")
    sizes = replace(shipped.sizes, out=_bytes(store) / rows)
    kept = tuple(said for said in shipped.assumed if not said.startswith("step "))
    return replace(shipped, said=f"steps: {uri} ({rows:,} rows); else {shipped.said}", steps={**shipped.steps, **steps},
                   sizes=sizes, assumed=kept)  # fmt: skip


def _of_step(step: Mapping[str, Any], rows: int, pool: Mapping[str, Any], said: str) -> Rate:
    cpu_s = step["cpu_seconds"] / rows
    if not pool.get("num_gpus"):
        return Rate(cpu_s, "measured", said)
    gpu_s = step["worker_seconds"] * pool["num_gpus"] / rows  # at most: an actor that waits holds its share of the card
    return Rate(cpu_s, "measured", said, host_s=cpu_s, gpu_s=gpu_s)


def _bytes(store: LabelStore) -> float:
    folder: Folder = store.folder
    return sum(folder.fs.size(folder.path(part)) for part in store.manifest["labels"] + store.manifest["rejects"])


# -- the file


class _Table:
    """A table of the file that knows its name: what is missing or wrong is named in full."""

    def __init__(self, file: Path, name: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise RaylabError(f"{file}: [{name}] is missing.")
        self.file, self.name, self.values = file, name, values

    def table(self, key: str) -> _Table:
        return _Table(self.file, f"{self.name}.{key}" if self.name else key, self.values.get(key))

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if value is None:
            raise RaylabError(f"{self.file}: {self.name}.{key} is missing.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise RaylabError(f"{self.file}: {self.name}.{key} must be a number of 0 or more, not {value!r}.")
        return float(value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise RaylabError(f"{self.file}: {self.name}.{key} must say something.")
        return value

    def basis(self) -> str:
        value = self.text("basis")
        if value not in BASES:
            raise RaylabError(f"{self.file}: {self.name}.basis must be one of {', '.join(BASES)}, not {value!r}.")
        return value

    def numbers(self) -> dict[str, float]:
        return {key: self.number(key) for key, value in self.values.items() if not isinstance(value, str)}


def _of_file(file: Path, recipe: str) -> Rates:
    try:
        root = _Table(file, "", tomllib.loads(file.read_text()))
    except OSError as error:
        raise RaylabError(f"--rates {file}: {error.strerror}.") from error
    except ValueError as error:
        raise RaylabError(f"--rates {file} is no TOML: {error}") from error
    recipes = root.table("recipe").values
    if recipe not in recipes:
        raise RaylabError(f"{file} has no rates for the recipe {recipe!r}.{nearest(recipe, recipes)}")
    mine = root.table("recipe").table(recipe)
    profile = mine.values.get("steps", "")
    steps = _steps(root, profile) if profile else {}
    training = _training(mine.table("training")) if "training" in mine.values else None
    answers = _answers(mine.table("answers")) if "answers" in mine.values else None
    fixed = root.table("fixed").table(profile or "web")
    sizes = root.table("sizes").table(profile or "web")
    return Rates(
        said=root.text("said"),
        steps=steps,
        sizes=Sizes(sizes.number("image"), sizes.number("pair"), sizes.table("flow").numbers(), sizes.number("out")),
        fixed=Fixed(**{name: fixed.number(name) for name in Fixed.__dataclass_fields__}),
        devices=_devices(root),
        use=root.table("use").numbers(),
        answers=answers,
        training=training,
        assumed=_assumed(steps, answers),
    )


def _steps(root: _Table, profile: str) -> dict[str, Rate]:
    found = {}
    table = root.table("steps").table(profile)
    for name in table.values:
        one = table.table(name)
        numbers = {key: one.number(key, 0.0) for key in ("host_s", "gflop", "gpu_s")}
        found[name] = Rate(one.number("cpu_s"), one.basis(), one.text("by"), **numbers)
    return found


def _devices(root: _Table) -> dict[str, Device]:
    table = root.table("device")
    return {name: Device(table.table(name).number("tflops"), table.table(name).text("by")) for name in table.values}


def _answers(one: _Table) -> Answers:
    numbers = {name: one.number(name) for name in ("share", "tokens", "gpus", "start_s", "host_s")}
    return Answers(tokens_per_s=one.table("tokens_per_s").numbers(), basis=one.basis(), by=one.text("by"), **numbers)


def _training(one: _Table) -> Training:
    numbers = {name: one.number(name) for name in ("gflop", "cpu_s", "host_s")}
    return Training(basis=one.basis(), by=one.text("by"), **numbers)


def _assumed(steps: Mapping[str, Rate], answers: Answers | None) -> tuple[str, ...]:
    found = [f"step {name}: {one.by}" for name, one in steps.items() if one.basis == "assumed"]
    return (*found, *([f"annotator: {answers.by}"] if answers and answers.basis == "assumed" else []))
