"""Beam search: the names, codes or texts that a model finds most probable.

A beam's score is the sum of its tokens' log-probabilities over the whole vocabulary, with no length penalty (GER D.3).
A trie forbids tokens at every step (arXiv 2410.23676); what it leaves is not normalised again,
so a score is the model's own probability of that name, and comparable between tries.

Axes: B pictures, K beams, R results, T steps, V vocabulary, F children of a beam at most.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from raylab.errors import RaylabError
from raylab.models.trie import Trie

if TYPE_CHECKING:
    from raylab.models.git import Git

BEAMS = 30
"""As in arXiv 2410.23676."""
_NEVER = -torch.inf
_BLOCK = 64
_ROOM = 512
_EARLIEST = 2
"""Levels before a search may end: where steps are compiled, the first three are programs of their own, and any search
makes them all."""

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(token_BK, parent_BK) -> logit_BKV: each beam's newest token, and which beam of the step before it goes on from. The
first call has one beam a picture."""


@dataclass(frozen=True)
class Beams:
    """What a search found, best first.

    Attributes:
        token_BRT: int64, without ``bos``, filled up with ``eos``.
        score_BR: float32, log-probability; -inf where fewer were found.
        name_BR: int64, the trie's name number, or -1.
    """

    token_BRT: torch.Tensor
    score_BR: torch.Tensor
    name_BR: torch.Tensor

    def take(self, index_BR: torch.Tensor) -> Beams:
        """Return the results at these places."""
        token = self.token_BRT.gather(1, index_BR[..., None].expand(-1, -1, self.token_BRT.shape[-1]))
        return Beams(token, self.score_BR.gather(1, index_BR), self.name_BR.gather(1, index_BR))

    def best_with(self, other: Beams) -> Beams:
        """Return the best of both, as many as there are here."""
        both = (torch.cat(pair, 1) for pair in zip(vars(self).values(), vars(other).values()))
        merged = Beams(*both)
        return merged.take(merged.score_BR.topk(self.score_BR.shape[1]).indices)


@dataclass(frozen=True)
class _Live:
    """Beams that go on: their texts so far, and where they stand in the trie."""

    token_BKT: torch.Tensor
    score_BK: torch.Tensor
    node_BK: torch.Tensor
    parent_BK: torch.Tensor
    level_1: torch.Tensor
    """Tokens written, int64 [1]."""

    def ended(self, score_BK: torch.Tensor, name_BK: torch.Tensor) -> Beams:
        return Beams(self.token_BKT, score_BK, name_BK)


def search(
    step: Step,
    batch: int,
    *,
    bos: int | torch.Tensor,
    eos: int,
    trie: Trie | None = None,
    steps: int | None = None,
    beams: int = BEAMS,
    results: int | None = None,
    submit: Callable[[], None] | None = None,
    device: str | torch.device = "cpu",
) -> Beams:
    """Search for the most probable texts of each picture.

    Shapes depend on the step's number alone. The search ends when no beam that goes on can come among the results any
    more: scores only fall.

    Args:
        step: the model.
        batch: B.
        bos: the token before every text; int64 [B]: before each picture's.
        eos: the token after it.
        trie: names or codes; null for free texts. It must be on `device`.
        steps: tokens to write at most, ``eos`` included; null: as the trie needs. A free text that has not ended by
            then counts only where no text of its picture has.
        beams: K.
        results: R, at most K; null: K. Fewer end the search sooner.
        submit: called after each step, for devices that note operations down and compile them: from the third on, all
            steps are one program.
        device: of the model.

    Raises:
        RaylabError: free texts without a number of steps, more results than beams, a trie that ends names with another
            token.
        FloatingPointError: the model's logits are not numbers.
    """
    steps = _steps(trie, steps)
    results = beams if results is None else results
    if not 0 < results <= beams:
        raise RaylabError(f"beam search: {results} results of {beams} beams; ask for 1 to {beams}.")
    if trie is not None and trie.eos != eos:
        raise RaylabError(f"beam search: the trie's names end with token {trie.eos}, the model's with {eos}.")
    live = _start(batch, steps, eos, device)
    token_BK = bos[:, None] if isinstance(bos, torch.Tensor) else torch.full((batch, 1), bos, device=device)
    done = _nothing(batch, results, steps, eos, device)
    broken = torch.zeros((), dtype=torch.bool, device=device)
    for level in range(steps):
        logp_BKV = step(token_BK, live.parent_BK).log_softmax(-1, dtype=torch.float32)
        broken |= logp_BKV[..., eos].isnan().any()  # one logit that is no number makes all of its row so
        done = done.best_with(_ending(live, live.score_BK + logp_BKV[..., eos], trie))
        width = 0 if trie is None else _width(trie, level, beams, alike=submit is not None)
        live, token_BK = _grow(live, logp_BKV, trie, eos=eos, beams=beams, width=width)
        if trie is not None and trie.ends_at == level + 1:
            done = done.best_with(_ending(live, live.score_BK, trie))
        if submit is not None:
            submit()
        if level >= _EARLIEST and bool((done.score_BR[:, -1] >= live.score_BK.amax(1)).all()):
            break
    if bool(broken):
        raise FloatingPointError("beam search: the model's logits are not numbers")
    done = done if trie is not None else _cut_off(done, live)
    return replace(done, token_BRT=done.token_BRT.where(done.score_BR[..., None] > _NEVER, eos))


def decode(
    git: Git,
    image_BCHW: torch.Tensor,
    context_BC: torch.Tensor,
    *,
    start: torch.Tensor | None = None,
    trie: Trie | None = None,
    steps: int | None = None,
    beams: int = BEAMS,
    results: int | None = None,
    submit: Callable[[], None] | None = None,
) -> Beams:
    """Search with a GiT in evaluation mode; arguments as in `Git.encode` and `search`.

    An answer begins behind the model's `bos`, or behind the token that `start` (int64 [B]) gives each picture.

    Raises:
        RaylabError: besides those of `search`, a trie of another vocabulary.
    """
    if trie is not None and trie.vocab != git.config.vocab:
        raise RaylabError(
            f"beam search: the trie is of a vocabulary of {trie.vocab} tokens, the model's has {git.config.vocab}; "
            "build the trie with the model's tokenizer."
        )
    with torch.no_grad():
        steps = _steps(trie, steps)
        cache = git.cache(git.encode(image_BCHW, context_BC), beams, steps)
        return search(
            functools.partial(git.step, cache),
            len(image_BCHW),
            bos=git.config.bos if start is None else start,
            eos=git.config.eos,
            trie=trie,
            steps=steps,
            beams=beams,
            results=results,
            submit=submit,
            device=context_BC.device,
        )


def keep_names(
    found: Beams,
    eos: int,
    text: Callable[[list[list[int]]], list[str]],
    number: Callable[[list[str]], Sequence[int]],
) -> Beams:
    """Keep the free texts that are a name (arXiv 2410.23676): the others go, and so does a name's second spelling.

    Args:
        found: of `search` without a trie.
        eos: the token that fills up a text.
        text: tokens to texts, such as a tokenizer's batch_decode.
        number: texts to name numbers, -1 for what is none.

    Returns:
        As many results as before, names first; -1 and -inf where there are no more.
    """
    batch, results, _ = found.token_BRT.shape
    tokens = [[token for token in row if token != eos] for row in found.token_BRT.flatten(0, 1).tolist()]
    flat = torch.as_tensor(number(text(tokens)), dtype=torch.int64, device=found.name_BR.device)
    name_BR = torch.where(found.score_BR > _NEVER, flat.view(batch, results), -1)
    earlier = (name_BR[:, :, None] == name_BR[:, None]).tril(-1).any(-1)
    name_BR = torch.where(earlier, -1, name_BR)
    kept = Beams(found.token_BRT, torch.where(name_BR >= 0, found.score_BR, _NEVER), name_BR)
    return kept.take((name_BR < 0).int().argsort(dim=1, stable=True))


def _steps(trie: Trie | None, steps: int | None) -> int:
    if trie is not None:
        return trie.steps if steps is None else min(steps, trie.steps)
    if steps is None:
        raise RaylabError("beam search: free texts need a number of steps (the model's target tokens).")
    return steps


def _start(batch: int, steps: int, eos: int, device: str | torch.device) -> _Live:
    """Return one beam a picture, with no text, at the root."""
    nowhere = torch.zeros((batch, 1), dtype=torch.int64, device=device)
    text = torch.full((batch, 1, steps), eos, device=device)
    level_1 = torch.zeros(1, dtype=torch.int64, device=device)
    return _Live(text, torch.zeros((batch, 1), device=device), nowhere, nowhere, level_1)


def _nothing(batch: int, results: int, steps: int, eos: int, device: str | torch.device) -> Beams:
    return Beams(
        torch.full((batch, results, steps), eos, device=device),
        torch.full((batch, results), _NEVER, device=device),
        torch.full((batch, results), -1, device=device),
    )


def _ending(live: _Live, score_BK: torch.Tensor, trie: Trie | None) -> Beams:
    """Return the beams as texts that end here with this score, where the trie lets them."""
    if trie is None:
        return live.ended(score_BK, torch.full_like(live.node_BK, -1))
    name_BK = trie.name[live.node_BK].long()
    return live.ended(torch.where(name_BK >= 0, score_BK, _NEVER), name_BK)


def _width(trie: Trie, level: int, beams: int, *, alike: bool) -> int:
    """Return the room that every beam has for children: the level's largest fan-out.

    Where all steps but the first are to be alike, that of all levels but the root's. On a CPU, at most `_ROOM`, as few
    nodes have more.
    """
    width = max(trie.fan_out[1:], default=0) if alike and level else trie.fan_out[level]
    return min(width, max(_ROOM, beams)) if trie.first.is_cpu else width


def _grow(
    live: _Live, logp_BKV: torch.Tensor, trie: Trie | None, *, eos: int, beams: int, width: int
) -> tuple[_Live, torch.Tensor]:
    """Return the best beams with one token more, and that token."""
    if trie is None:
        score_BK, parent_BK, token_BK = _grow_freely(live, logp_BKV, eos, beams)
        node_BK = torch.zeros_like(parent_BK)
    else:
        score_BK, parent_BK, node_BK = _grow_in(trie, live, logp_BKV, beams, width)
        token_BK = trie.token[node_BK].long().where(node_BK != trie.nobody, eos)
    token_BKT = live.token_BKT.gather(1, parent_BK[..., None].expand(-1, -1, live.token_BKT.shape[-1]))
    token_BKT.index_copy_(2, live.level_1, token_BK[..., None])
    return _Live(token_BKT, score_BK, node_BK, parent_BK, live.level_1 + 1), token_BK


_Grown = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _grow_freely(live: _Live, logp_BKV: torch.Tensor, eos: int, beams: int) -> _Grown:
    """Return score, parent and token of the best continuations that do not end."""
    vocab = logp_BKV.shape[-1]
    score_BKV = live.score_BK[..., None] + logp_BKV
    score_BKV[..., eos] = _NEVER
    score_BK, at_BK = _best(score_BKV.flatten(1), beams)
    return score_BK, at_BK // vocab, at_BK % vocab


def _grow_in(trie: Trie, live: _Live, logp_BKV: torch.Tensor, beams: int, width: int) -> _Grown:
    """Return score, parent and node of the best children in the trie.

    What a node with more than `width` children leads to is reduced to its best children, one node after the other: on a
    CPU alone.
    """
    child_BKF = trie.children(live.node_BK, width)
    token_BKF = trie.token[child_BKF].long().clamp(min=0)
    score_BKF = live.score_BK[..., None] + logp_BKV.gather(-1, token_BKF)
    score_BKF = score_BKF.where(child_BKF != trie.nobody, _NEVER)
    if trie.first.is_cpu and width == max(_ROOM, beams):
        _reduce_wide(trie, live, logp_BKV, beams=beams, score_BKF=score_BKF, child_BKF=child_BKF)
    score_BK, at_BK = _best(score_BKF.flatten(1), beams)
    child_BN = pad(child_BKF.flatten(1), (0, 1), value=trie.nobody)  # a level may have no children at all
    node_BK = child_BN.gather(1, at_BK).where(score_BK > _NEVER, trie.nobody)
    return score_BK, at_BK // max(1, width), node_BK


def _reduce_wide(
    trie: Trie, live: _Live, logp_BKV: torch.Tensor, *, beams: int, score_BKF: torch.Tensor, child_BKF: torch.Tensor
) -> None:
    """Put the best children of each node that has more than F into its row, in place; no beam needs more of them."""
    first_BK, end_BK = trie.bounds(live.node_BK)
    for picture, beam in (end_BK - first_BK > score_BKF.shape[-1]).nonzero().tolist():
        first, end = int(first_BK[picture, beam]), int(end_BK[picture, beam])
        logp = logp_BKV[picture, beam].index_select(0, trie.token[first:end])
        best, at = _best(logp[None], beams)
        score_BKF[picture, beam] = _NEVER
        score_BKF[picture, beam, :beams] = live.score_BK[picture, beam] + best[0]
        child_BKF[picture, beam, :beams] = first + at[0]


def _best(score_BN: torch.Tensor, beams: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best scores, falling, and their places; -inf at place 0 where there are fewer."""
    if score_BN.shape[1] >= 4 * beams * _BLOCK:
        return _best_of_blocks(score_BN, beams)
    score, at = score_BN.topk(min(beams, score_BN.shape[1]))
    missing = beams - score.shape[1]
    return pad(score, (0, missing), value=_NEVER), pad(at, (0, missing))


def _best_of_blocks(score_BN: torch.Tensor, beams: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what topk returns, quicker on a CPU: the best K numbers lie in the K blocks with the best maxima."""
    blocks = score_BN.shape[1] // _BLOCK
    score_BGb = score_BN[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))
    group_BK = score_BGb.amax(-1).topk(beams).indices
    at_BKb = group_BK[..., None] * _BLOCK + torch.arange(_BLOCK, device=score_BN.device)
    rest = torch.arange(blocks * _BLOCK, score_BN.shape[1], device=score_BN.device)
    at_BM = torch.cat([at_BKb.flatten(1), rest.expand(len(score_BN), -1)], 1)
    score, best = score_BN.gather(1, at_BM).topk(beams)
    return score, at_BM.gather(1, best)


def _cut_off(done: Beams, live: _Live) -> Beams:
    """Return what has ended, or, for a picture where nothing has, its texts as far as they have come."""
    results = done.score_BR.shape[1]
    best = live.ended(live.score_BK, torch.full_like(live.node_BK, -1)).take(live.score_BK.topk(results).indices)
    ended_B1 = (done.score_BR > _NEVER).any(1, keepdim=True)
    return Beams(
        torch.where(ended_B1[..., None], done.token_BRT, best.token_BRT),
        torch.where(ended_B1, done.score_BR, best.score_BR),
        done.name_BR,
    )
