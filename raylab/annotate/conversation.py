"""What is still to be asked about a row, and what its answers come to.

    describe (only with a describer) ──► first: verify, or name ──► questions

The state of a row is nothing but its answers so far: the same answers always lead to the same next request and to the
same label, so that a run can be killed and resumed anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raylab.annotate.answers import Pairs, Refusal, Retry, Verdict, read_description, read_pairs, read_verdict
from raylab.annotate.plan import AnswersConfig
from raylab.annotate.prompts import Prompt
from raylab.annotate.resolve import Resolved, Resolver
from raylab.schema import Reason

STEPS = {"describe": "verify", "first": "verify", "questions": "questions"}
"""The step of the run that each part of a conversation belongs to."""


@dataclass(frozen=True)
class Ask:
    """The next request of a row."""

    part: str
    """A key of `STEPS`."""
    attempt: int
    """1 for the first one of this part."""
    retry: Retry
    """What was wrong with the attempt before; `Retry.NO` for the first one."""


@dataclass
class State:
    """What is known of a row from its answers."""

    description: str | None = None
    verdict: Verdict | None = None
    resolved: Resolved | None = None
    """The entity that a corrected title names."""
    pairs: Pairs | None = None
    answer_ids: list[str | None] = field(default_factory=list)
    """The entity that each answer of `pairs` names."""
    ask: Ask | None = None
    """What to ask next; None where the row is done."""
    refusal: Refusal | None = None
    """Why the row leaves the flow; None where it does not."""
    refused_part: str = ""


class Conversations:
    """Reads the answers of many rows.

    Args:
        prompts: the part it plays -> prompt, in the order of the conversation.
        config: how answers are judged.
        resolver: finds the entities that titles name.
    """

    def __init__(self, prompts: Mapping[str, Prompt], config: AnswersConfig, resolver: Resolver) -> None:
        self.prompts = prompts
        self._config = config
        self._resolver = resolver

    def states(self, rows: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[Mapping[str, Any]]]) -> list[State]:
        """Return the state of each row.

        Args:
            rows: rows of a label store, with the candidate in ``entity_id`` and ``entity_name``.
            answers: for each row its answers, as `log.read_answers` gives them.
        """
        states = [self._read(row, given) for row, given in zip(rows, answers)]
        named = [state for state in states if state.verdict and state.verdict.decision == "no"]
        for state, resolved in zip(named, self._resolver([state.verdict.title for state in named if state.verdict])):
            state.resolved = resolved
        asked = [state for state in states if state.pairs]
        said = [answer for state in asked for _, answer in (state.pairs.pairs if state.pairs else ())]
        ids = iter(self._resolver.link(said))
        for state in asked:
            state.answer_ids = [next(ids) for _ in (state.pairs.pairs if state.pairs else ())]
        return states

    def _read(self, row: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> State:
        state = State()
        for part, prompt in self.prompts.items():
            mine = [answer for answer in answers if answer["call"] == prompt.call]
            if not mine:
                state.ask = Ask(part, 1, Retry.NO)
                return state
            refusal = self._take(state, part, mine[-1], row)
            if refusal is None:
                continue
            if refusal.retry is not Retry.NO and mine[-1]["attempt"] < self._config.attempts:
                state.ask = Ask(part, mine[-1]["attempt"] + 1, refusal.retry)
            else:
                state.refusal, state.refused_part = refusal, part
            return state
        return state

    def _take(self, state: State, part: str, answer: Mapping[str, Any], row: Mapping[str, Any]) -> Refusal | None:
        """Read one answer into the state, or return why it is of no use."""
        if part == "describe":
            found = read_description(answer)
            if isinstance(found, Refusal):
                return found
            state.description = found
        elif part == "first":
            verdict = read_verdict(answer, self._config, row["entity_name"] if answer["call"] == "verify" else None)
            if isinstance(verdict, Refusal):
                return verdict
            state.verdict = verdict
            return self._judge(verdict)
        else:
            pairs = read_pairs(answer)
            if isinstance(pairs, Refusal):
                return pairs
            state.pairs = pairs
        return None

    def _judge(self, verdict: Verdict) -> Refusal | None:
        least = self._config.min_confidence
        if verdict.confidence is None or verdict.confidence >= least:
            return None
        return Refusal(Reason.LOW_CONFIDENCE, f"confidence {verdict.confidence:.3f} is below {least}", Retry.NO)
