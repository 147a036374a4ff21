"""The annotation run on Ray Data: candidates grouped by entity, rounds of requests, commits, second pass, explanation.

A round starts an engine, asks it about every row that has a question left, and goes on with what the answers lead to
(`desk.DeskTalk`). Answers are kept as they come (`log`); what they come to is decided where rows are read
(`conversation`), so that the whole state of a run lies in its folder. Usually there is one round, and one more before
it where a describer looks at the pictures.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import ray

from raylab.annotate import candidates
from raylab.annotate.desk import Desk, DeskTalk, model_id
from raylab.annotate.engines import run as engines
from raylab.annotate.log import ANSWERS
from raylab.annotate.plan import ENGINE_DECIDES, NOT_IN_ANSWERS, RewConfig, check
from raylab.annotate.records import ANSWER
from raylab.config import fingerprint, from_dict, to_dict
from raylab.errors import RaylabError
from raylab.kb.catalog import Catalog
from raylab.label import run as label_run
from raylab.label import store
from raylab.label.second_pass import second_pass
from raylab.label.summary import explain
from raylab.session import plain_errors, session
from raylab.sources import open_source
from raylab.storage import Folder
from raylab.streams import READ_CPUS, stream

logger = logging.getLogger(__name__)

COUNT_CPUS = 0.1
"""A task that counts answers does next to nothing."""
CANDIDATES = "candidates"
"""Where in the run's folder the labeling run lies that made the candidates."""
ROUNDS = "rounds"


def run(config: RewConfig) -> dict[str, Any]:
    """Annotate a label store, or pairs that are labelled first; or finish what an earlier call began.

    Returns:
        The summary, as it lies in ``summary.json``.

    Raises:
        RaylabError: anything that the user can put right; what was answered and committed stays.
    """
    check(config)
    started = time.perf_counter()
    kb = Catalog.open(config.kb).info
    folder = Folder(config.out)
    connected = session(*needed(config), worker_logs=False, places=config.places(), shared_disk=config.shared_disk)
    with connected, plain_errors():
        config, found = candidates_of(config, kb.fingerprint)
        done = store.begin(folder, _identity(config, found, kb.fingerprint))
        folder.write_json("config.json", to_dict(config))
        if not folder.exists("MANIFEST.json"):
            segments = group(config, found, folder)
            _converse(config, folder, [number for number in range(segments) if number not in done])
            second_pass(folder, config.store.min_entity_images)
    store.tidy(folder, folder.read_json("MANIFEST.json"))
    folder.remove(candidates.GROUPS)
    folder.remove(ANSWERS)
    seconds = time.perf_counter() - started
    return explain(config, kb, open_source(config.source), folder, seconds, step_seconds=_step_seconds(folder))


def needed(config: RewConfig) -> tuple[float, float]:
    """Return the CPUs and GPUs without which the engines cannot start."""
    cpus, gpus = zip(*(engines.needed(one) for one in (config.annotator, config.describer) if one.model))
    return READ_CPUS + max(cpus), max(gpus)


def candidates_of(config: RewConfig, kb: str) -> tuple[RewConfig, store.LabelStore]:
    """Return the label store to annotate, made now where the source holds pairs, and the config with its settings."""
    uri = config.source.uri
    if not store.is_label_store(uri):
        uri = f"{config.out.rstrip('/')}/{CANDIDATES}"
        label_run.run(config.labeling(uri))
        return config, store.LabelStore(uri)
    found = store.LabelStore(uri)
    if (theirs := found.folder.read_json("run.json").get("kb")) != kb:
        raise RaylabError(f"{uri} was labelled with another knowledge base ({theirs}) than {config.kb} ({kb}).")
    known = found.folder.read_json("config.json")
    own = {name: known[name] for name in ("source", "mentions", "candidates", "neighbours", "link", "select")}
    theirs_config = from_dict(RewConfig, own)
    return replace(config, **{name: getattr(theirs_config, name) for name in own}), found


def _identity(config: RewConfig, found: store.LabelStore, kb: str) -> dict[str, Any]:
    """Return what decides the answers: config, prompts, engines, candidates, knowledge base."""
    plain = to_dict(config)
    decisive = {key: value for key, value in plain.items() if key not in NOT_IN_ANSWERS}
    for name in ("annotator", "describer"):
        decisive[name] = {key: plain[name][key] for key in ENGINE_DECIDES}
    prompts = {part: prompt.id for part, prompt in config.load_prompts().items()}
    return {"config": decisive, "prompts": prompts, "input": {"store": fingerprint(found.manifest)}, "kb": kb}


# -- candidates, grouped by entity


def group(config: RewConfig, found: store.LabelStore, folder: Folder) -> int:
    """Write the rows to annotate in segments by entity, commit those that stay rejected; return how many segments."""
    if not folder.exists(candidates.DONE):
        folder.remove(candidates.GROUPS)
        taken = candidates.Taken(
            tuple(reason.value for reason in config.rescue), candidates.last_row_id(found, config.sample_rows)
        )
        pieces = _sorted_pieces(config, found, folder, taken)
        names = [name for _, name in sorted(pieces)]
        _commit_left(config, found, folder, taken, first=len(names))
        folder.write_json(candidates.DONE, {"segments": names})
    return len(folder.read_json(candidates.DONE)["segments"])


def _sorted_pieces(
    config: RewConfig, found: store.LabelStore, folder: Folder, taken: candidates.Taken
) -> list[tuple[tuple[str, str], str]]:
    """Sort all rows by entity and write them; return each piece's first key and its name."""
    parts = [{"part": name, "rejected": False} for name in found.manifest["labels"]]
    parts += [{"part": name, "rejected": True} for name in found.manifest["rejects"]]
    rows = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
        partial(_take, found.folder, taken), batch_size=1, batch_format="pyarrow"
    )
    written = rows.sort(["entity_id", "row_id"]).map_batches(
        partial(_write_group, folder), batch_size=config.segment_rows, batch_format="pyarrow"
    )
    return [((row["entity_id"], row["row_id"]), row["name"]) for row in written.take_all()]


def _take(folder: Folder, taken: candidates.Taken, parts: pa.Table) -> pa.Table:
    [part] = parts.to_pylist()
    table = folder.read_parquet(part["part"])
    return taken.rescued(table) if part["rejected"] else taken.labels(table)


_WRITTEN = pa.schema([("entity_id", pa.string()), ("row_id", pa.string()), ("name", pa.string())])


def _write_group(folder: Folder, rows: pa.Table) -> pa.Table:
    if not rows.num_rows:
        return _WRITTEN.empty_table()
    first = {name: rows[name][0].as_py() for name in ("entity_id", "row_id")}
    name = f"{candidates.GROUPS}/{uuid.uuid4().hex}.parquet"  # fresh: a task that was given up may still write its own
    folder.write_parquet(name, rows.cast(candidates.GROUPED))
    return pa.Table.from_pylist([first | {"name": name}], _WRITTEN)


def _commit_left(
    config: RewConfig, found: store.LabelStore, folder: Folder, taken: candidates.Taken, first: int
) -> None:
    steps = candidates.steps_of(config)
    for number, name in enumerate(found.manifest["rejects"], start=first):
        candidates.commit_left(folder, number, found.folder.read_parquet(name), taken, steps)


# -- rounds


def rounds_of(folder: Folder) -> list[dict[str, Any]]:
    """Return what each round of a run took, in order; see `_Tally.figures`."""
    return [folder.read_json(name) for name in folder.names(ROUNDS)]


def _step_seconds(folder: Folder) -> dict[str, float]:
    """Return the engines' time that each step took."""
    found: Counter[str] = Counter()
    for one in rounds_of(folder):
        for call, figures in one["calls"].items():
            found["questions" if call == "questions" else "verify"] += figures["seconds"]
    return dict(found)


def _converse(config: RewConfig, folder: Folder, segments: list[int]) -> None:
    """Ask and answer until every segment is committed."""
    desk = Desk(config, folder)
    advance = ray.remote(num_cpus=1)(Desk.advance)
    number = 0
    while segments:
        left = ray.get([advance.remote(desk, segment) for segment in segments])
        open_now = {segment: asks for segment, asks in zip(segments, left) if asks}
        segments = list(open_now)
        if segments:
            number += 1
            _round(desk, open_now, number)


def _round(desk: Desk, left: dict[int, Counter[str]], number: int) -> None:
    """Start one engine and answer what it can: all descriptions first, if there are any to make."""
    describing = any(asks["describe"] for asks in left.values())
    engine = desk.config.describer if describing else desk.config.annotator
    parts = ("describe",) if describing else ("first", "questions")
    segments = [segment for segment, asks in left.items() if any(asks[part] for part in parts)]
    rows = sum(asks[part] for asks in left.values() for part in parts)
    logger.info("round %d: %s is asked about %d rows", number, model_id(engine), rows)
    requests = stream([partial(desk.requests, segment, parts) for segment in segments])
    answers = engines.answer(requests, engine, label_run.RemoteLedger(), DeskTalk(desk, parts))
    tally = _Tally(rows)
    counted = answers.map_batches(_count, batch_format="pyarrow", batch_size=None, num_cpus=COUNT_CPUS)
    for batch in counted.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        tally.add(cast(pa.Table, batch))
    desk.folder.write_json(f"{ROUNDS}/{number:03d}-{int(time.time())}.json", tally.figures(parts, model_id(engine)))


_SUMMED = ("prompt_tokens", "answer_tokens", "waited_s")


def _count(answers: pa.Table) -> pa.Table:
    """Say how many answers each call got, their tokens, from when to when: the driver needs no words."""
    answers = answers if len(answers) else ANSWER.empty_table()  # Ray Data's empty blocks have no columns
    answers = answers.append_column("answered_at", pc.add(answers["asked_at"], answers["waited_s"]))
    times, sums = [("asked_at", "min"), ("answered_at", "max")], [(name, "sum") for name in _SUMMED]
    return answers.group_by("call").aggregate([("call", "count"), *times, *sums])


class _Tally:
    """Counts answers as they come, logs now and then, and tells the engine's start from its work."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._began = self._said = time.time()
        self._first, self._last = math.inf, 0.0

    def add(self, counted: pa.Table) -> None:
        now = time.time()
        for row in counted.to_pylist():
            self._first = min(self._first, row["asked_at_min"])
            self._last = max(self._last, row["answered_at_max"])
            sums = {name: row[f"{name}_sum"] or 0 for name in _SUMMED}
            self._calls[row["call"]].update({"answers": row["call_count"]} | sums)
        if now - self._said > label_run.SECONDS_BETWEEN_LINES:
            self._said = now
            answers = sum(call["answers"] for call in self._calls.values())
            logger.info("%d answers about %d rows", answers, self._rows)

    def figures(self, parts: Sequence[str], model: str) -> dict[str, Any]:
        """Return counts, the seconds until the first question was asked and then until the last answer, by call.

        The engine has requests of several calls in hand at once: its time is shared out by how long they took.
        """
        work = max(0.0, self._last - self._first)
        start = max(0.0, min(self._first, time.time()) - self._began)  # it is another host's clock
        waited = sum(call["waited_s"] for call in self._calls.values()) or 1.0
        calls = {
            name: {"answers": call["answers"], "seconds": round(work * call["waited_s"] / waited, 3)}
            for name, call in self._calls.items()
        }
        sums = {
            name: sum(call[name] for call in self._calls.values())
            for name in ("answers", "prompt_tokens", "answer_tokens")
        }
        seconds = {"start_s": round(start, 2), "work_s": round(work, 2)}
        return {"parts": list(parts), "model": model, **sums, **seconds, "calls": calls}
