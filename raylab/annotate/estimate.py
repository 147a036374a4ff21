"""A dry run of an annotation: a small sample is annotated for real; what N rows would take follows from its rates."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raylab.annotate.candidates import steps_of
from raylab.annotate.plan import EngineConfig, RewConfig, check
from raylab.annotate.run import rounds_of, run
from raylab.config import to_dict
from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.label import estimate as label_estimate
from raylab.label import store
from raylab.storage import Folder

SAMPLE_ROWS = 96
"""Rows that are annotated to measure the rates."""


@dataclass(frozen=True)
class Load:
    """What the sample asked of one model."""

    model: str
    engine: EngineConfig
    rows: int
    """Rows of the sample, annotated or not."""
    requests: int
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    """Of one copy of the model, its start left out."""

    def hours(self, rows: int) -> float:
        """Return the hours of one copy that `rows` rows take."""
        return self.seconds / self.rows * rows / 3600

    def cost(self, rows: int, prices: Any) -> float:
        """Return what `rows` rows cost: by tokens behind an address, else by the hours of GPUs and CPUs."""
        if self.engine.is_address:
            prompt, answer = (n / self.rows * rows / 1e6 for n in (self.prompt_tokens, self.answer_tokens))
            return prompt * prices.million_prompt_tokens + answer * prices.million_answer_tokens
        gpus = self.engine.num_gpus * self.engine.tensor_parallel
        return self.hours(rows) * (gpus * prices.gpu_hour + self.engine.num_cpus * prices.cpu_hour)


def dry_run(config: RewConfig) -> str:
    """Annotate a sample in a folder that is thrown away and return the plan as text.

    Raises:
        RaylabError: whatever the run itself would stop at: a model that does not start, a missing knowledge base.
    """
    check(config)
    with tempfile.TemporaryDirectory() as folder:
        source = config.source.uri
        if not store.is_label_store(source):
            source = _labelled_sample(config, f"{folder}/labels")
        one_copy = {
            name: replace(getattr(config, name), min_actors=1, max_actors=1) for name in ("annotator", "describer")
        }
        sample = replace(
            config,
            **one_copy,
            source=replace(config.source, uri=source),
            out=f"{folder}/run",
            sample_rows=SAMPLE_ROWS,
            store=replace(config.store, min_entity_images=1),
        )
        summary = run(sample)
        rounds = rounds_of(Folder(sample.out))
    if not rounds:
        raise RaylabError("The sample has no row to annotate: there is nothing to estimate from.")
    return "\n".join(_lines(config, summary, rounds))


def _labelled_sample(config: RewConfig, out: str) -> str:
    """Label the first rows of a source of pairs in this process, and keep them as a label store."""
    labeling = config.labeling(out)
    _, rows = label_estimate.measure(labeling)
    folder = Folder(out)
    folder.write_json("config.json", to_dict(labeling))
    folder.write_json("run.json", {"kb": Catalog.open(config.kb).info.fingerprint})
    commit = store.commit_rows(folder, 0, rows, steps_of(labeling))
    folder.write_json("MANIFEST.json", {name: [commit[name]] for name in ("labels", "rejects")})
    return out


def loads(config: RewConfig, rows: int, rounds: Sequence[dict[str, Any]]) -> list[Load]:
    """Add up the rounds of a run by the model that answered."""
    found = []
    for engine in (config.describer, config.annotator):
        mine = [one for one in rounds if engine.model and ("describe" in one["parts"]) == (engine is config.describer)]
        if mine:
            sums = {name: sum(one[name] for one in mine) for name in ("answers", "prompt_tokens", "answer_tokens")}
            requests = sums.pop("answers")
            seconds = sum(one["work_s"] for one in mine)
            found.append(Load(mine[0]["model"], engine, rows, requests, **sums, seconds=seconds))
    return found


def _lines(config: RewConfig, summary: dict[str, Any], rounds: Sequence[dict[str, Any]]) -> list[str]:
    rows = summary["rows_in"]
    annotated = summary["annotation"]["annotated"]
    lines = [
        f"source   {config.source.uri}",
        f"out      {config.out}",
        f"sample   {rows} rows, {annotated} annotated, {summary['labelled']} labelled; {len(rounds)} rounds",
        "",
        f"{'model':<44}{'copies':>8}{'GPUs':>6}{'requests/s':>12}{'tokens/s':>10}{'start s':>9}",
    ]
    found = loads(config, rows, rounds)
    for load in found:
        start = max(one["start_s"] for one in rounds if one["model"] == load.model)
        gpus = 0 if load.engine.is_address else load.engine.num_gpus * load.engine.tensor_parallel
        rates = f"{load.requests / load.seconds:>12,.1f}{load.answer_tokens / load.seconds:>10,.0f}{start:>9.0f}"
        lines.append(f"{load.model[-43:]:<44}{load.engine.max_actors:>8}{gpus:>6g}{rates}")
    for number in dict.fromkeys((1_000_000, config.rows)):
        lines += ["", *_for_rows(config, found, number)]
    return [
        *lines,
        "  rates: one copy, measured here on the sample, its start left out; requests/s and generated tokens/s",
    ]


def _for_rows(config: RewConfig, found: Sequence[Load], rows: int) -> list[str]:
    lines = [f"for {rows:,} rows:"]
    for load in found:
        prompt, answer = (n / load.rows * rows for n in (load.prompt_tokens, load.answer_tokens))
        hours = load.hours(rows)
        gpus = 0.0 if load.engine.is_address else load.engine.num_gpus * load.engine.tensor_parallel
        lines.append(
            f"  {load.model}: {prompt / 1e6:,.1f} M prompt tokens, {answer / 1e6:,.1f} M answer tokens, "
            f"{hours * gpus:,.1f} GPU hours, {hours / load.engine.max_actors:,.1f} hours with {load.engine.max_actors} "
            f"copies, cost {load.cost(rows, config.prices):,.2f}"
        )
    prices = config.prices
    lines.append(
        f"  prices: {prices.gpu_hour:g} a GPU hour, {prices.cpu_hour:g} a CPU hour; behind an address "
        f"{prices.million_prompt_tokens:g} and {prices.million_answer_tokens:g} a million prompt and answer tokens"
    )
    return lines
