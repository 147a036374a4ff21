"""Checks of what a run reads and writes: local paths, storage, knowledge base, source."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from raylab.errors import RaylabError
from raylab.mirror import copy_of
from raylab.preflight.asked import Asked
from raylab.preflight.base import Check, Finding, Seen, Task, nodes_of, together
from raylab.preflight.hosts import usage
from raylab.storage import Folder, is_one_hosts, refuse_local

MANIFEST, RUN = "MANIFEST.json", "run.json"
"""In a finished label store; in one at all."""


class LocalPaths(Check):
    """No path of one host where there are several."""

    name = "local paths"

    def applies(self, asked: Asked) -> bool:
        """It has paths."""
        return bool(asked.places)

    def judge(self, seen: Seen) -> Finding:
        """Say what the job itself would say."""
        try:
            refuse_local(seen.asked.places, len(seen.cluster.nodes), seen.asked.shared_disk, seen.cluster.elsewhere)
        except RaylabError as error:
            text, _, way_out = str(error).partition(". ")
            return self.fail(text, way_out)
        local = [flag for flag, place in seen.asked.places.items() if is_one_hosts(place)]
        if not local:
            return self.ok("none: all places are addresses")
        return self.ok(
            f"{', '.join(local)} on a disk that is said to be shared" if seen.asked.shared_disk else "one node"
        )


class Storage(Check):
    """The run's folder can be written, and what one host writes another reads."""

    name = "storage"
    way_out = "give --out an address that all nodes reach (s3://bucket/run) with credentials on every node, " \
        "or mount the disk on all of them"  # fmt: skip

    def applies(self, asked: Asked) -> bool:
        """It writes somewhere."""
        return bool(asked.out)

    def prepare(self, task: Task) -> None:
        """Write what all nodes are to read."""
        out = Folder(task.asked.out)
        self._is_new = not out.exists("")
        out.write_bytes(f"{task.probe}/driver", b"driver")

    def look(self, task: Task) -> None:
        """Read what the driver wrote, and write what the driver is to read."""
        out = Folder(task.asked.out)
        if not out.exists(f"{task.probe}/driver"):
            raise RaylabError(f"what the driver wrote to {out.uri} is not to be seen here")
        if out.read_bytes(f"{task.probe}/driver") != b"driver":
            raise RaylabError(f"what the driver wrote to {out.uri} reads differently here")
        out.write_bytes(f"{task.probe}/{uuid.uuid5(uuid.NAMESPACE_DNS, task.host)}", task.host.encode())

    def judge(self, seen: Seen) -> Finding:
        """Read what the nodes wrote."""
        out = Folder(seen.asked.out)
        found = {out.read_bytes(name).decode() for name in out.names(seen.task.probe)}
        if unseen := [name for name in seen.nodes if name not in found]:
            return self.fail(
                together(dict.fromkeys(unseen, f"what it wrote to {out.uri} is not to be seen by the driver"))
            )
        return self.ok(f"{out.uri}: written and read by the driver and {nodes_of(len(seen.nodes))}")

    def finish(self, task: Task) -> None:
        """Remove the probe, and the folder that was made for it."""
        out = Folder(task.asked.out)
        out.remove(task.probe)
        if self._is_new and out.is_local:
            Path(out.path("")).rmdir()


class KnowledgeBase(Check):
    """The same knowledge base everywhere."""

    name = "knowledge base"
    way_out = "give --kb an address that all nodes reach, or copy the folder to the same place on every node"

    def applies(self, asked: Asked) -> bool:
        """It has one."""
        return bool(asked.kb)

    def look(self, task: Task) -> dict[str, Any]:
        """Return fingerprint, entities and bytes, and the bytes that are free for a copy of one in a bucket.

        Raises:
            RaylabError: files are missing, or are not of the size that they had when it was made.
        """
        if is_one_hosts(task.asked.kb):
            from raylab.kb.catalog import Catalog

            info = Catalog.open(task.asked.kb).info
            return _described(info.fingerprint, info.entities, info.files)
        folder = Folder(task.asked.kb)
        if not folder.exists("kb.json"):
            raise RaylabError(f"{folder.uri} is no knowledge base (kb.json is missing)")
        found = folder.read_json("kb.json")
        free = _room_for_copy(folder.uri, found["files"])
        return _described(found["fingerprint"], found["entities"], found["files"]) | {"free": free}

    def judge(self, seen: Seen) -> Finding:
        """Compare fingerprints, and sizes with the room on the disks."""
        mine = seen.driver["fingerprint"]
        if other := {name: one for name, one in seen.nodes.items() if one["fingerprint"] != mine}:
            said = {name: f"fingerprint {one['fingerprint'][:12]}" for name, one in other.items()}
            return self.fail(f"{together(said)}; the driver has {mine[:12]}")
        size = f"{seen.driver['bytes'] / 2**20:,.0f} MiB"
        hosts = {"driver": seen.driver, **seen.nodes}
        if small := {
            name: one for name, one in hosts.items() if one.get("free") is not None and one["free"] < one["bytes"]
        }:
            said = {name: f"{one['free'] / 2**20:,.0f} MiB free for a copy of {size}" for name, one in small.items()}
            return self.fail(together(said), "free some space, or set XDG_CACHE_HOME to a larger disk on every node")
        copied = "" if is_one_hosts(seen.asked.kb) else ", copied to each node's disk at its first use"
        text = f"{seen.driver['entities']:,} entities, {mine[:12]} on every node; {size}{copied}"
        return self.ok(text)


def _described(fingerprint: str, entities: int, files: dict[str, int]) -> dict[str, Any]:
    return {"fingerprint": fingerprint, "entities": entities, "bytes": sum(files.values())}


def _room_for_copy(uri: str, files: dict[str, int]) -> int | None:
    """Compare a bucket's files with those that were made; return the bytes free for a copy, null where there is one."""
    from raylab.sources.filesystem import list_files

    listed = list_files(uri)
    sizes = {file.name: file.size for file in listed}
    for name, size in files.items():
        if name not in sizes:
            raise RaylabError(f"{uri} is half of a knowledge base: {name} is missing. Copy it again.")
        if sizes[name] != size:
            raise RaylabError(f"{uri}/{name} has {sizes[name]} bytes, and {size} when it was made. Copy it again.")
    place = copy_of(uri, listed)
    return None if place.exists() else usage(place)[0]


class SourceReads(Check):
    """Every node reads a row and its picture."""

    name = "source"
    way_out = "give --source an address that all nodes reach, with credentials on every node"

    def applies(self, asked: Asked) -> bool:
        """It has one."""
        return asked.source is not None

    def look(self, task: Task) -> str:
        """Read the first row; of a label store its manifest, as its rows are looked at one by one later."""
        from raylab.schema import Reason
        from raylab.sources import open_source

        assert task.asked.source is not None
        uri = task.asked.source.uri
        if not uri.startswith("oven:") and "?" not in uri and "*" not in uri and Folder(uri).exists(MANIFEST):
            return f"a label store of {len(Folder(uri).read_json(MANIFEST)['labels'])} parts"
        source = open_source(replace(task.asked.source, chunk_rows=1))
        shards = source.shards()
        row = next(source.read(shards[0])).slice(0, 1).to_pylist()[0]
        if row["reject_reason"] in (Reason.UNREADABLE_SHARD, Reason.EMPTY_SHARD):
            raise RaylabError(f"{shards[0].uri}: {row['reject_reason']} ({row['reject_detail']})")
        got = source.image_bytes([row["image"]])[0] if row["image"] is not None else None
        return f"{len(shards)} shards" + (f", the first picture is refused ({got})" if isinstance(got, Reason) else "")

    def judge(self, seen: Seen) -> Finding:
        """Compare what is listed and read; a picture that is refused everywhere may be the web's fault."""
        other = {name: one for name, one in seen.nodes.items() if one != seen.driver}
        if other:
            return self.fail(f"{together(other)}; the driver sees {seen.driver}")
        if "refused" in seen.driver:
            return self.warn(f"{seen.driver} on every node", "look whether all are: jobs/label.py --dry-run")
        return self.ok(f"{seen.driver}; the first row read on every node")


class Inputs(Check):
    """Label stores, other runs and sets of images are there."""

    name = "inputs"
    way_out = "look for a slip in the address; give one that all nodes reach, with credentials on every node"

    def applies(self, asked: Asked) -> bool:
        """It has some."""
        return bool(asked.inputs)

    def look(self, task: Task) -> dict[str, str]:
        """Return flag -> what is there; of what workers do not open, the driver's host alone looks.

        Raises:
            RaylabError: there is nothing, or a part of it.
        """
        opened = {
            flag: one for flag, one in task.asked.inputs.items() if flag in task.asked.places or task.host == "driver"
        }
        looks = {"store": _store, "run": _run, "set": _set, "words": _words}
        return {flag: _named(flag, looks[one.kind], one.uri) for flag, one in opened.items()}

    def judge(self, seen: Seen) -> Finding:
        """Compare what is listed."""
        said = {name: ", ".join(one.values()) for name, one in seen.nodes.items() if one}
        driver = ", ".join(text for flag, text in seen.driver.items() if flag in seen.asked.places)
        if other := {name: text for name, text in said.items() if text != driver}:
            return self.fail(f"{together(other)}; the driver sees {driver}")
        return self.ok(", ".join(seen.driver.values()))


def _named(flag: str, look: Callable[[str], str], uri: str) -> str:
    try:
        return f"{flag} {look(uri)}"
    except RaylabError as error:
        raise RaylabError(f"{flag}: {error}") from error


def _store(uri: str) -> str:
    """Open a finished label store: its parts are all there, and the first can be read."""
    import pyarrow.parquet as pq

    from raylab.schema import check_version

    folder = Folder(uri)
    if not folder.exists(MANIFEST):
        state = "is not finished: start its job again" if folder.exists(RUN) else "holds no label store"
        raise RaylabError(f"{uri} {state} ({MANIFEST} is missing)")
    manifest = folder.read_json(MANIFEST)
    parts = [*manifest["labels"], *manifest["rejects"]]
    there = {name for below in {part.rpartition("/")[0] for part in parts} for name in folder.names(below)}
    if missing := [part for part in parts if part not in there]:
        raise RaylabError(f"{uri} lacks {missing[0]}, {len(missing)} of {len(parts)} parts are missing: copy it again")
    folder.read_json(RUN)
    for part in parts[:1]:
        with folder.fs.open(folder.path(part), "rb") as file:
            check_version(pq.ParquetFile(file).schema_arrow, f"{uri}/{part}")
    return f"{len(manifest['labels'])} parts"


def _run(uri: str) -> str:
    from raylab.train.examples import POINTER

    folder = Folder(uri)
    if not folder.exists(POINTER):
        raise RaylabError(
            f"{uri} has no checkpoint ({POINTER} is missing): it is no training run, or has saved nothing"
        )
    return f"step {folder.read_json(POINTER)['step']}"


def _words(uri: str) -> str:
    from raylab.kb.words import ABOUT

    folder = Folder(uri)
    if not folder.exists(ABOUT):
        raise RaylabError(f"{uri} holds no word vectors ({ABOUT} is missing): make them with jobs/words.py")
    return f"{folder.read_json(ABOUT)['dim']} dimensions"


def _set(uri: str) -> str:
    from raylab.sources.filesystem import list_files

    return f"{len(list_files(uri))} files"
