"""One pool's actor: the steps it holds, over the rows it is handed. Knows no Ray."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import pyarrow as pa

from raylab.errors import RaylabError
from raylab.label.isolate import Isolated, Ledger, survive
from raylab.label.step import StepConfig, StepContext
from raylab.label.store import PIECES, write_pieces
from raylab.storage import Folder, check_seen


class StageWorker:
    """Runs the steps of one stage; the last stage also writes what is finished.

    A step that cannot be built (a model that is not installed) is reported at the first batch: an actor that fails
    while it is made would be made again and again.

    Args:
        name: the stage's name.
        steps: step name -> its config, in order.
        context: what steps are built with.
        ledger: where attempts are noted, see `isolate.survive`.
        folder: the run's folder for the last stage, otherwise None.
    """

    def __init__(
        self, name: str, steps: Mapping[str, StepConfig], context: StepContext, ledger: Ledger, folder: Folder | None
    ) -> None:
        """Build the steps."""
        self.name = name
        self.ledger = ledger
        self.folder = folder
        self.error: RaylabError | None = None
        self.steps: list[Isolated] = []
        try:
            if folder is not None:
                check_seen(folder, "run.json", platform.node())
            self.steps = [Isolated(step, config.build(context)) for step, config in steps.items()]
        except RaylabError as error:
            self.error = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the rows with this stage's columns, or as the last stage what was written, as `store.PIECES`."""
        if self.error:
            raise self.error
        if batch.num_rows:
            batch = survive(batch.combine_chunks(), self.name, self.ledger, self._work)
        if self.folder is None:
            return batch
        return write_pieces(self.folder, batch) if batch.num_rows else PIECES.empty_table()

    def _work(self, batch: pa.Table) -> pa.Table:
        for step in self.steps:
            batch = step(batch)
        return batch
