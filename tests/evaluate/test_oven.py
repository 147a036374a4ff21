import json

import pytest
from evaluate.small_sets import ColourNamer, MemorySource, coloured, png, ref, subject_of
from hypothesis import given
from hypothesis import strategies as st

from raylab.errors import RaylabError
from raylab.evaluate.oven import Oven, OvenConfig, harmonic_mean, official_scores, score_predictions
from raylab.evaluate.oven_files import (
    Prediction,
    Question,
    Titles,
    open_questions,
    read_predictions,
    read_questions,
    write_predictions,
)


def ask(number, split, entity="Q1"):
    return Question(f"q{number}", "what?", entity, f"title of {entity}", split)


def answers(right, total, split, first=0):
    """Return questions of a split, and predictions of which so many are right."""
    questions = [ask(first + number, split) for number in range(total)]
    return questions, [Prediction(one.data_id, ("Q1" if i < right else "Q9",)) for i, one in enumerate(questions)]


def four_splits():
    parts = [
        answers(3, 4, "entity_val_seen", 0),
        answers(1, 5, "entity_val_unseen", 10),
        answers(1, 2, "query_val_seen", 20),
        answers(1, 3, "query_val_unseen", 30),
    ]
    return [one for part in parts for one in part[0]], [one for part in parts for one in part[1]]


def by_name(scores):
    return {f"{score.part} {score.metric}": score.value for score in scores}


def test_scores_of_a_hand_made_file():
    found = by_name(score_predictions(*four_splits()))
    entity, query = 2 * 0.75 * 0.2 / 0.95, 2 * 0.5 * (1 / 3) / (0.5 + 1 / 3)
    assert found == pytest.approx(
        {
            "entity/seen accuracy": 0.75,
            "entity/unseen accuracy": 0.2,
            "query/seen accuracy": 0.5,
            "query/unseen accuracy": 1 / 3,
            "entity HM": entity,
            "query HM": query,
            "final HM": 2 * entity * query / (entity + query),
        }
    )


def test_a_missing_answer_is_wrong_here_and_no_row_to_the_public_scorer():
    questions, predictions = four_splits()
    kept = [one for one in predictions if one.data_id != "q3"]  # the only wrong one of entity seen
    assert by_name(score_predictions(questions, kept))["entity/seen accuracy"] == 0.75
    assert official_scores(questions, kept)["entity_result"]["seen"] == 100.0


def test_an_answer_without_an_entity_is_wrong():
    questions, _ = answers(0, 2, "entity_val_seen")
    found = score_predictions(questions, [Prediction("q0", (None,)), Prediction("q1", ())])
    assert by_name(found) == {"entity/seen accuracy": 0.0}


def test_top_k_looks_at_the_first_k():
    questions, _ = answers(0, 2, "entity_val_seen")
    predictions = [Prediction("q0", ("Q5", "Q1")), Prediction("q1", ("Q5", "Q6", "Q1"))]
    found = by_name(score_predictions(questions, predictions, (1, 2, 3)))
    assert found == {"entity/seen accuracy": 0, "entity/seen accuracy@2": 0.5, "entity/seen accuracy@3": 1}


def test_two_predictions_for_a_question_and_unknown_questions_are_errors():
    questions, predictions = answers(1, 2, "entity_val_seen")
    with pytest.raises(RaylabError, match="2 predictions for 'q0'"):
        score_predictions(questions, [*predictions, predictions[0]])
    with pytest.raises(RaylabError, match="'q77', which is none of the 2"):
        score_predictions(questions, [Prediction("q77", ("Q1",))])
    with pytest.raises(RaylabError, match="'q77', which is none of the 2"):
        official_scores(questions, [Prediction("q77", ("Q1",))])


def test_files_without_splits_give_one_accuracy():
    questions, predictions = answers(1, 4, "")
    assert by_name(score_predictions(questions, predictions)) == {"all accuracy": 0.25}


def test_one_split_alone_has_its_mean_and_no_final_score():
    questions, predictions = four_splits()
    entity = [one for one in questions if one.data_split.startswith("entity")]
    ids = {one.data_id for one in entity}
    found = by_name(score_predictions(entity, [one for one in predictions if one.data_id in ids]))
    assert "entity HM" in found and "final HM" not in found and "query HM" not in found


def the_public_scorer(reference_query, reference_entity, predicted_query, predicted_entity):
    """Do what the published evaluation code does, step by step (edchengg/oven_eval, oven_eval.py)."""

    def split(reference, predicted):
        asked = {row["data_id"]: row for row in reference}
        hits = {}
        for row in predicted:
            question = asked[row["data_id"]]
            hits.setdefault(question["data_split"], []).append(int(question["entity_id"] == row["pred_entity_id"]))
        result = {}
        for name, values in hits.items():
            result["seen" if "_seen" in name else "unseen"] = round(sum(values) / len(values) * 100, 2)
        return result

    def mean(*values):
        safe = [value if value != 0 else 1e-12 for value in values]
        return len(safe) / sum(1.0 / value for value in safe)

    query, entity = split(reference_query, predicted_query), split(reference_entity, predicted_entity)
    query_score, entity_score = mean(query["seen"], query["unseen"]), mean(entity["seen"], entity["unseen"])
    return {
        "query_score": round(query_score, 2),
        "entity_score": round(entity_score, 2),
        "final_score": round(mean(query_score, entity_score), 2),
        "query_result": query,
        "entity_result": entity,
    }


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=8), min_size=4, max_size=4), st.booleans())
def test_official_scores_are_the_public_scorers(hits, twice):
    splits = ["query_test_seen", "query_test_unseen", "entity_test_seen", "entity_test_unseen"]
    questions, predictions = [], []
    for split, row in zip(splits, hits):
        for hit in row:
            questions.append(ask(len(questions), split))
            predictions.append(Prediction(questions[-1].data_id, ("Q1" if hit else "Q2", "Q1")))
    predictions += predictions[:3] if twice else []  # repeated rows count again there
    references = [{"data_id": q.data_id, "entity_id": q.entity_id, "data_split": q.data_split} for q in questions]
    query_ids = {q.data_id for q in questions if q.data_split.startswith("query")}
    lines = [one.line() for one in predictions]
    expected = the_public_scorer(
        [row for row in references if row["data_id"] in query_ids],
        [row for row in references if row["data_id"] not in query_ids],
        [row for row in lines if row["data_id"] in query_ids],
        [row for row in lines if row["data_id"] not in query_ids],
    )
    assert official_scores(questions, predictions) == expected


def test_the_published_sanity_value_comes_out():
    """BLIP-2 FLAN-T5-XXL on the validation set: query 24.63 / 17.68 -> 20.58, entity 8.55 / 3.40 -> 4.87, 7.87."""
    parts = {
        "query_val_seen": (2463, 10_000),
        "query_val_unseen": (1768, 10_000),
        "entity_val_seen": (855, 10_000),
        "entity_val_unseen": (340, 10_000),
    }
    questions, predictions = [], []
    for number, (split, (right, total)) in enumerate(parts.items()):
        asked, answered = answers(right, total, split, 100_000 * number)
        questions += asked
        predictions += answered
    found = official_scores(questions, predictions)
    assert (found["query_score"], found["entity_score"], found["final_score"]) == (20.58, 4.87, 7.87)


def test_the_public_scorer_needs_seen_and_unseen():
    with pytest.raises(RaylabError, match="entity seen"):
        official_scores(*answers(1, 2, "query_val_seen"))


def test_the_harmonic_mean_with_a_zero_is_zero():
    assert harmonic_mean([0.0, 0.5]) == 0
    assert harmonic_mean([0.25, 0.75]) == pytest.approx(0.375)


def line(number, **extra):
    row = {"data_id": f"oven_entity_val_{number:08d}", "question": "which?", "entity_id": "Q1", "entity_text": "One"}
    return json.dumps(row | extra)


def test_question_files_are_read_and_wrong_lines_named(tmp_path):
    good = tmp_path / "good.jsonl"
    good.write_text(line(1, data_split="entity_val_seen", image_id="oven_00000001") + "\n\n" + line(2) + "\n")
    first, second = read_questions([str(good)])
    assert first.part == ("entity", "seen") and second.part is None
    twice = tmp_path / "twice.jsonl"
    twice.write_text(line(1) + "\n" + line(1) + "\n")
    with pytest.raises(RaylabError, match=r"twice.jsonl:2: data_id 'oven_entity_val_00000001' was there before"):
        read_questions([str(twice)])
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"data_id": "x", "question": "which?"}\n')
    with pytest.raises(RaylabError, match=r"bad.jsonl:1: 'entity_id' is missing; present: data_id, question"):
        read_questions([str(bad)])
    bad.write_text("{oops\n")
    with pytest.raises(RaylabError, match=r"bad.jsonl:1: no JSON"):
        read_questions([str(bad)])
    bad.write_text("\n")
    with pytest.raises(RaylabError, match="no questions there"):
        read_questions([str(bad)])
    with pytest.raises(RaylabError, match="cannot be opened"):
        read_questions([str(tmp_path / "nowhere.jsonl")])


def test_predictions_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "p.jsonl"
    given_ = [Prediction("a", ("Q1", None, "Q2")), Prediction("b", ())]
    path.write_bytes(write_predictions(given_))
    assert read_predictions(str(path)) == given_
    assert json.loads(path.read_text().splitlines()[0])["pred_entity_id"] == "Q1"
    path.write_text('{"data_id": "a", "pred_entity_id": "Q5"}\n')
    assert read_predictions(str(path)) == [Prediction("a", ("Q5",))]
    path.write_text('{"data_id": "a", "entity": "Q5"}\n')
    with pytest.raises(RaylabError, match="neither pred_entity_id nor pred_entity_ids; present: data_id, entity"):
        read_predictions(str(path))


@pytest.mark.parametrize("with_table", [True, False])
def test_the_published_layout_of_images(tmp_path, with_table):
    """Shards are named by the first two digits of an image's number, endings by the image's source."""
    for name, shard in (("oven_04000001.png", "04"), ("oven_00000007.jpg", "00")):
        folder = tmp_path / "oven_images" / shard
        folder.mkdir(parents=True)
        (folder / name).write_bytes(png((1, 2, 3)))
    if with_table:
        (tmp_path / "ovenid2impath.csv").write_text("oven_04000001,gldv2/a/b.png\noven_00000007,food101/x.jpg\n")
    path = tmp_path / "oven_entity_val.jsonl"
    ids = ["oven_04000001", "oven_00000007", "oven_09999999"]
    path.write_text("\n".join(line(number, image_id=image_id) for number, image_id in enumerate(ids)))
    questions, source = open_questions(str(path), str(tmp_path))
    found = source.image_bytes([one.image for one in questions])
    assert [isinstance(one, bytes) for one in found] == [True, True, False]
    assert found[2] == "missing_image"
    with pytest.raises(RaylabError, match=r"--oven.images is missing"):
        open_questions(str(path))


def test_a_line_cannot_name_a_file_outside_its_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(png((1, 2, 3)))
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "q.jsonl"
    path.write_text(line(1, file="../secret.png"))
    with pytest.raises(RaylabError, match=r"--oven.images is missing"):
        open_questions(str(path))


def test_titles_are_matched_exactly_then_folded():
    titles = Titles({"Q1": "Paris", "Q2": "PARIS", "Q3": "Ærøskøbing", "Q4": "Twin", "Q5": "Twin"})
    assert titles("Paris") == "Q1" and titles("PARIS ") == "Q2"
    assert titles("paris") is None  # two entities fold to it
    assert titles("aeroskobing") == "Q3"
    assert titles("Twin") is None
    assert titles("Atlantis") is None


def colour_questions():
    images = coloured(per_class=1)
    return [
        Question(f"q{place}", "which colour?", f"c:{label}", label, f"entity_val_{portion}", image=ref(place))
        for place, (label, portion) in enumerate(zip(images.labels, ("seen", "seen", "unseen")))
    ], images.source


@pytest.mark.parametrize("words", [False, True])
def test_a_model_is_asked_and_its_own_words_are_matched(monkeypatch, words):
    questions, source = colour_questions()
    subject = subject_of(monkeypatch, recogniser=ColourNamer(words))
    outcome = Oven(OvenConfig(top=2), questions, source)(subject)
    assert by_name(outcome.scores)["entity HM"] == 1
    lines = [json.loads(row) for row in outcome.files["oven_predictions.jsonl"].splitlines()]
    assert [row["pred_entity_id"] for row in lines] == ["c:red", "c:green", "c:blue"]
    assert all(len(row["pred_entity_ids"]) == 2 for row in lines)


def test_a_question_whose_image_is_refused_counts_as_wrong(monkeypatch):
    questions, source = colour_questions()
    subject = subject_of(monkeypatch, recogniser=ColourNamer())
    broken = MemorySource([source.images[0], b"no image", source.images[2]])
    outcome = Oven(OvenConfig(top=1), questions, broken)(subject)
    assert by_name(outcome.scores)["entity/seen accuracy"] == 0.5
    assert outcome.refused == {"oven: image_format": 1}
    assert "1 images refused" in outcome.notes[0]


def test_given_predictions_are_scored_without_a_model_and_officially_besides():
    questions, predictions = four_splits()
    found = {
        score.name: score for score in Oven(OvenConfig(official=True, top=1), questions, None, predictions)(None).scores
    }
    assert found["oven/official/final/HM"].value == official_scores(questions, predictions)["final_score"] / 100
    assert found["oven/official/entity/unseen/accuracy"].count == 5
    assert found["oven/every-question/final/HM"].count == 14


def test_the_mini_worlds_questions_are_of_held_out_pictures():
    questions, source = open_questions("miniworld://?rows=120&seed=5")
    assert {one.part[0] for one in questions} == {"entity", "query"}
    assert all("train" not in one.data_split for one in questions)
    assert all(isinstance(one, bytes) for one in source.image_bytes([questions[0].image]))


def test_official_scores_come_also_of_a_file_that_answers_twice():
    questions, predictions = four_splits()
    twice = [*predictions, predictions[0]]
    with pytest.raises(RaylabError, match="2 predictions for 'q0'"):
        Oven(OvenConfig(), questions, predictions=twice)(None)
    outcome = Oven(OvenConfig(official=True), questions, predictions=twice)(None)
    assert {score.protocol for score in outcome.scores} == {"official"}
    found = {f"{one.part} {one.metric}": one.value for one in outcome.scores}
    assert found["entity/seen accuracy"] == 0.8  # four of five rows
    assert len(outcome.notes) == 1
    assert outcome.notes[0].startswith("oven: official scores alone: 2 predictions for 'q0'")


def test_a_file_of_one_answer_a_row_has_no_top_10():
    questions, predictions = four_splits()
    metrics = {score.metric for score in Oven(OvenConfig(top=10), questions, predictions=predictions)(None).scores}
    assert metrics == {"accuracy", "HM"}
    longer = [Prediction(one.data_id, (*one.entity_ids, "Q1", "Q2")) for one in predictions]
    metrics = {score.metric for score in Oven(OvenConfig(top=10), questions, predictions=longer)(None).scores}
    assert metrics == {"accuracy", "HM", "accuracy@3", "HM@3"}
