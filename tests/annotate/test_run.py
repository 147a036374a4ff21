"""The annotation run on a real Ray, against a server on loopback that answers as each row asks for."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import pytest
from annotate.rew_world import ENTITIES, Oracle, make_labels, serve

from raylab.annotate.plan import AnswersConfig, EngineConfig, RewConfig
from raylab.annotate.run import run
from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig, build
from raylab.label.plan import StoreConfig
from raylab.label.store import LabelStore
from raylab.schema import Reason
from raylab.sources.base import SourceConfig

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def kb(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("kb") / "kb"
    build(BuildConfig(out=str(folder), catalogues=("miniworld://",), workers=1, context=False))
    return str(folder)


def config_of(labels: str, kb: str, out: Path, url: str, **fields) -> RewConfig:
    return RewConfig(
        source=SourceConfig(uri=labels),
        kb=kb,
        out=str(out),
        annotator=EngineConfig(model=url, served_name="tiny", batch_rows=16, give_up_s=20),
        store=StoreConfig(1, 1),
        segment_rows=100,
        **fields,
    )


def rows_of(out: str) -> dict[str, dict]:
    store = LabelStore(out)
    labels = store.labels().to_table().to_pylist()
    rejects = store.rejects().to_table().to_pylist()
    found = {row["key"]: row for row in labels + rejects}
    assert len(found) == len(labels) + len(rejects), "every row is there once"
    return found


def test_rows_are_verified_corrected_explained_and_asked_about(kb, tmp_path):
    labels = make_labels(tmp_path, kb, ["yes", "no", "unknown", "nothing"] * 5)
    with serve(Oracle()) as server:
        summary = run(config_of(labels, kb, tmp_path / "out", server.url))
    rows = rows_of(str(tmp_path / "out"))
    assert summary["rows_in"] == 20 == summary["labelled"] + summary["rejected"] + summary["failed"]
    verified, corrected, unknown, nothing = (rows[str(i)] for i in range(4))
    assert verified["entity_name"] == ENTITIES[0]
    assert verified["annotation"]["decision"] == "verified"
    assert corrected["entity_id"] == "mw:flag-of-romania"
    assert (corrected["annotation"]["candidate_name"], corrected["annotation"]["resolution"]) == (ENTITIES[1], "exact")
    assert (unknown["entity_id"], unknown["entity_name"]) == (None, "Flag of Atlantis")
    assert unknown["annotation"]["resolution"] == "unresolved"
    assert (nothing["reject_step"], nothing["reject_reason"]) == ("verify", "not_identified")
    asked = verified["annotation"]["questions"]
    assert [pair["answer_id"] for pair in asked] == ["mw:flag-of-romania", None, None]
    assert [one.partition("@")[0] for one in verified["annotation"]["prompts"]] == ["verify/rew-1", "questions/rew-1"]
    assert {note["step"]: note["model"] for note in verified["models"]}["verify"] == server.url
    assert summary["annotation"]["annotated"] == 20
    assert (summary["annotation"]["verified"], summary["annotation"]["corrected"]) == (5, 10)


def test_a_rejected_row_is_rescued_only_when_asked_for(kb, tmp_path):
    labels = make_labels(tmp_path, kb, ["yes"] * 20)
    with serve(Oracle()) as server:
        run(config_of(labels, kb, tmp_path / "rescued", server.url))
        run(config_of(labels, kb, tmp_path / "left", server.url, rescue=()))
    assert rows_of(str(tmp_path / "rescued"))["9"]["annotation"]["rescued"]
    left = rows_of(str(tmp_path / "left"))["9"]
    assert (left["reject_step"], left["reject_reason"], left["annotation"]) == ("select", "low_score", None)


KINDS = {
    "malformed": Reason.ANSWER_MALFORMED,
    "empty": Reason.ANSWER_EMPTY,
    "refused": Reason.ANSWER_REFUSED,
    "long": Reason.ANSWER_TOO_LONG,
    "truncated": Reason.ANSWER_TRUNCATED,
    "context": Reason.PROMPT_TOO_LONG,
    "bad": Reason.REQUEST_REFUSED,
    "nothing": Reason.NOT_IDENTIFIED,
}
PICTURES = {"corrupt": Reason.IMAGE_CORRUPT, "empty": Reason.IMAGE_EMPTY, "words": Reason.IMAGE_FORMAT}
HEALING = ("once_malformed", "once_empty", "once_refused", "once_truncated", "once_context", "once_busy", "once_broken")


@pytest.mark.parametrize("count", [400, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_poisoned_row_has_its_reason_and_every_good_one_its_annotation(kb, tmp_path, count):
    each = count // 20  # 5 % are of each kind
    kinds = [kind for kind in (*KINDS, *HEALING) for _ in range(each)]
    kinds += [f"yes {picture}" for picture in PICTURES for _ in range(each)]
    kinds += ["yes"] * (count - len(kinds))
    random.Random(1).shuffle(kinds)
    pictures = {i: kind.split()[1] for i, kind in enumerate(kinds) if " " in kind}
    labels = make_labels(tmp_path, kb, kinds, pictures)
    with serve(oracle := Oracle()) as server:
        summary = run(config_of(labels, kb, tmp_path / "out", server.url, answers=AnswersConfig(attempts=2)))
    rows = rows_of(str(tmp_path / "out"))
    assert summary["rows_in"] == len(rows) == count
    for i, kind in enumerate(kinds):
        row = rows[str(i)]
        expected = KINDS.get(kind) or PICTURES.get(pictures.get(i, ""))
        if expected:
            assert row["reject_reason"] == expected.value, (kind, row["reject_detail"])
        else:
            assert row.get("reject_reason") is None, (kind, row["reject_reason"], row["reject_detail"])
            assert len(row["annotation"]["questions"]) == 3
    assert Counter(row.get("reject_reason") for row in rows.values())[None] == summary["labelled"]
    assert not any(oracle.asked["verify", str(i)] for i in pictures), "a picture that does not open costs no request"


def test_rows_without_a_single_picture_that_opens_cost_no_request(kb, tmp_path):
    labels = make_labels(tmp_path, kb, ["yes"] * 6, dict.fromkeys(range(6), "words"))
    with serve(oracle := Oracle()) as server:
        summary = run(config_of(labels, kb, tmp_path / "out", server.url))
    assert (summary["rows_in"], summary["rejected"]) == (6, 6)
    assert not oracle.asked


def test_a_finished_run_asks_nothing_again_and_an_interrupted_one_only_what_is_missing(kb, tmp_path):
    labels = make_labels(tmp_path, kb, ["yes"] * 40)
    out = tmp_path / "out"
    with serve(oracle := Oracle()) as server:
        config = config_of(labels, kb, out, server.url)
        run(config)
        whole = {key: row["entity_id"] for key, row in rows_of(str(out)).items()}
        asked = oracle.asked.total()
        run(config)
        assert oracle.asked.total() == asked
        (out / "MANIFEST.json").unlink()
        run(config)
        assert oracle.asked.total() == asked
    assert {key: row["entity_id"] for key, row in rows_of(str(out)).items()} == whole


def test_answers_of_a_run_that_broke_off_are_kept(kb, tmp_path):
    labels = make_labels(tmp_path, kb, ["yes"] * 300)
    out = tmp_path / "out"
    oracle = Oracle()

    def unwell(body):
        from annotate.engines.scripted_server import Reply

        return oracle(body) if oracle.asked.total() < 150 else Reply(401, "no")

    with serve(unwell) as server:
        config = config_of(labels, kb, out, server.url)
        with pytest.raises(RaylabError, match="OPENAI_API_KEY"):
            run(config)
    kept = sum(1 for _ in (out / "answers").rglob("*.parquet"))
    assert kept
    asked = oracle.asked["verify", "0"], oracle.asked.total()
    with serve(oracle) as server:
        moved = dataclasses.replace(config.annotator, model=server.url)
        with pytest.raises(RaylabError, match=r"config.annotator.model"):
            run(dataclasses.replace(config, annotator=moved))
    assert (oracle.asked["verify", "0"], oracle.asked.total()) == asked


def test_another_prompt_is_another_run(kb, tmp_path):
    labels = make_labels(tmp_path, kb, ["yes"] * 4)
    with serve(Oracle()) as server:
        config = config_of(labels, kb, tmp_path / "out", server.url)
        run(config)
        with pytest.raises(RaylabError, match=r"prompts"):
            run(dataclasses.replace(config, prompts=dataclasses.replace(config.prompts, first="verify/rew-1-bare")))


def test_a_sample_is_annotated_and_its_counts_close(kb, tmp_path):
    labels = make_labels(tmp_path, kb, ["yes"] * 60)
    with serve(Oracle()) as server:
        summary = run(config_of(labels, kb, tmp_path / "out", server.url, sample_rows=20))
    assert summary["rows_in"] == 20 == summary["labelled"]


def test_a_label_store_of_another_knowledge_base_is_refused(kb, tmp_path):
    labels = make_labels(tmp_path, kb, ["yes"] * 4)
    (Path(labels) / "run.json").write_text('{"kb": "another"}')
    with pytest.raises(RaylabError, match="another knowledge base"):
        run(config_of(labels, kb, tmp_path / "out", "http://127.0.0.1:9/v1"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"annotator": EngineConfig()}, "--annotator.model is missing"),
        ({"annotator": EngineConfig(model="x", extra="[]")}, "must be a JSON object"),
        ({"annotator": EngineConfig(model="http://me:secret@host/v1")}, "holds a password"),
        ({"answers": AnswersConfig(attempts=0)}, "attempts"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_starts(kb, tmp_path, fields, message):
    config = dataclasses.replace(config_of("labels", kb, tmp_path / "out", "http://127.0.0.1:9/v1"), **fields)
    with pytest.raises(RaylabError, match=message):
        run(config)
