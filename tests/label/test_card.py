"""The dataset card."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from label.finished_run import HOSTILE, Run, make_run

from raylab.label.card import render_card, write_card
from raylab.label.judging import audit_figures, sampled_rows
from raylab.label.sampling import draw
from raylab.label.store import LabelStore
from raylab.schema import LABEL
from raylab.storage import Folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("card") / "run", rows=300)


@pytest.fixture(scope="module")
def card(run: Run) -> str:
    write_card(Folder(str(run.out)), run.summary, {"store": {"min_entity_images": 5}})
    return (run.out / "README.md").read_text()


def head(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    return yaml.safe_load(front)


def cells(card: str, first: str) -> list[str]:
    line = next(line for line in card.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_counts_are_those_of_the_summary(run: Run, card: str) -> None:
    assert cells(card, "read")[1] == f"{run.summary['rows_in']:,}"
    assert cells(card, "**labelled** (`labels/`)")[1] == f"{run.summary['labelled']:,}"
    assert cells(card, "failed, with a cause (`rejects/`)")[1] == f"{run.summary['failed']:,}"
    for step in run.summary["steps"]:
        _, rows_in, rows_out, rejected, failed = cells(card, step["name"])
        assert (rows_in, rows_out, failed) == (f"{step['rows_in']}", f"{step['rows_out']}", f"{step['failed']}")
        counted = [part.rsplit(" ", 1) for part in rejected.split(", ") if part]
        assert {reason.replace(" ", "_"): int(n) for reason, n in counted} == step["rejected"]


def test_it_names_what_the_labels_were_made_with(run: Run, card: str) -> None:
    kb = run.summary["kb"]
    assert kb["fingerprint"] in card
    assert f"dump of {kb['dump_date']}" in card
    assert "flags.jsonl \\(7 rows, 2 bad lines\\)" in card
    assert "- select: miniworld-clip@def" in card
    assert "(fewer than 5)" in card


def test_measured_quality_is_shown_where_the_truth_is_known_only(run: Run, card: str) -> None:
    assert "| select | 0.957 | 0.800 | 0.830 |" in card
    unknown = {name: value for name, value in run.summary.items() if name != "truth"}
    assert "Not measured" in render_card(unknown, {})
    assert "| select | 0.957" not in render_card(unknown, {})
    nothing = run.summary | {"truth": {"link": {"precision": None, "recall": None, "coverage": 0.0}}}
    assert "| link | not known | not known | 0.000 |" in render_card(nothing, {})


def test_the_head_tells_a_hub_what_to_load(run: Run, card: str) -> None:
    front = head(card)
    assert front["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in front["configs"]] == ["labels", "rejects"]
    assert all(list(run.out.glob(config["data_files"])) for config in front["configs"])


@pytest.mark.parametrize(
    ("counted", "licence"),
    [
        ({"CC0-1.0": 5}, "cc0-1.0"),
        ({"CC0-1.0": 5, "not stated": 1}, "other"),
        ({"not stated": 1}, "other"),
        ({"https://creativecommons.org/licenses/by/2.0/": 3}, "other"),
        ({}, "other"),
    ],
)
def test_a_licence_is_claimed_only_if_every_row_states_it(run: Run, counted: dict[str, int], licence: str) -> None:
    text = render_card(run.summary | {"licences": counted}, {})
    assert head(text)["license"] == licence
    for name, rows in counted.items():
        assert f"| {name} | {rows} |" in text


@pytest.mark.parametrize(("labelled", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (1_200_000_000, "1B<n<10B")])
def test_size_categories(run: Run, labelled: int, size: str) -> None:
    assert head(render_card(run.summary | {"labelled": labelled}, {}))["size_categories"] == [size]


def test_text_from_outside_stays_text(run: Run) -> None:
    hostile = f"a: b\n---\n# {HOSTILE} | [x](javascript:alert(1)) `"
    entities = run.summary["entities"] | {"top": [["Q1", hostile, 3]]}
    text = render_card(run.summary | {"source": hostile, "entities": entities, "licences": {hostile: 1}}, {})
    assert head(text)["pretty_name"] == " ".join(f"Entity labels of {hostile}".split())
    body = text.split("\n---\n\n", 1)[1]
    assert "<script" not in body
    assert "](javascript" not in body
    assert [line for line in body.splitlines() if line.startswith("# ")] == [body.split("\n", 1)[0]]


def annotator(card: str) -> str:
    return card.split("## The annotator")[1].split("\n## ", maxsplit=1)[0]


def test_an_annotated_run_tells_model_prompts_yield_precision_and_limits(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=300, annotated=True)
    figures = run.summary["annotation"]
    card = render_card(run.summary, {})
    shown = annotator(card)
    assert "- Model: qwen-vl@7" in shown
    assert "verify/rew-1@0123456789ab" in shown
    assert f"{figures['verified']} verified, {figures['corrected']} corrected" in shown
    counted = figures["decisions"].values()
    known, right = (sum(one[name] for one in counted) for name in ("known", "right"))
    assert f"precision against the known truth: {right / known:.3f} (" in shown
    assert f"{known} rows" in shown
    assert "An LLM verified or corrected them" in card
    assert "arXiv 2410.23676" in card
    assert "<script" not in card.split("\n---\n\n", 1)[1]


def test_a_card_says_who_measured(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=300, annotated=True, truth=False)
    assert "Nobody has judged these labels" in render_card(run.summary, {})
    sample = draw(run.labels, run.rejects, rows=100)
    rows = sampled_rows(LabelStore(str(run.out)), sample.by_row())
    audit = {"measured_by": "review"} | audit_figures(sample, rows, dict.fromkeys(rows, True), 0.5)
    Folder(str(run.out)).write_json("audit.json", audit)
    write_card(Folder(str(run.out)), run.summary, {})
    card = (run.out / "README.md").read_text()
    assert "by people, on a sample" in annotator(card)
    assert "People judged 100 decisions" in card
    assert "apart from a sample of 100" in card
    _, precision, interval, judged, _ = cells(card, "of step verify")
    verify = audit["steps"]["verify"]
    assert (precision, judged) == ("1.000", str(verify["judged"]))
    assert interval == f"{verify['low']:.3f} to {verify['high']:.3f}"
    assert "reach a precision of 0.5" in card


def test_a_run_without_annotations_says_nothing_of_them(card: str) -> None:
    assert "LLM" not in card.split("## Columns", maxsplit=1)[0]


def test_every_column_is_explained(card: str) -> None:
    for field in LABEL:
        _, kind, meaning = cells(card, f"`{field.name}`")
        assert kind
        assert meaning


def test_an_empty_run_has_a_card(tmp_path: Path) -> None:
    assert "0 image-text pairs" in render_card(make_run(tmp_path / "run", rows=0).summary, {})


def test_the_lines_on_loading_load(run: Run, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.out)
    found: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0], found)
    assert isinstance(found["labels"], pa.Table)
    assert found["labels"].num_rows == run.summary["labelled"]


def test_the_datasets_library_loads_it(run: Run, card: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    for name, dataset in (("labels", run.labels), ("rejects", run.rejects)):
        loaded = datasets.load_dataset(str(run.out), name, split="train", cache_dir=str(tmp_path))
        assert loaded.num_rows == dataset.count_rows()
        assert loaded.column_names == dataset.schema.names
