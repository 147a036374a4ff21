"""Lessons: what the annotator is asked about a picture, in its prompts' own words, and what it should say.

The truth is the world's. Half of the candidates are wrong: namesakes, other names in the caption, look-alikes, others
of the kind. The wording of an answer follows from what is in the picture, so that there is one right answer.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from raylab.annotate.prompts import load_prompt, plain
from raylab.sources.miniworld.draw import texture
from raylab.sources.miniworld.entities import BY_ID, ENTITIES, PICTURED, MiniEntity
from raylab.sources.miniworld.make_annotator.model import ANSWER, END, IMAGE, SYSTEM, USER
from raylab.sources.miniworld.samples import Sample, placements
from raylab.sources.miniworld.scene import Placement

_ON = {
    "pole": "a pole",
    "post": "a post",
    "mug": "a mug",
    "shirt": "a T-shirt",
    "sticker": "a sticker",
    "poster": "a poster",
    "screen": "a screen",
    "paint": "a wall",
}
_NOTHING = "The picture shows no flag, sign or symbol that is known."
_SHARES = {"verify/mini-1": 0.66, "verify/mini-1-bare": 0.08, "name/mini-1": 0.08, "questions/mini-1": 0.14}
_DESCRIBED_SHARE = 0.06
_YES_SHARE = 0.5
_LOOK_ALIKES = 8


@dataclass(frozen=True)
class Lesson:
    """A prompt and its answer, as the chat template writes them; `IMAGE` stands for the picture."""

    prompt: str
    answer: str
    """The JSON text, then `END`."""
    decides: int
    """Characters of the answer up to the end of the decision and the title: what the row's confidence rests on."""


def noun(entity: MiniEntity) -> str:
    """Return ``flag``, ``pennant``, ``sign`` or ``symbol``."""
    return next((word for word in ("flag", "pennant", "sign") if entity.kind.endswith(word)), "symbol")


@cache
def look(entity: MiniEntity) -> str:
    """Return what an entity looks like, out of its summary and without names."""
    found = re.search(r"Code of Signals, (.*?)\. It means|that shows (.*)\.$|: (.*)\.$", entity.summary)
    assert found, entity.summary
    words = next(group for group in found.groups() if group)
    return words.replace("the Union Jack", "a small red, white and blue flag")


def _seen(placement: Placement) -> str:
    entity = BY_ID[placement.entity_id]
    return f"a {noun(entity)} on {_ON[placement.carrier]}: {look(entity)}"


def describe(found: Sequence[Placement]) -> str:
    """Describe a picture without names."""
    if not found:
        return _NOTHING
    if len(found) == 1:
        return f"The picture shows {_seen(found[0])}."
    return f"On the left {_seen(found[0])}. On the right {_seen(found[1])}."


def _write(answer: dict[str, object]) -> str:
    """JSON as the constrained decoder writes it, a space after each comma and colon."""
    return json.dumps(answer, ensure_ascii=False)


def verdict(found: Sequence[Placement], candidate: MiniEntity | None, reads_summary: bool) -> str:
    """Answer the calls ``verify`` and, without a candidate, ``name``."""
    shown = next((placement for placement in found if candidate and placement.entity_id == candidate.id), None)
    if shown and candidate:
        rationale = f"The {noun(candidate)} on {_ON[shown.carrier]} shows {look(candidate)}"
        return _write(
            {"decision": "yes", "rationale": rationale + (", as the summary says." if reads_summary else ".")}
        )
    title = BY_ID[found[0].entity_id].title if found else ""
    rationale = f"The picture shows {_seen(found[0])}." if found else _NOTHING
    head = {"decision": "no"} if candidate else {}
    return _write({**head, "title": title, "rationale": rationale})


def pairs(found: Sequence[Placement]) -> str:
    """Answer the call ``questions`` for a picture that holds something."""
    first = found[0]
    entity = BY_ID[first.entity_id]
    word, carrier = noun(entity), _ON[first.carrier].split(maxsplit=1)[1]
    if len(found) > 1:
        other = BY_ID[found[1].entity_id]
        asked = [
            (f"Which {word} is on the left?", entity.title),
            (f"Which {noun(other)} is on the right?", other.title),
            (f"What is the {word} on the left on?", carrier.capitalize()),
        ]
    else:
        asked = [
            (f"Which {word} is on the {carrier}?", entity.title),
            (f"What is the {word} on?", carrier.capitalize()),
            (f"What kind of {word} is this?", entity.kind.capitalize()),
        ]
    return _write({"pairs": [{"question": question, "answer": answer} for question, answer in asked]})


@cache
def _named() -> dict[str, tuple[MiniEntity, ...]]:
    """Entities by each of their names, in lower case."""
    owners: dict[str, list[MiniEntity]] = defaultdict(list)
    for entity in ENTITIES:
        for name in {name.lower() for name in (entity.title, *entity.aliases)}:
            owners[name].append(entity)
    return {name: tuple(found) for name, found in owners.items()}


@cache
def _look_alikes() -> dict[str, tuple[MiniEntity, ...]]:
    """For each pictured entity those whose drawing differs least."""
    small = []
    for entity in PICTURED:
        pixels = np.asarray(Image.fromarray(texture(entity.id)).convert("RGBA").resize((8, 8)), np.float32)
        small.append((pixels[..., :3] * pixels[..., 3:] / 255).ravel())
    drawn = np.stack(small)
    square = (drawn**2).sum(1)
    order = np.argsort(square[:, None] + square - 2 * drawn @ drawn.T, axis=1)
    return {
        entity.id: tuple(PICTURED[j] for j in order[i] if j != i)[:_LOOK_ALIKES] for i, entity in enumerate(PICTURED)
    }


def candidate_for(row: Sample, rng: random.Random) -> MiniEntity:
    """Draw a candidate: one that the picture shows, or a wrong one of those that the labeling steps come up with."""
    shown = [BY_ID[entity_id] for entity_id in row.entity_ids]
    if shown and rng.random() < _YES_SHARE:
        return rng.choice(shown)
    names = [row.caption.text[span.start : span.end] for span in row.caption.spans]
    said = [entity for name in names for entity in _named().get(name.lower(), ())]
    how = rng.random()
    pool: Sequence[MiniEntity] = PICTURED if how < 0.9 else ENTITIES
    if how < 0.35:
        pool = said
    elif shown and how < 0.6:
        pool = _look_alikes()[rng.choice(shown).id]
    elif shown and how < 0.8:
        kind = rng.choice(shown).kind
        pool = [entity for entity in PICTURED if entity.kind == kind]
    elif shown and how < 0.85:
        entity = rng.choice(shown)
        pool = [other for name in (entity.title, *entity.aliases) for other in _named()[name.lower()]]
    wrong = [entity for entity in pool if entity not in shown]
    return rng.choice(wrong or [entity for entity in PICTURED if entity not in shown])


def lesson(row: Sample, rng: random.Random, call: str = "", candidate: MiniEntity | None = None) -> Lesson:
    """Make a lesson about a row.

    Args:
        row: what the picture shows and says.
        rng: draws what is not given.
        call: a prompt's name such as ``verify/mini-1``; drawn where it is empty.
        candidate: what ``verify`` asks about; drawn where it is missing.
    """
    found = placements(row)
    call = call or rng.choices([*_SHARES, "describe/mini-1"], [*_SHARES.values(), 0.04])[0]
    if call.startswith("questions") and not found:
        call = "verify/mini-1"
    about: MiniEntity | None = None
    values: dict[str, str | None] = {"title": "", "description": "", "summary": "", "rationale": "", "caption": ""}
    if call.startswith("verify"):
        about = candidate or candidate_for(row, rng)
        values |= {"title": about.title, "description": about.description, "summary": about.summary}
        values["caption"] = row.caption.text
        answer = verdict(found, about, call == "verify/mini-1")
    elif call.startswith("questions"):
        about = BY_ID[rng.choice(found).entity_id]
        earlier = json.loads(verdict(found, about if rng.random() < 0.8 else None, True))
        values |= {"title": about.title, "rationale": earlier["rationale"]}
        answer = pairs(found)
    elif call.startswith("name"):
        answer = verdict(found, None, False)
    else:
        answer = _write({"description": describe(found)})
    decides = _decides(answer)
    reads = not call.startswith("describe") and rng.random() < _DESCRIBED_SHARE
    return Lesson(_prompt(call, values, describe(found) if reads else ""), answer + END, decides)


def _prompt(call: str, values: dict[str, str | None], description: str) -> str:
    words = load_prompt(call).render(**values)
    before, picture = words.before, IMAGE
    if description:
        before, picture = f"{before}\nThe image, described: {plain(description)}".strip(), ""
    return f"{SYSTEM}{words.system}{END}{USER}{before}{picture}{words.after}{END}{ANSWER}"


def _decides(answer: str) -> int:
    end = answer.find(', "rationale"')
    return max(end, 0)


def texts() -> list[str]:
    """Everything that is said of the entities, to make a vocabulary from."""
    said = [f"{entity.title}: {entity.summary} {entity.description} {' '.join(entity.aliases)}" for entity in ENTITIES]
    return said + [f"shows {look(entity)}, as the summary says." for entity in PICTURED]
