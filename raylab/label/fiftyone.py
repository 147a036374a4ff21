"""FiftyOne: a folder that ``fiftyone.types.FiftyOneDataset`` reads, and its export read back.

    metadata.json    the dataset's fields
    samples.json     a sample a task
    data/            pictures

A person judges by tagging samples ``right``, ``wrong`` or ``unsure`` (in the app: select, tag), or in code by setting
the field ``review``; ``corrected`` takes the entity that is right.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from raylab.errors import RaylabError
from raylab.label.review_files import QUESTION, VERDICTS, Decision, Place, Read, Task, read_json
from raylab.storage import Folder

FORMAT_VERSION = "1.0.0"
"""The FiftyOne whose format is written; later ones bring it up to theirs when they read it."""
_TEXTS = (
    *("row_id", "caption", "entity_id", "description", "step", "decision", "candidate", "rationale", "where", "model"),
    *("review", "corrected"),
)
_CORE = "fiftyone.core.fields."


def write_dataset(tasks: Sequence[Task], out: str) -> list[str]:
    """Write tasks as a dataset; return the files' names, pictures as their folder.

    Args:
        tasks: in the order in which they are to be judged.
        out: a folder.
    """
    folder = Folder(out)
    for task in tasks:
        folder.write_bytes(f"data/{_file(task)}", _picture(task))
    samples = [_sample(task, number) for number, task in enumerate(tasks)]
    folder.write_bytes("samples.json", json.dumps({"samples": samples}, ensure_ascii=False).encode("utf-8", "replace"))
    folder.write_json("metadata.json", _metadata())
    return [f"{folder.uri}/{name}" for name in ("metadata.json", "samples.json", "data")]


def read_reviews(name: str) -> Read:
    """Read a dataset's ``samples.json``, in its own folder or by its path.

    Raises:
        RaylabError: the file is no such export; the message names the sample and the key.
    """
    file = name if name.endswith(".json") else f"{name.rstrip('/')}/samples.json"
    found = read_json(file)
    if not isinstance(found, dict) or not isinstance(found.get("samples"), list):
        raise RaylabError(f"{file}: expected an object with the list 'samples' (a FiftyOneDataset's samples.json).")
    decisions = [_decision(one, Place(file, number), file, number) for number, one in enumerate(found["samples"], 1)]
    given = [one for one in decisions if one is not None]
    return Read(given, len(decisions) - len(given))


def _decision(sample: Any, place: Place, file: str, number: int) -> Decision | None:
    row_id = place.get(sample, "row_id", str)
    place = Place(file, number, row_id)
    tags = place.get(sample, "tags", list) if sample.get("tags") is not None else []
    said = {tag for tag in tags if isinstance(tag, str) and tag in VERDICTS}
    if sample.get("review") is not None:
        said.add(place.verdict(sample["review"], "review"))
    if len(said) > 1:
        raise place.error("tags, review", f"{' and '.join(sorted(said))} contradict each other.")
    corrected = place.get(sample, "corrected", str) if sample.get("corrected") is not None else ""
    if corrected and not said:
        raise place.error("corrected", f"is given without a verdict: tag the sample {', '.join(VERDICTS)}.")
    return Decision(row_id, said.pop(), corrected.strip()) if said else None


def _file(task: Task) -> str:
    return f"{_hex(task.row_id, 16)}.webp"


def _hex(text: str, size: int) -> str:
    """Return a name that no text from outside can turn into a path."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


def _picture(task: Task) -> bytes:
    if task.picture.uri:
        return base64.b64decode(task.picture.uri.split(",", 1)[1])
    import io

    from PIL import Image

    blank = io.BytesIO()  # a sample needs a file; `description` says why there is nothing to see
    Image.new("RGB", (64, 64), (128, 128, 128)).save(blank, "WEBP")
    return blank.getvalue()


def _sample(task: Task, number: int) -> dict[str, Any]:
    texts = {name: getattr(task, name) for name in _TEXTS if hasattr(task, name)}
    if not task.picture.uri:
        texts["description"] = f"no picture: {task.picture.refusal}"
    sure = task.score if task.confidence is None else task.confidence
    entity = {"_id": {"$oid": _hex(f"entity {task.row_id}", 12)}, "_cls": "Classification", "tags": []}
    return {
        "_id": {"$oid": _hex(task.row_id, 12)},
        "filepath": f"data/{_file(task)}",
        "tags": [],
        "_media_type": "image",
        "_rand": number / 10**6,
        **texts,
        "review": None,
        "corrected": None,
        "questions": list(task.questions),
        "score": task.score,
        "entity": entity | {"label": task.entity, "confidence": sure},
    }


def _metadata() -> dict[str, Any]:
    inner = [
        _field("id", "ObjectIdField", db_field="_id"),
        _field("tags", "ListField", subfield=f"{_CORE}StringField"),
        _field("label", "StringField"),
        _field("confidence", "FloatField"),
        _field("logits", "VectorField"),
    ]
    fields = [
        _field("id", "ObjectIdField", db_field="_id"),
        _field("filepath", "StringField"),
        _field("tags", "ListField", subfield=f"{_CORE}StringField"),
        _field("metadata", "EmbeddedDocumentField", embedded_doc_type="fiftyone.core.metadata.ImageMetadata"),
        _field("_media_type", "StringField"),
        _field("_rand", "FloatField"),
        _field("_dataset_id", "ObjectIdField"),
        _field("created_at", "DateTimeField", read_only=True),
        _field("last_modified_at", "DateTimeField", read_only=True),
        *(_field(name, "StringField") for name in _TEXTS),
        _field("questions", "ListField", subfield=f"{_CORE}StringField"),
        _field("score", "FloatField"),
        _field(
            "entity", "EmbeddedDocumentField", embedded_doc_type="fiftyone.core.labels.Classification", fields=inner
        ),
    ]
    return {
        "name": "raylab-review",
        "version": FORMAT_VERSION,
        "media_type": "image",
        "description": f"{QUESTION} Tag each sample: {', '.join(VERDICTS)}.",
        "tags": [],
        "info": {},
        "sample_fields": fields,
        "frame_fields": [],
    }


def _field(name: str, kind: str, **more: Any) -> dict[str, Any]:
    unset: dict[str, Any] = {
        "embedded_doc_type": None,
        "subfield": None,
        "fields": [],
        "db_field": name,
        "description": None,
    }
    return {"name": name, "ftype": f"{_CORE}{kind}", **unset, "info": None, "read_only": False, **more}
