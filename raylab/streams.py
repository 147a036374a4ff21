"""Ray Data as the runs use it: a dataset of read tasks of our own, in small blocks, whose errors stay ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from raylab.session import READ_CPUS

BLOCK_BYTES = 2**20
"""Rows travel in blocks of about this size, some thousand captions: pools fill early and a retry repeats little."""

Read = Callable[[], Iterable[pa.Table]]
"""Yields the rows of one read task. Travels to a worker, so it has to be cheap to pickle."""


def stream(reads: Sequence[Read], *, block_bytes: int = BLOCK_BYTES, ordered: bool = False) -> ray.data.Dataset:
    """Return the rows of some read tasks, as a dataset that starts when it is read.

    Args:
        reads: the tasks.
        block_bytes: rows travel in blocks of about this size.
        ordered: rows come in the order of the tasks.

    Raises:
        Exception: while the dataset is read, what a task or an actor died of, wrapped by Ray (`session.plain_errors`).
    """
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = block_bytes
    context.execution_options.preserve_order = ordered
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # without it, Ray Data's wrapping loses our errors
    return ray.data.read_datasource(_Reads(reads), override_num_blocks=len(reads), num_cpus=READ_CPUS)


class _Reads(Datasource):
    def __init__(self, reads: Sequence[Read]) -> None:
        super().__init__()
        self._reads = reads

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(read, unknown) for read in self._reads]
