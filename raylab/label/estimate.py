"""A dry run: steps, pools and resources, rates measured here on a sample, and what N rows would cost."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import pyarrow as pa

from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.label.isolate import Isolated
from raylab.label.plan import LabelConfig, Stage, check, stages
from raylab.label.step import StepContext
from raylab.schema import widen
from raylab.sources import open_source

SAMPLE_ROWS = 256
"""Rows that are labelled to measure the rates; the first ones of the source."""


@dataclass(frozen=True)
class StageEstimate:
    """A stage's rate on the sample and what follows from it."""

    stage: Stage
    rows_per_s: float
    """Of one actor, on this machine."""

    def hours(self, rows: int) -> float:
        """Return wall-clock hours for `rows` rows with the pool at its largest."""
        return rows / (self.rows_per_s * self.stage.pool.max_actors) / 3600


def dry_run(config: LabelConfig) -> str:
    """Label a small sample in this process and return the plan as text.

    Raises:
        RaylabError: whatever the run itself would stop at: a missing model, knowledge base or column.
    """
    check(config)
    kb = Catalog.open(config.kb).info
    shards = open_source(config.source).shards()
    estimates, _ = measure(config)
    lines = [
        f"source   {config.source.uri}: {len(shards)} shards",
        f"kb       {config.kb}: {kb.entities:,} entities, {kb.aliases:,} aliases, fingerprint {kb.fingerprint}",
        f"out      {config.out}",
        "",
        f"{'stage':<36}{'actors':>9}{'CPUs':>7}{'GPUs':>7}{'batch':>8}{'rows/s an actor':>18}",
    ]
    for one in estimates:
        pool = one.stage.pool
        actors = f"{pool.min_actors}-{pool.max_actors}"
        lines.append(
            f"{one.stage.name:<36}{actors:>9}{pool.num_cpus:>7g}{pool.num_gpus:>7g}"
            f"{pool.batch_rows:>8}{one.rows_per_s:>18,.0f}"
        )
    return "\n".join([*lines, "", *_totals(config, estimates)])


def measure(config: LabelConfig) -> tuple[list[StageEstimate], pa.Table]:
    """Run each stage over the sample in this process, models loaded and warm, and time it.

    Returns:
        The estimates, and the sample as it leaves the last stage.
    """
    source = open_source(config.source)
    chunks = itertools.chain.from_iterable(source.read(shard) for shard in source.shards())
    sample = _first_rows(chunks, SAMPLE_ROWS)
    configs = config.step_configs()
    found = []
    for stage in stages(config):
        context = StepContext(kb=config.kb, source=config.source, device=stage.device)
        steps = [Isolated(name, configs[name].build(context)) for name in stage.steps]
        for warm in (True, False):
            batch = sample.slice(0, 16) if warm else sample
            started = time.perf_counter()
            for step in steps:
                batch = step(batch)
        found.append(StageEstimate(stage, sample.num_rows / (time.perf_counter() - started)))
        sample = batch
    return found, sample


def _first_rows(chunks: itertools.chain[pa.Table], rows: int) -> pa.Table:
    taken: list[pa.Table] = []
    while (missing := rows - sum(chunk.num_rows for chunk in taken)) > 0 and (chunk := next(chunks, None)) is not None:
        taken.append(widen(chunk).slice(0, missing))
    if not taken:
        raise RaylabError("The source has no rows: there is nothing to estimate from.")
    return pa.concat_tables(taken).combine_chunks()


def _totals(config: LabelConfig, estimates: list[StageEstimate]) -> list[str]:
    slowest = min(estimates, key=lambda one: one.rows_per_s * one.stage.pool.max_actors)
    hours = slowest.hours(config.rows)
    cpus = sum(one.stage.pool.max_actors * one.stage.pool.num_cpus for one in estimates)
    gpus = sum(one.stage.pool.max_actors * one.stage.pool.num_gpus for one in estimates)
    cost = hours * (cpus * config.prices.cpu_hour + gpus * config.prices.gpu_hour)
    return [
        f"for {config.rows:,} rows, pools at their largest ({cpus:g} CPUs, {gpus:g} GPUs):",
        f"  bottleneck {slowest.stage.name}, {config.rows / hours / 3600:,.0f} rows/s, {hours:,.2f} hours, "
        f"cost {cost:,.2f} at {config.prices.cpu_hour:g} a CPU hour and {config.prices.gpu_hour:g} a GPU hour",
        f"  rates: measured here on the first {SAMPLE_ROWS} rows; actors are taken to have the resources they ask for",
    ]
