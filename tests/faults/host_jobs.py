"""The jobs that run on the hosts: their lines, how far they are, and what must come out of them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
from annotate.engines.scripted_server import Server
from annotate.rew_world import Oracle, make_labels
from cloud import move_store
from faults import kills
from faults.host_cluster import BUCKET
from train.conftest import make_tower
from train.training_store import make_store

from raylab.storage import Folder
from raylab.train.checkpoint import Checkpoints

SHARDS, SHARD_ROWS = 16, 30
"""What is labelled. A shard is a task: there are more of them than two actors have in hand."""
ASKED_ROWS, REPLY_S = 160, 0.8
"""What is annotated, and how long the scripted server thinks."""
STEPS, EVERY = 60, 10
"""Of training, and between two checkpoints."""
MADE_FROM = f"s3://{BUCKET}"


class Job(ABC):
    """A job's line, and what can be told of a run from its bucket and its log.

    `reads` is what it works on, see `World`; `owner` is how the titles of processes begin that do its work, where
    they are `together` none goes on without the others; with `wider` it wants more than one worker's room.
    """

    reads: str
    owner: str
    wider: tuple[str, ...] = ()
    together = False

    @abstractmethod
    def line(self, out: str) -> list[str]:
        """Return the command line of a run."""

    @abstractmethod
    def progress(self, out: str) -> float:
        """Return how far a run is, 0 to 1."""

    @abstractmethod
    def result(self, out: str) -> Any:
        """Return what a finished run made, and what equals it whatever happened to it."""

    def check(self, out: str, log: str) -> None:
        """Look at what lies about after a run, and at what its log says."""
        assert kills.leftovers(out) == []


class Label(Job):
    """Pictures in Parquet files are labelled; CLIP selects."""

    reads, owner = "pairs", "ray::MapWorker"
    wider = ("--pools.mentions.min-actors", "3", "--pools.mentions.max-actors", "3")

    def line(self, out: str) -> list[str]:
        """Small batches: a piece each."""
        line = [sys.executable, "jobs/label.py", "--recipe", "miniworld", "--source", f"{MADE_FROM}/pairs"]
        return [*line, "--kb", f"{MADE_FROM}/kb", "--out", out, "--pools.mentions.batch-rows", "16"]

    def progress(self, out: str) -> float:
        """Count committed segments, and pieces as a little."""
        names = _files(out)
        commits, pieces = (sum(f"/{part}/" in name for name in names) for part in ("segments", "pieces"))
        return (commits + min(pieces, 1) * 0.5) / SHARDS

    def result(self, out: str) -> list[tuple[str, str]]:
        """Each row with its label or the reason why it has none."""
        found = kills.verdicts(out)
        assert len({row for row, _ in found}) == len(found) == SHARDS * SHARD_ROWS
        return found


@dataclass
class Annotate(Job):
    """A label store is annotated by a scripted server."""

    url: str
    oracle: Oracle
    asked_before: int = 0

    reads, owner = "labels", "ray::MapWorker"
    wider = ("--annotator.min-actors", "8", "--annotator.max-actors", "8")

    def line(self, out: str) -> list[str]:
        """Two senders."""
        self.asked_before = self.oracle.asked.total()
        line = [*annotating(out), "--annotator.model", self.url, "--annotator.concurrency", "4"]
        return [*line, "--annotator.min-actors", "2", "--annotator.max-actors", "2"]

    def progress(self, out: str) -> float:
        """Two calls a row."""
        return (self.oracle.asked.total() - self.asked_before) / (2 * ASKED_ROWS)

    def result(self, out: str) -> list[tuple[Any, ...]]:
        """Each row with its entity, or the reason why it has none, and the decision about it."""
        found = kills.verdicts(out, ("annotation",))
        assert len({row for row, *_ in found}) == len(found) == ASKED_ROWS
        return [(row, verdict, said["decision"] if said else None) for row, verdict, said in found]


class AnnotateByVllm(Job):
    """The same store, by the mini annotator under vLLM's CPU build. What it says is not the same each time."""

    reads, owner = "labels", "VLLM::EngineCore"

    def line(self, out: str) -> list[str]:
        """One engine."""
        return annotating(out)

    def progress(self, out: str) -> float:
        """See whether answers are kept."""
        return float(any("/answers/" in name for name in _files(out)))

    def result(self, out: str) -> list[bool]:
        """Of each row whether it was annotated."""
        found = kills.verdicts(out, ("annotation",))
        assert len({row for row, *_ in found}) == len(found)
        return [said is not None for _, _, said in found]


def annotating(out: str) -> list[str]:
    """Return the line that both annotators share."""
    line = [sys.executable, "jobs/label.py", "--recipe", "rew_miniworld", "--source", f"{MADE_FROM}/labels"]
    line += ["--kb", f"{MADE_FROM}/kb", "--out", out, "--store.min-entity-images", "1"]
    return [*line, "--segment-rows", "10", "--annotator.batch-rows", "8"]


class Train(Job):
    """MOFI is trained by two workers, which do not fit on one host."""

    reads, owner, together = "training", "ray::RayTrainWorker", True

    def line(self, out: str) -> list[str]:
        """A tower without batch statistics, saved often."""
        line = [sys.executable, "jobs/train.py", "--recipe", "mofi_miniworld", "--task.encoder.name"]
        line += [f"{MADE_FROM}/tower", "--source", f"{MADE_FROM}/train/pairs.parquet"]
        line += ["--labels", f"{MADE_FROM}/train/labels", "--kb", f"{MADE_FROM}/kb", "--out", out]
        line += ["--steps", str(STEPS), "--batch", "32", "--checkpoint.every", str(EVERY), "--track.every", "1"]
        line += ["--track.project", "", "--track.samples", "0", "--track.evaluate-every", str(STEPS)]
        return [*line, "--parallel.workers", "2", "--parallel.cpus", "1.5", "--parallel.threads", "1"]

    def progress(self, out: str) -> float:
        """See the last checkpoint."""
        return (Checkpoints(Folder(out)).latest() or 0) / STEPS

    def result(self, out: str) -> dict[int, float]:
        """The loss of each step."""
        lines = Folder(out).read_bytes("curves.jsonl").decode().splitlines()
        points = [json.loads(line) for line in lines]
        assert [point["step"] for point in points] == list(range(1, STEPS + 1))
        return {point["step"]: point["loss"] for point in points}

    def check(self, out: str, log: str) -> None:
        """The steps since the last checkpoint are made again and no others; the model is there."""
        folder = Folder(out)
        assert Checkpoints(folder).latest() == STEPS
        assert folder.exists("model/open_clip_model.safetensors")
        shown = 0
        for kind, step in re.findall(r"(workers begin at step|\bstep) (\d+)", log):
            if kind != "step":
                assert shown - EVERY <= int(step), f"{shown - int(step)} steps were lost"
            shown = int(step)


def _files(out: str) -> list[str]:
    """Return the files of a run now."""
    fs, root = fsspec.core.url_to_fs(out)
    fs.invalidate_cache()
    return fs.find(root)


@contextmanager
def served(address: str) -> Iterator[tuple[str, Oracle]]:
    """Serve a scripted LLM at an address of this machine; yield its URL, and what it is asked."""
    oracle = Oracle()
    server = Server(decide=lambda body: replace(oracle(body), after_s=REPLY_S))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    listening = asyncio.run_coroutine_threadsafe(asyncio.start_server(server.handle, address, 0), loop).result(10)
    try:
        yield f"http://{address}:{listening.sockets[0].getsockname()[1]}/v1", oracle
    finally:
        asyncio.run_coroutine_threadsafe(_close(listening), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _close(listening: asyncio.Server) -> None:
    listening.close()
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@dataclass
class World:
    """What the jobs work on, in the bucket, made when it is first asked for."""

    folder: Path
    made: set[str] = field(default_factory=set)

    def make(self, part: str) -> None:
        """Put into the bucket what a job reads: all of them share the knowledge base and the pictures."""
        if not self.made:
            self._store()
        if part not in self.made:
            {"pairs": self._pairs, "labels": self._labels, "training": self._training}[part]()
        self.made |= {"store", part}

    def _store(self) -> None:
        store = make_store(self.folder / "training", rows=SHARDS * SHARD_ROWS)
        fsspec.filesystem("s3").mkdir(BUCKET)
        _put(store.kb, "kb")
        self.pairs, self.store = Path(store.source), store

    def _pairs(self) -> None:
        table = pq.read_table(self.pairs)
        for shard in range(SHARDS):
            rows = table.slice(shard * SHARD_ROWS, SHARD_ROWS)
            Folder(MADE_FROM).write_parquet(f"pairs/{shard:05d}.parquet", rows)

    def _labels(self) -> None:
        here = self.folder / "asked"
        here.mkdir()
        labels = make_labels(here, f"{MADE_FROM}/kb", ["yes", "no", "unknown", "nothing"] * (ASKED_ROWS // 4))
        _put(str(here / "images"), "images")
        there = Folder(move_store(labels, f"{MADE_FROM}/labels", str(here), MADE_FROM))
        config = there.read_json("config.json")
        config["source"]["uri"] = f"{MADE_FROM}/images/table.jsonl"
        there.write_json("config.json", config)

    def _training(self) -> None:
        _put(str(make_tower(self.folder)), "tower")
        _put(self.store.source, "train/pairs.parquet")
        move_store(
            self.store.labels, f"{MADE_FROM}/train/labels", self.store.source, f"{MADE_FROM}/train/pairs.parquet"
        )


def _put(path: str, name: str) -> None:
    fsspec.filesystem("s3").put(path, f"{BUCKET}/{name}", recursive=Path(path).is_dir())
