"""The host reads the next batch while the devices compute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Thread

import pytest
from train.runs import prepared
from train.training_store import Store
from xla.small_runs import config_of

from raylab.tasks.base import Arrays
from raylab.train.accelerators import open_accelerator
from raylab.train.loop import Loop
from raylab.train.worker import arrays, build, read_here

pytest.importorskip("torch_xla", reason="torch-xla has an environment of its own: make test-xla")

STEPS, WARM = 7, 3
READ_S = 0.02
"""What reading takes: a device that was waited for would be done by then."""


class Diary:
    """What happened, in order: a batch was read, a step was done by the devices."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []

    def read(self, batches: list[Arrays]) -> Iterator[Arrays]:
        for number, batch in enumerate(batches):
            time.sleep(READ_S)
            self.lines.append(("read", number))
            yield batch

    def read_before_done(self, batch: int, step: int) -> bool:
        return self.lines.index(("read", batch)) < self.lines.index(("done", step))


@pytest.mark.timeout(300)
def test_a_batch_is_read_while_a_step_runs(store: Store, tower: Path, tmp_path: Path) -> None:
    config = config_of("clip_miniworld", store, tower, tmp_path / "run")
    run = prepared(replace(config, batch=64, steps=STEPS, data=replace(config.data, held_out=0.0)))
    accelerator = open_accelerator("xla")
    learner, state = build(run, accelerator)
    given = list(islice(arrays(run, read_here, 0, accelerator), STEPS))
    diary, waiting = Diary(), []
    submit, step = accelerator.submit, iter(range(STEPS))

    def submitted() -> None:
        """Submit a step, and note beside it when the devices have done it."""
        submit()
        number = next(step)
        waiting.append(Thread(target=lambda: (accelerator.synchronise(), diary.lines.append(("done", number)))))
        waiting[-1].start()

    accelerator.submit = submitted  # type: ignore[method-assign]
    loop = Loop(
        learner=learner,
        module=state.module,
        optimizers=state.optimizers,
        accelerator=accelerator,
        optim=run.config.optim,
        steps=STEPS,
        accumulate=1,
        precision="fp32",
        seed=0,
        log_every=STEPS,
        on_point=lambda number, point: False,
        save_every=STEPS,
        on_save=lambda number: None,
        evaluate_every=STEPS,
        evaluate=dict,
    )
    loop.run(diary.read(given))
    for thread in waiting:
        thread.join()
    # While a step runs its successor's rows lie on the devices, and the batch after that is read
    assert all(diary.read_before_done(number + 2, number) for number in range(WARM, STEPS - 2))
