"""What an answer leads to is asked at once, and what was answered before a death is not asked again."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from annotate.engines.asked import request

from raylab.annotate.engines.replies import replied, table
from raylab.annotate.engines.turns import OneTurn, take_turns
from raylab.annotate.records import key_of
from raylab.label.attempts import Attempts


class Questions:
    """Verify, then questions for even rows; a first answer "again" leads to a second attempt."""

    def __init__(self):
        self.log, self.earlier = [], []
        self.pictures = None

    def keep(self, answers):
        self.log += answers.to_pylist()

    def kept(self, requests):
        wanted = {key_of(one) for one in requests}
        return [answer for answer in self.earlier if key_of(answer) in wanted]

    def next_life(self):
        self.earlier = list(self.log)

    def go_on(self, answers, pictures):
        self.pictures = pictures
        last = {(answer["_segment"], answer["_row"]): answer for answer in answers}
        return [asked for answer in last.values() for asked in self._next(answer)]

    def _next(self, answer):
        row = answer["_row"]
        if answer["text"] == "again":
            return [request(row, call=answer["call"], attempt=answer["attempt"] + 1)]
        return [request(row, call="questions")] if answer["call"] == "verify" and row % 2 == 0 else []


class Engine:
    """Answers, keeps what it has answered, and dies at a wanted number of requests."""

    def __init__(self, talk, die_at=10**9, says=lambda request: "fine"):
        self.talk, self.die_at, self.says = talk, die_at, says
        self.asked = Counter()
        self.turns = []

    async def __call__(self, requests, in_hand):
        self.turns.append(([one["_row"] for one in requests], in_hand))
        answers = []
        for one in requests:
            if self.asked.total() == self.die_at:
                raise SystemExit
            self.asked[key_of(one)] += 1
            facts = {"finish": "stop", "tokens": None, "logprobs": None, "prompt_tokens": 1, "answer_tokens": 1}
            answers.append(replied(one, self.says(one), **facts))
            self.talk.keep(table(answers[-1:]))
        return answers


def talk_about(rows, engine, talk, ledger):
    return asyncio.run(take_turns([request(row) for row in rows], engine, talk, ledger))


def keys(answers):
    return [(one["_row"], one["call"], one["attempt"]) for one in answers]


def test_what_answers_lead_to_is_asked_until_nothing_is_left():
    talk = Questions()
    engine = Engine(talk, says=lambda one: "again" if (one["_row"], one["attempt"]) == (1, 1) else "fine")
    answers = talk_about(range(3), engine, talk, Attempts())
    assert keys(answers) == [
        (0, "verify", 1), (1, "verify", 1), (2, "verify", 1), (0, "questions", 1), (1, "verify", 2), (2, "questions", 1)
    ]  # fmt: skip
    assert engine.turns == [([0, 1, 2], False), ([0, 1, 2], False)]
    assert set(talk.pictures) == {(0, row) for row in range(3)}
    assert all(isinstance(picture, bytes) for picture in talk.pictures.values())
    assert all(answer["asked_at"] > 1.7e9 for answer in answers)


def test_one_turn_asks_nothing_further():
    engine = Engine(OneTurn())
    assert keys(talk_about([4, 5], engine, OneTurn(), Attempts())) == [(4, "verify", 1), (5, "verify", 1)]


@pytest.mark.parametrize("die_at", range(8))
def test_an_answer_that_was_kept_is_never_asked_for_again(die_at):
    talk, ledger = Questions(), Attempts()
    first = Engine(talk, die_at)
    with pytest.raises(SystemExit):
        talk_about(range(5), first, talk, ledger)
    talk.next_life()
    second = Engine(talk)
    answers = talk_about(range(5), second, talk, ledger)
    assert all(in_hand for _, in_hand in second.turns)
    assert not set(first.asked) & set(second.asked)
    verified, asked = [(i, "verify", 1) for i in range(5)], [(i, "questions", 1) for i in (0, 2, 4)]
    assert sorted(keys(answers)) == sorted(keys(talk.log)) == sorted(verified + asked)


def test_a_batch_that_had_been_finished_costs_nothing_when_its_task_is_repeated():
    talk, ledger = Questions(), Attempts()
    first = talk_about(range(5), Engine(talk), talk, ledger)
    talk.next_life()
    engine = Engine(talk)
    assert talk_about(range(5), engine, talk, ledger) == first
    assert not engine.asked
