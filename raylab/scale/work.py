"""What one row costs at each place it passes, and what a run costs beside its rows: the terms of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StageWork:
    """One pool's share of a row. Costs are means over all rows that the run takes in, rejected ones included."""

    name: str
    cpu_s: float
    """Core seconds in the actor, a row."""
    gpu_s: Mapping[str, float] = field(default_factory=dict)
    """Kind of GPU -> device seconds a row. Empty: the stage needs no GPU."""
    gpus_a_copy: float = 1.0
    """GPUs that work on one row together."""
    shares_gpu: bool = True
    """Several actors may use one card."""
    link_bytes: float = 0.0
    """Bytes that the stage itself reads over the node's network link, a row."""
    in_bytes: float = 0.0
    """Bytes of a row as it waits in the object store for this stage."""
    batch_rows: int = 256
    start_cpu_s: float = 0.0
    """Core seconds until an actor's models are loaded."""
    start_wait_s: float = 0.0
    """Seconds of the same that pass without work on a core."""

    @property
    def on_gpu(self) -> bool:
        """Whether the stage needs a GPU."""
        return bool(self.gpu_s)


@dataclass(frozen=True)
class Phase:
    """Stages that work at the same time, from the first row to the last; a run has one phase or several in turn."""

    name: str
    read: StageWork
    """Reads rows, in tasks beside the pools."""
    stages: tuple[StageWork, ...]
    rows_share: float = 1.0
    """Rows of this phase, as a share of the run's."""
    driver_s: float = 0.0
    """Core seconds of the driver a row: blocks handed on, commits."""
    driver_share: float = 0.0
    """Cores that the driver takes all the time, whatever it does."""
    node_share: float = 0.0
    """Cores that Ray's own processes take on each worker all the time."""
    start_cpu_s: float = 0.0
    """Core seconds of the driver until the pools are asked for."""
    start_ray_s: float = 0.0
    """Core seconds of Ray's processes meanwhile."""
    start_wait_s: float = 0.0
    """Seconds of the same without work on a core."""
    end_cpu_s: float = 0.0
    """Core seconds of the driver behind the last row, whatever the number of rows: shutdown, files of the run."""
    end_row_s: float = 0.0
    """The same a row: the second pass, counts."""
    report_row_s: float = 0.0
    """The same a row that the report looks at."""
    report_rows: float = 0.0
    """Those, at the most."""

    def end_s(self, rows: float) -> float:
        """Return the core seconds of the driver behind the last of so many rows."""
        return self.end_cpu_s + self.end_row_s * rows + self.report_row_s * min(rows, self.report_rows)

    @property
    def core_s(self) -> float:
        """Core seconds that a row takes on the workers, in all stages."""
        return sum(one.cpu_s for one in (self.read, *self.stages))

    def usable(self, cores: float, *, driver: bool = False) -> float:
        """Return what Ray, and the driver where it is there too, leave of a worker's cores."""
        return max(cores / 10, cores - self.node_share - (self.driver_share if driver else 0.0))
