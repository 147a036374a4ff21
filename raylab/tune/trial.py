"""One trial: a training run that is looked at now and then, and waits each time until it is told to go on.

Knows no Ray: the run is a function that is called in a thread, and calls back at each look.

A trial that was killed begins again from its folder: looks that were made are given from there, the run goes on from
its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from raylab.errors import Interrupted, OutOfMemory, RaylabError
from raylab.storage import Folder
from raylab.tracking import CURVES
from raylab.train.board import Pace, Point, Word
from raylab.train.examples import EXAMPLES, POINTER, checkpoint_name
from raylab.train.plan import TrainConfig
from raylab.tune.plan import Sweep
from raylab.tune.results import END, LOOKS, TRIAL, TRIALS, note, read_looks
from raylab.tune.validation import Validation

logger = logging.getLogger(__name__)

Train = Callable[[TrainConfig, Pace], dict[str, Any]]
"""`raylab.train.run.run`."""

SHARED = "shared"
"""In a sweep's folder: what all trials take from the first survey of the labels."""
SECONDS_TO_END = 300.0
"""How long a run may take to end at its next look, once it is told to."""


class Trial:
    """See the module.

    Args:
        sweep: what it belongs to.
        name: its folder's name below the sweep's `results.TRIALS`.
        values: field -> the value drawn; one that was begun before has its own.
        train: makes the run.

    Raises:
        RaylabError: the recipe refuses the values, or it failed before.
    """

    def __init__(self, sweep: Sweep, name: str, values: Mapping[str, Any], train: Train) -> None:
        root = Folder(sweep.train.out)
        self.name, self.out = name, Folder(f"{root.uri}/{TRIALS}/{name}")
        self._sweep, self._train = sweep, train
        self.config = self._begin(root, values)
        self._news: SimpleQueue[tuple[int, Point] | BaseException | None] = SimpleQueue()
        self._goes: SimpleQueue[bool] = SimpleQueue()
        self._thread: Thread | None = None
        self._waits = self._ended = self._stopped = False
        self._validation = Validation(sweep.benchmarks, sweep.validation)
        self._looks = [point for point in read_looks(self.out) if point["step"] <= self._made()]
        self._untold = deque(self._looks)

    def _begin(self, root: Folder, values: Mapping[str, Any]) -> TrainConfig:
        """Write down what the trial is, first of all: it is accounted for whatever comes. Return its config."""
        note(self.out, values)
        if self.out.exists(END) and (end := self.out.read_json(END))["status"] == "failed":
            raise RaylabError(end["error"])
        try:
            config = self._sweep.trial(self.out.read_json(TRIAL)["values"], self.out.uri)
        except RaylabError as error:
            self._fail(error)
            raise
        for name in root.names(SHARED):
            file = name.rpartition("/")[2]
            if not self.out.exists(file):
                self.out.write_bytes(file, root.read_bytes(name))
        return config

    def _made(self) -> float:
        """Return up to which step its looks are told again: those of a trial at its end all are."""
        if self.out.exists(END):
            return math.inf
        return float(self.out.read_json(POINTER)["step"]) if self.out.exists(POINTER) else 0.0

    def _fail(self, error: RaylabError) -> None:
        self.out.write_json(END, {"status": "failed", "error": str(error)})

    def go_on_after(self, step: int) -> None:
        """Tell no look up to this step again."""
        self._untold = deque(point for point in self._untold if point["step"] > step)

    def look(self) -> tuple[Point, bool]:
        """Train to the next look; return its point, with ``step``, and whether it is the last.

        The last one of a trial that was stopped before is where it was stopped.

        Raises:
            RaylabError: the run ended for good, and the reason lies in the trial's folder; or `Interrupted`: it goes on
                when it is begun again.
        """
        try:
            point = self._untold.popleft() if self._untold else self._next()
            last = int(point["step"]) == self.config.steps
            if last:
                self._finish()
            self._check(point)
        except Interrupted:
            raise
        except RaylabError as error:
            self._fail(error)
            raise
        return point, last or (not self._untold and self._was_stopped())

    def _was_stopped(self) -> bool:
        return self.out.exists(END) and self.out.read_json(END)["status"] == "stopped"

    def _check(self, point: Point) -> None:
        for objective in self._sweep.objectives:
            if objective.name not in point:
                known = ", ".join(name for name in point if "/" in name and not name.startswith("rate/"))
                raise RaylabError(f"--objective {objective.name} is not among what a trial tells: {known}.")
            if not math.isfinite(value := point[objective.name]):
                raise RaylabError(f"{objective.name} is {value} after step {point['step']:g}: no trial goes by that.")

    def _next(self) -> Point:
        point = self._take() or self._late()
        self._looks.append(point)
        self.out.write_bytes(LOOKS, "".join(f"{json.dumps(one)}\n" for one in self._looks).encode())
        return point

    def _take(self) -> Point | None:
        """Let the run go on to its next look; return that, or None where the run came to its end instead."""
        self._go(True)
        news = self._news.get()
        self._ended = not isinstance(news, tuple)
        if isinstance(news, BaseException):
            raise news
        if news is None:
            return None
        self._waits = True
        return {"step": news[0], **news[1]}

    def _late(self) -> Point:
        """Return the last look of a run that was killed between its last step and that look."""
        last = self.out.read_bytes(CURVES).decode().splitlines()[-1]
        return json.loads(last) | self._validation(self._write_model)

    def _go(self, goes: bool) -> None:
        """Begin the run, or tell it to go on or to end."""
        if self._thread is None and goes:
            self._thread = Thread(target=self._run, daemon=True)
            self._thread.start()
        elif self._waits:
            self._goes.put(goes)
            self._waits = False

    def _run(self) -> None:
        try:
            self._train_with_less(self._sweep.config.retries)
        except BaseException as error:
            self._news.put(error)
        else:
            self._news.put(None)

    def _train_with_less(self, tries: int) -> None:
        """Train; where a step does not fit a device, with twice the passes."""
        try:
            self._train(self.config, self)
        except OutOfMemory as error:
            smaller = smaller_passes(self.config)
            if not (tries and smaller):
                raise
            logger.warning("trial %s: %s: trying %d passes a step", self.name, error, smaller.parallel.accumulate)
            self.config = smaller
            self._train_with_less(tries - 1)

    def at(self, step: int, point: Point) -> Word:
        """See `Pace`: called by the run, in its own thread."""
        if self._stopped:
            return Word(goes=False, more={})
        try:
            more = self._validation(self._write_model)
        except Exception as error:  # raised again in `look`; here the workers would wait for ever
            self._stopped = True
            self._news.put(error)
            return Word(goes=False, more={})
        self._news.put((step, point | more))
        return Word(self._goes.get(), more)

    def _write_model(self, folder: Path) -> None:
        from raylab.train.export import write_model
        from raylab.train.worker import Run

        write_model(Run(self.config, self.out.read_json(EXAMPLES)), folder)

    def _finish(self) -> None:
        """Let the run write its model and end."""
        while not self._ended:
            self._take()
        self.out.write_json(END, {"status": "finished"})

    def stop(self) -> None:
        """End the run where it waits, or at its next look; returns when it ended."""
        self._stopped = True
        self._go(False)
        if self._thread is not None:
            self._thread.join(SECONDS_TO_END)


def branch(root: Folder, donor: str, step: int, name: str, values: Mapping[str, Any]) -> None:
    """Let a trial that has not begun go on from another one's checkpoint.

    Args:
        root: the sweep's folder.
        donor: the other one's name.
        step: of the checkpoint.
        name: the trial's.
        values: the trial's.
    """
    source, target = Folder(f"{root.uri}/{TRIALS}/{donor}"), Folder(f"{root.uri}/{TRIALS}/{name}")
    checkpoint = checkpoint_name(step)
    source.fs.copy(f"{source.path(checkpoint)}/", f"{target.path(checkpoint)}/", recursive=True)
    target.write_json(POINTER, {"step": step})
    note(target, values)


def smaller_passes(config: TrainConfig) -> TrainConfig | None:
    """Return the config with twice the passes a step, None where a worker's pass cannot be halved."""
    parallel = config.parallel
    passes = 2 * parallel.accumulate
    if config.batch % (parallel.workers * passes):
        return None
    return replace(config, parallel=replace(parallel, accumulate=passes))
