"""Tasks out to a review tool and verdicts back, in both formats, with good files and bad ones."""

import base64
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from label.finished_run import HOSTILE, Run, make_run
from PIL import Image

from raylab.errors import RaylabError
from raylab.label.judging import AUDIT, SAMPLE
from raylab.label.label_studio import CONFIG
from raylab.label.review import ExportConfig, ImportConfig, TruthConfig, audit_by_truth, export_tasks, import_reviews
from raylab.label.review_files import VERDICTS
from raylab.label.store import LabelStore


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", rows=400, annotated=True, source="miniworld://?rows=400&seed=7")


def rows(run: Run) -> dict[str, dict]:
    store = LabelStore(str(run.out))
    return {row["row_id"]: row for part in (store.labels(), store.rejects()) for row in part.to_table().to_pylist()}


def is_right(row: dict) -> bool:
    return row["entity_id"] in row["truth"]


def annotated_task(task: dict, verdict: str | None, corrected: str = "", date: str = "2026-01-01") -> dict:
    """Return a task as Label Studio exports it after a person judged it."""
    result = [
        {"id": "a", "from_name": "verdict", "to_name": "image", "type": "choices", "value": {"choices": [verdict]}}
    ]
    if corrected:
        text = {"text": [corrected]}
        result.append({"id": "b", "from_name": "corrected", "to_name": "image", "type": "textarea", "value": text})
    note = {"id": 1, "completed_by": 1, "result": result, "was_cancelled": False, "updated_at": f"{date}T00:00:00Z"}
    return {**task, "id": 7, "annotations": [note] if verdict else []}


def export(run: Run, out: Path, format_: Any = "label-studio", n: int = 60) -> Any:
    export_tasks(ExportConfig(str(run.out), str(out), format_, rows=n))
    name = out if out.suffix else out / ("tasks.json" if format_ == "label-studio" else "samples.json")
    return json.loads(name.read_text())


def give_back(run: Run, tmp_path: Path, found: Any, format_: Any = "label-studio") -> dict:
    file = tmp_path / "reviews.json"
    file.write_text(json.dumps(found))
    return import_reviews(ImportConfig(str(run.out), str(file), format_))


def test_label_studio_tasks_have_all_that_a_person_needs(run: Run, tmp_path: Path) -> None:
    tasks, known = export(run, tmp_path / "out" / "audit.json"), rows(run)
    config = ET.parse(tmp_path / "out" / "audit-config.xml").getroot()
    shown = {tag.get("value", "")[1:] for tag in config.iter() if tag.get("value", "").startswith("$")}
    assert len(tasks) == 60 == len({task["data"]["row_id"] for task in tasks})
    for task in tasks:
        data = task["data"]
        assert shown <= data.keys()
        assert all(isinstance(value, str) for value in data.values())
        image = Image.open(io.BytesIO(base64.b64decode(data["image"].removeprefix("data:image/webp;base64,"))))
        assert max(image.size) <= 512
        row = known[data["row_id"]]
        assert data["caption"] == row["caption"]
        assert data["entity"] == row["entity_name"]
        if row["annotation"] and row["annotation"]["rationale"]:
            assert data["rationale"] == row["annotation"]["rationale"]
        assert task["predictions"][0]["result"] == []
        assert 0 <= task["predictions"][0]["score"] <= 1
    assert any(HOSTILE in task["data"]["caption"] + task["data"]["rationale"] for task in tasks)


def test_the_labeling_config_shows_text_as_text_and_asks_for_the_verdicts() -> None:
    root = ET.fromstring(CONFIG)
    tags = {tag.tag for tag in root.iter()}
    assert tags == {"View", "Image", "Header", "Text", "Choices", "Choice", "TextArea"}
    assert tuple(tag.get("value") for tag in root.iter("Choice")) == VERDICTS


@pytest.mark.parametrize("format_", ["label-studio", "fiftyone"])
def test_verdicts_come_back_as_figures(run: Run, tmp_path: Path, format_: str) -> None:
    found, known = export(run, tmp_path / "out", format_), rows(run)
    if format_ == "label-studio":
        verdicts = ["right" if is_right(known[task["data"]["row_id"]]) else "wrong" for task in found]
        found = [annotated_task(task, verdict) for task, verdict in zip(found, verdicts)]
        found[0] = annotated_task(found[0], "unsure", "Q183")
        found[1] = annotated_task(found[1], None)
    else:
        for sample in found["samples"]:
            right = is_right(known[sample["row_id"]])
            sample["tags"] = ["mine", "right"] if right else ["mine"]
            sample["review"] = None if right else "wrong"
        found["samples"][0] |= {"tags": ["unsure"], "review": None, "corrected": " Q183 "}
        found["samples"][1] |= {"tags": [], "review": None}
    audit = give_back(run, tmp_path, found, format_)
    assert audit == json.loads((run.out / AUDIT).read_text())
    assert (audit["judged"], audit["undecided"], audit["unreviewed"]) == (58, 1, 1)
    assert (audit["duplicates"], audit["unknown_rows"]) == (0, 0)
    assert [one["entity"] for one in audit["corrections"]] == ["Q183"]
    verify = audit["steps"]["verify"]
    labels = [row for row in known.values() if not row.get("reject_reason")]
    truth = sum(map(is_right, labels)) / len(labels)
    assert verify["low"] <= truth <= verify["high"]
    assert (run.out / "report.html").exists()
    assert (run.out / "README.md").exists()


def test_truth_can_stand_in_for_people(run: Run) -> None:
    audit = audit_by_truth(TruthConfig(str(run.out), rows=100))
    assert (audit["measured_by"], audit["judged"]) == ("truth", 100)
    assert not (run.out / SAMPLE).exists()


def test_a_run_without_truth_has_no_stand_in(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=50, truth=False, source="miniworld://?rows=50&seed=7")
    with pytest.raises(RaylabError, match="does not know the truth"):
        audit_by_truth(TruthConfig(str(run.out)))


def test_unknown_rows_are_named_and_the_last_of_two_verdicts_counts(run: Run, tmp_path: Path) -> None:
    tasks = export(run, tmp_path / "out")
    stranger = {"data": {"row_id": "f00d"}}
    found = [annotated_task(tasks[0], "wrong", date="2026-02-02"), annotated_task(tasks[0], "right", date="2026-01-01")]
    found += [annotated_task(stranger, "right"), annotated_task(tasks[1], "right")]
    audit = give_back(run, tmp_path, found)
    assert (audit["duplicates"], audit["unknown_rows"], audit["unknown_row_ids"]) == (1, 1, ["f00d"])
    assert (audit["judged"], audit["unreviewed"]) == (2, 58)
    assert sum(one["right"] for one in audit["strata"]) == 1


def test_skipped_annotations_count_as_none(run: Run, tmp_path: Path) -> None:
    task = annotated_task(export(run, tmp_path / "out")[0], "right")
    task["annotations"][0]["was_cancelled"] = True
    assert give_back(run, tmp_path, [task])["judged"] == 0


def broken(task: dict, *path: Any, value: Any) -> dict:
    changed = json.loads(json.dumps(annotated_task(task, "right")))
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return changed


RESULT = ("annotations", 0, "result", 0)
BAD = [
    (("data",), ..., r"task 2: data: is missing"),
    (("data", "row_id"), 5, r"task 2: data.row_id: must be a text, found int"),
    (("annotations",), ..., r"task 2 \(row [0-9a-f]+\): annotations: is missing"),
    (("annotations", 0), "x", r"annotations\[0\].result: expected an object around it, found str"),
    (("annotations", 0, "result"), {}, r"annotations\[0\].result: must be a list"),
    (("annotations", 0, "result"), [], r"annotations\[0\].result: has no verdict"),
    ((*RESULT, "from_name"), "mood", r"from_name: 'mood' is not in the labeling config"),
    ((*RESULT, "value"), ..., r"result\[0\].value: is missing"),
    ((*RESULT, "value", "choices"), ["right", "wrong"], r"must hold one text, found 2 entries"),
    ((*RESULT, "value", "choices"), ["maybe"], r"'maybe' is not one of right, wrong, unsure"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[message[:40] for *_, message in BAD])
def test_a_bad_label_studio_file_is_one_error_that_names_file_task_and_key(
    run: Run, tmp_path: Path, path: tuple, value: Any, message: str
) -> None:
    tasks = export(run, tmp_path / "out")
    with pytest.raises(RaylabError, match=message) as caught:
        give_back(run, tmp_path, [annotated_task(tasks[0], "right"), broken(tasks[1], *path, value=value)])
    assert "reviews.json" in str(caught.value)
    assert not (run.out / AUDIT).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_id": None}, "task 1: row_id: must be a text"),
        ({"tags": "right"}, "tags: must be a list"),
        ({"tags": ["right", "wrong"]}, "right and wrong contradict each other"),
        ({"tags": ["right"], "review": "wrong"}, "contradict"),
        ({"review": "good"}, "review: 'good' is not one of"),
        ({"corrected": "Q1"}, "corrected: is given without a verdict"),
        ({"review": "wrong", "corrected": 3}, "corrected: must be a text, found int"),
    ],
)
def test_a_bad_fiftyone_file_is_one_error(run: Run, tmp_path: Path, change: dict, message: str) -> None:
    found = export(run, tmp_path / "out", "fiftyone", n=10)
    found["samples"][0] |= change
    with pytest.raises(RaylabError, match=message):
        give_back(run, tmp_path, found, "fiftyone")


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", "null", '"x"', "[" * 100_000, "\ufeff[{}]"])
@pytest.mark.parametrize("format_", ["label-studio", "fiftyone"])
def test_what_is_no_export_is_told_so(run: Run, tmp_path: Path, content: str, format_: Any) -> None:
    export(run, tmp_path / "out", n=10)
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(RaylabError, match=r"bad\.json"):
        import_reviews(ImportConfig(str(run.out), str(tmp_path / "bad.json"), format_))
    with pytest.raises(RaylabError, match="no such file"):
        import_reviews(ImportConfig(str(run.out), str(tmp_path / "gone.json"), format_))


def test_reviews_need_an_export_and_numbers_make_sense(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match="export a sample for review first"):
        give_back(run, tmp_path, [])
    for config in (ExportConfig(str(run.out), "x", rows=0), ExportConfig(str(run.out), "x", precision=1.0)):
        with pytest.raises(RaylabError, match="must"):
            export_tasks(config)
    empty = make_run(tmp_path / "empty", rows=0, source="miniworld://?rows=1&seed=7")
    with pytest.raises(RaylabError, match="no decision to judge"):
        export_tasks(ExportConfig(str(empty.out), "x"))


def test_fiftyone_gets_a_picture_for_every_sample_below_its_own_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=60, annotated=True, source="miniworld://?rows=1&seed=7")
    found = export(run, tmp_path / "out", "fiftyone", n=20)
    fields = {one["name"] for one in json.loads((tmp_path / "out" / "metadata.json").read_text())["sample_fields"]}
    for sample in found["samples"]:
        picture = tmp_path / "out" / sample["filepath"]
        assert picture.resolve().parent == (tmp_path / "out" / "data").resolve()
        Image.open(picture).verify()
        assert {name for name in sample if name != "_id"} <= fields | {"_media_type", "_rand"}
        assert sample["entity"]["label"]


def test_pictures_that_are_gone_leave_tasks_without_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=60, annotated=True, source="miniworld://?rows=1&seed=7")
    table_ = LabelStore(str(run.out)).labels().to_table()
    assert table_.num_rows
    config = json.loads((run.out / "config.json").read_text()) | {"source": {"uri": "nowhere/*.tar"}}
    (run.out / "config.json").write_text(json.dumps(config))
    tasks = export(run, tmp_path / "out", n=10)
    assert all(task["data"]["image"] == "" and task["meta"]["no_picture_because"] for task in tasks)
    assert len(export(run, tmp_path / "fo", "fiftyone", n=10)["samples"]) == 10
