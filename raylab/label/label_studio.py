"""Label Studio: tasks out, annotations back.

Written is what its import reads (a list of tasks with ``data``, ``meta`` and ``predictions``), and the labeling config
of the project beside it. Read is its export format "JSON". Predictions carry the run's score, so that tasks can be
sorted by it, and no verdict: a verdict that is filled in already pulls those who judge.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from raylab.errors import RaylabError
from raylab.label.review_files import QUESTION, VERDICTS, Decision, Place, Read, Task, read_json
from raylab.storage import Folder

CONFIG = f"""<View>
  <View style="display: flex; gap: 1.5em; align-items: flex-start">
    <View style="flex: 0 0 45%"><Image name="image" value="$image"/></View>
    <View style="flex: 1">
      <Header value="{QUESTION}" size="4"/>
      <Text name="entity" value="$entity"/>
      <Text name="description" value="$description"/>
      <Choices name="verdict" toName="image" choice="single" required="true" showInline="true">
{chr(10).join(f'        <Choice value="{verdict}" hotkey="{n}"/>' for n, verdict in enumerate(VERDICTS, 1))}
      </Choices>
      <Header value="If wrong: what is it? An entity's id or name, if you know it" size="6"/>
      <TextArea name="corrected" toName="image" rows="1" maxSubmissions="1"/>
      <Header value="Caption" size="6"/>
      <Text name="caption" value="$caption"/>
      <Header value="Decision and rationale" size="6"/>
      <Text name="decision" value="$decision"/>
      <Text name="rationale" value="$rationale"/>
      <Text name="questions" value="$questions"/>
    </View>
  </View>
</View>
"""
"""All texts stand in ``Text`` tags, which show them as they are; no ``HyperText``."""


def write_tasks(tasks: Sequence[Task], out: str) -> list[str]:
    """Write tasks, and beside them the labeling config; return the files' names.

    Args:
        tasks: in the order in which they are to be judged.
        out: the task file, such as ``tasks.json``; a folder gets a ``tasks.json``.
    """
    path = PurePosixPath(out)
    name, parent = (path.name, str(out)[: -len(path.name)]) if path.suffix == ".json" else ("tasks.json", out)
    folder = Folder(parent or ".")
    config = f"{PurePosixPath(name).stem}-config.xml"
    text = json.dumps([_task(task) for task in tasks], indent=1, ensure_ascii=False)
    folder.write_bytes(name, text.encode("utf-8", "replace"))
    folder.write_bytes(config, CONFIG.encode())
    return [f"{folder.uri}/{name}", f"{folder.uri}/{config}"]


def _task(task: Task) -> dict[str, Any]:
    sure = task.score if task.confidence is None else task.confidence
    changed = f"{task.decision} by {task.step}" + (f", was: {task.candidate}" if task.candidate else "")
    return {
        "data": {
            "row_id": task.row_id,
            "image": task.picture.uri or "",
            "entity": task.entity,
            "entity_id": task.entity_id,
            "description": task.description or "no description",
            "caption": task.caption or "no caption",
            "decision": changed,
            "rationale": task.rationale or "no rationale",
            "questions": "\n".join(task.questions) or "no questions",
        },
        "meta": {
            "step": task.step,
            "decision": task.decision,
            "score": task.score,
            "confidence": task.confidence,
            "where": task.where,
            "no_picture_because": task.picture.refusal,
        },
        "predictions": [{"model_version": task.model, "score": sure, "result": []}],
    }


def read_reviews(name: str) -> Read:
    """Read an export of the format "JSON". Annotations that were skipped count as none.

    Raises:
        RaylabError: the file is no such export; the message names the task and the key.
    """
    found = read_json(name)
    if not isinstance(found, list):
        raise RaylabError(f"{name}: expected a list of tasks (Label Studio's export format JSON).")
    dated: list[tuple[str, Decision]] = []
    unreviewed = 0
    for number, task in enumerate(found, start=1):
        row_id = Place(name, number).get(Place(name, number).get(task, "data", dict), "row_id", str, "data.")
        place = Place(name, number, row_id)
        annotations = place.get(task, "annotations", list)
        mine = [_decision(one, place, row_id, f"annotations[{i}].") for i, one in enumerate(annotations)]
        given = [one for one in mine if one is not None]
        dated += given
        unreviewed += not given
    dated.sort(key=lambda one: one[0])  # stable: what has no date stays in the file's order
    return Read([decision for _, decision in dated], unreviewed)


def _decision(annotation: Any, place: Place, row_id: str, path: str) -> tuple[str, Decision] | None:
    results = place.get(annotation, "result", list, path)
    if annotation.get("was_cancelled"):
        return None
    said: dict[str, str] = {}
    for number, result in enumerate(results):
        inner = f"{path}result[{number}]."
        control = place.get(result, "from_name", str, inner)
        key = {"verdict": "choices", "corrected": "text"}.get(control)
        if key is None:
            raise place.error(f"{inner}from_name", f"{control[:80]!r} is not in the labeling config of these tasks.")
        values = place.get(place.get(result, "value", dict, inner), key, list, f"{inner}value.")
        if len(values) != 1 or not isinstance(values[0], str):
            raise place.error(f"{inner}value.{key}", f"must hold one text, found {len(values)} entries.")
        said[control] = values[0].strip()
    if "verdict" not in said:
        raise place.error(f"{path}result", "has no verdict.")
    verdict = place.verdict(said["verdict"], f"{path}result")
    date = annotation.get("updated_at") or annotation.get("created_at") or ""
    return str(date), Decision(row_id, verdict, said.get("corrected", ""))
