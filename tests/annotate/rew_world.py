"""A label store of made-up rows, and a server that answers about them as each row's caption asks for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from annotate.engines.scripted_server import Reply, Server, serving
from PIL import Image

from raylab.config import to_dict
from raylab.kb.catalog import Catalog
from raylab.label.plan import LabelConfig
from raylab.label.store import commit_rows
from raylab.schema import FLOW, Reason, reject, row_id
from raylab.sources.base import SourceConfig
from raylab.storage import Folder

ENTITIES = ("Flag of Ghana", "Flag of Chad", "Signal flag Lima", "Flag of Peru")
YES = {"decision": "yes", "rationale": "Its bands and colours are those of the definition."}
NO = {"decision": "no", "title": "Flag of Romania", "rationale": "Three upright bands in blue, yellow and red."}
PAIRS = {
    "pairs": [
        {"question": "What is on the pole?", "answer": "Flag of Romania"},
        {"question": "What is the pole made of?", "answer": "wood"},
        {"question": "What stands behind it?", "answer": "a house"},
    ]
}


def make_labels(folder: Path, kb: str, captions: Sequence[str], pictures: dict[int, str] | None = None) -> str:
    """Write a finished label store; row i has the caption ``row <i> <captions[i]>``, every 10th was a low score.

    `pictures` names the image file of single rows: those that `make_pictures` writes.
    """
    catalog = Catalog.open(kb)
    ids = dict(zip(catalog.titles.to_pylist(), catalog.ids.to_pylist()))
    images = make_pictures(folder / "images")
    rows = []
    for i, caption in enumerate(captions):
        title = ENTITIES[i % len(ENTITIES)]
        image = {"uri": images[(pictures or {}).get(i, "good")], "offset": 0, "size": -1}
        head = {"row_id": row_id("s", str(i)), "shard": "s", "key": str(i), "caption": f"row {i} {caption}"}
        rows.append(head | {"image": image, "entity_id": ids[title], "entity_name": title, "score": 0.8, "margin": 0.5})
    table = pa.Table.from_pylist(rows, FLOW)
    low = [Reason.LOW_SCORE if i % 10 == 9 else None for i in range(len(rows))]
    source = SourceConfig(uri=str(folder / "images" / "table.jsonl"))
    out = Folder(str(folder / "labels"))
    config = LabelConfig(source=source, kb=kb, out=out.uri)
    out.write_json("config.json", to_dict(config))
    out.write_json("run.json", {"kb": catalog.info.fingerprint})
    commit = commit_rows(out, 0, reject(table, "select", low), list(config.step_configs()))
    out.write_json("MANIFEST.json", {"labels": [commit["labels"]], "rejects": [commit["rejects"]]})
    return out.uri


def make_pictures(folder: Path) -> dict[str, str]:
    """Write a good image, and others that nobody can open; return their paths by name."""
    folder.mkdir(parents=True)
    Image.linear_gradient("L").convert("RGB").save(folder / "good.jpg")
    good = (folder / "good.jpg").read_bytes()
    (folder / "corrupt.jpg").write_bytes(good[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "words.jpg").write_bytes(b"<html>not an image</html>")
    (folder / "table.jsonl").write_text('{"image": "good.jpg", "caption": "x"}\n')
    return {path.stem: str(path) for path in folder.glob("*.jpg")} | {"missing": str(folder / "gone.jpg")}


@dataclass
class Oracle:
    """Answers a chat request by what the row's caption asks for, and counts what it was asked."""

    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(call, row) -> requests."""

    def __call__(self, body: dict[str, Any]) -> Reply | None:
        words = json.dumps(body["messages"])
        schema = json.dumps(body["response_format"])
        call = "questions" if '\\"pairs\\"' in schema or '"pairs"' in schema else "verify"
        if call == "questions":
            self.asked[call, "?"] += 1
            return said(PAIRS)
        found = re.search(r"row (\d+) (\w*)", words)
        assert found, words[-500:]
        self.asked[call, found[1]] += 1
        first = self.asked[call, found[1]] == 1
        return answer_as(found[2], first)


def answer_as(how: str, first: bool) -> Reply:
    """Return the reply that a row's caption asks for; ``once_...`` goes well at the second attempt."""
    if how.startswith("once_") and not first:
        return said(YES)
    replies = {
        "yes": said(YES),
        "no": said(NO),
        "unknown": said(NO | {"title": "Flag of Atlantis"}),
        "nothing": said(NO | {"title": ""}),
        "malformed": said("the flag, I think"),
        "empty": said(""),
        "refused": said("I'm sorry, but I can't help with that."),
        "long": said(YES | {"rationale": "word " * 2000}),
        "truncated": said('{"decision": "yes", "rationale": "It is', "length"),
        "context": Reply(400, json.dumps({"error": {"message": "maximum context length is 4096 tokens"}})),
        "bad": Reply(422, json.dumps({"error": {"message": "no such parameter"}})),
        "busy": Reply(429, "slow down", {"Retry-After": "0.2"}),
        "broken": Reply(500, "oops"),
    }
    return replies[how.removeprefix("once_")]


def said(what: object, finish: str = "stop") -> Reply:
    text = what if isinstance(what, str) else json.dumps(what)
    choice = {"message": {"content": text}, "finish_reason": finish}
    return Reply(body=json.dumps({"choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 10}}))


@contextlib.contextmanager
def serve(decide: Any) -> Iterator[Server]:
    """Serve in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    context = serving(decide=decide)
    server = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(_end(context), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _end(context: Any) -> None:
    """Close the server, and what still waits for a request."""
    await context.__aexit__(None, None, None)
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
