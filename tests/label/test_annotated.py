"""What the annotator's answers came to, in figures."""

from pathlib import Path

import pytest
from label.finished_run import Run, make_run

from raylab.label.annotated import annotation_figures
from raylab.label.summary import annotation_line, table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("annotated") / "run", rows=600, annotated=True)


def rows(run: Run) -> list[dict]:
    found = [*run.labels.to_table().to_pylist(), *run.rejects.to_table().to_pylist()]
    return [one for one in found if one["annotation"]]


def test_counts_are_those_of_the_rows(run: Run) -> None:
    found, figures = rows(run), run.summary["annotation"]
    passed = [one for one in found if one["annotation"]["decision"] and one.get("reject_step") != "verify"]
    corrected = [one for one in passed if one["annotation"]["decision"] == "corrected"]
    unresolved = [one for one in corrected if one["entity_id"] is None]
    assert figures["annotated"] == len(found) > 300
    assert figures["rescued"] == sum(one["annotation"]["rescued"] for one in found) > 5
    assert (figures["verified"], figures["corrected"]) == (len(passed) - len(corrected), len(corrected))
    assert figures["unresolved"] == len(unresolved) > 5
    assert figures["resolved_share"] == pytest.approx(1 - len(unresolved) / len(corrected), abs=1e-6)
    assert sum(figures["by_resolution"].values()) == len(passed)
    assert figures["by_resolution"]["candidate"] == figures["verified"]
    refused = [one for one in found if one.get("reject_step") in ("verify", "questions")]
    assert sum(figures["by_reason"].values()) == len(refused)
    assert figures["by_reason"]["low_confidence"] > 0
    assert figures["prompts"]["verify/rew-1@0123456789ab"] == len(found)
    assert figures["prompts"]["questions/rew-1@ba9876543210"] < len(found)
    assert figures["model"] == "qwen-vl@7"
    assert (figures["prompt_tokens"], figures["answer_tokens"]) == (700 * len(found), 90 * len(found))
    assert figures["questions"] == sum(len(one["annotation"]["questions"] or ()) for one in passed)
    assert 0 < figures["linked_answers"] < figures["questions"]


def test_decisions_are_judged_before_and_after(run: Run) -> None:
    decisions = run.summary["annotation"]["decisions"]
    assert list(decisions) == ["verified", "corrected"]
    assert decisions["verified"]["right"] == decisions["verified"]["right_before"] == decisions["verified"]["known"]
    corrected = [
        one for one in rows(run) if one["annotation"]["decision"] == "corrected" and one.get("reject_step") != "verify"
    ]
    assert decisions["corrected"]["known"] == len(corrected)
    assert decisions["corrected"]["right"] == sum(one["entity_id"] in one["truth"] for one in corrected)
    assert decisions["corrected"]["right_before"] == sum(
        one["annotation"]["candidate_id"] in one["truth"] for one in corrected
    )


def test_a_run_without_annotations_has_no_figures_and_one_without_truth_no_verdicts(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", rows=60)
    assert annotation_figures(plain.labels, plain.rejects) == {}
    blind = make_run(tmp_path / "blind", rows=60, annotated=True, truth=False)
    assert blind.summary["annotation"]["annotated"] > 0
    assert "decisions" not in blind.summary["annotation"]


def test_the_terminal_shows_the_steps_the_truth_and_one_line(run: Run) -> None:
    shown = table(run.summary)
    assert "\nverify " in shown.split("against truth", maxsplit=1)[0]
    assert "\nquestions " in shown.split("against truth", maxsplit=1)[0]
    assert "\nverify " in shown.split("against truth")[1]
    assert annotation_line(run.summary["annotation"]) in shown
    nothing = run.summary["annotation"] | {"corrected": 0, "unresolved": 0, "resolved_share": None}
    assert "0 corrected, " in annotation_line(nothing)
