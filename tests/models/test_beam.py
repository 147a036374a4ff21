from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raylab.errors import RaylabError
from raylab.models import beam
from raylab.models.beam import Beams, decode, keep_names, search
from raylab.models.git import Git, GitConfig
from raylab.models.trie import Trie

VOCAB, BOS, EOS = 9, 1, 2
NAMES = st.lists(st.lists(st.integers(3, VOCAB - 1), min_size=1, max_size=4), min_size=1, max_size=25)
FEW = settings(deadline=None, max_examples=40)


class Scripted:
    """A model whose logits depend on the picture and on the whole text so far: it keeps each beam's text itself."""

    def __init__(self, seeds):
        self.seeds, self.texts = list(seeds), None

    def logits(self, seed, text):
        generator = torch.Generator().manual_seed(hash((seed, text)) % 2**31)
        return 2 * torch.randn(VOCAB, generator=generator)

    def step(self, token_BK, parent_BK):
        rows = zip(token_BK.tolist(), parent_BK.tolist())
        if self.texts is None:
            self.texts = [[(token,) for token in tokens] for tokens, _ in rows]
        else:
            self.texts = [
                [(*old[parent], token) for token, parent in zip(tokens, parents)]
                for old, (tokens, parents) in zip(self.texts, rows)
            ]
        return torch.stack(
            [torch.stack([self.logits(seed, text) for text in row]) for seed, row in zip(self.seeds, self.texts)]
        )

    def score(self, seed, name, ends=True):
        """Log-probability of a whole name, token by token."""
        total, text = 0.0, (BOS,)
        for token in [*name, EOS] if ends else name:
            total += float(self.logits(seed, text).log_softmax(-1)[token])
            text = (*text, token)
        return total


def run(seeds, **options):
    return search(Scripted(seeds).step, len(seeds), bos=BOS, eos=EOS, **options)


def texts(found):
    return [[[t for t in row if t != EOS] for row in picture] for picture in found.token_BRT.tolist()]


@FEW
@given(NAMES, st.integers(1, 6), st.integers(0, 10**6))
def test_only_names_come_out(names, beams, seed):
    trie = Trie.build(names, VOCAB, EOS)
    found = run([seed, seed + 1], trie=trie, beams=beams)
    for spelled, numbers, scores in zip(texts(found), found.name_BR.tolist(), found.score_BR.tolist()):
        assert numbers[0] >= 0  # there always is one
        for text, number, score in zip(spelled, numbers, scores):
            assert (number >= 0) == (score > -math.inf)
            assert text == (names[number] if number >= 0 else [])


@FEW
@given(NAMES, st.integers(0, 10**6))
def test_with_enough_beams_the_ranking_is_that_of_exhaustive_scoring(names, seed):
    trie = Trie.build(names, VOCAB, EOS)
    first = {tuple(name): number for number, name in reversed(list(enumerate(names)))}
    model = Scripted([seed])
    expected = sorted(((model.score(seed, name), number) for name, number in first.items()), reverse=True)
    found = run([seed], trie=trie, beams=len(names))
    assert found.name_BR[0, : len(expected)].tolist() == [number for _, number in expected]
    torch.testing.assert_close(
        found.score_BR[0, : len(expected)], torch.tensor([score for score, _ in expected]), atol=1e-4, rtol=1e-4
    )
    assert (found.name_BR[0, len(expected) :] == -1).all()


@FEW
@given(NAMES, st.integers(1, 5), st.lists(st.integers(0, 10**6), min_size=2, max_size=4))
def test_a_batch_is_as_many_batches_of_one(names, beams, seeds):
    trie = Trie.build(names, VOCAB, EOS)
    for options in ({"trie": trie}, {"steps": 4}):
        together = run(seeds, beams=beams, **options)
        for row, seed in enumerate(seeds):
            alone = run([seed], beams=beams, **options)
            assert torch.equal(together.token_BRT[row], alone.token_BRT[0])
            torch.testing.assert_close(together.score_BR[row], alone.score_BR[0])


@FEW
@given(NAMES, st.integers(1, 4), st.integers(0, 10**6))
def test_nodes_with_more_children_than_there_is_room_for_lead_to_the_same(names, beams, seed):
    trie = Trie.build(names, VOCAB, EOS)
    found = run([seed, seed + 1], trie=trie, beams=beams)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam, "_ROOM", 1)
        narrow = run([seed, seed + 1], trie=trie, beams=beams)
    assert torch.equal(found.name_BR, narrow.name_BR)
    assert torch.equal(found.token_BRT, narrow.token_BRT)
    torch.testing.assert_close(found.score_BR, narrow.score_BR)


@FEW
@given(NAMES, st.integers(1, 8), st.integers(0, 10**6))
def test_fewer_results_are_the_best_ones(names, results, seed):
    trie = Trie.build(names, VOCAB, EOS)
    every = run([seed], trie=trie, beams=8)
    best = run([seed], trie=trie, beams=8, results=results)
    assert torch.equal(best.name_BR, every.name_BR[:, :results])


def test_forbidden_tokens_keep_their_share_of_the_probability():
    """One name: its score is the model's own, though nothing else could have been written."""
    trie = Trie.build([[3, 4]], VOCAB, EOS)
    found = run([7], trie=trie, beams=2)
    assert found.score_BR[0, 0] == pytest.approx(Scripted([7]).score(7, (3, 4)), abs=1e-4)
    assert found.score_BR[0, 0] < -0.1


def test_it_stops_when_nothing_can_improve():
    """The best name has one token and all the probability; the others have ten."""
    names = [[3], [4] * 10]
    trie = Trie.build(names, VOCAB, EOS)
    calls = []

    def step(token_BK, _):
        calls.append(1)
        logit = torch.zeros(*token_BK.shape, VOCAB)
        logit[..., 3 if len(calls) == 1 else EOS] = 20
        return logit

    assert search(step, 1, bos=BOS, eos=EOS, trie=trie, beams=2, results=1).name_BR.tolist() == [[0]]
    assert len(calls) == 3  # the fewest


def test_free_beams_equal_exhaustive_scoring():
    seed, steps = 5, 3
    model = Scripted([seed])
    alphabet = [token for token in range(VOCAB) if token != EOS]
    every = [text for length in range(steps) for text in itertools.product(alphabet, repeat=length)]
    expected = sorted(every, key=lambda text: -model.score(seed, text))[:10]
    found = run([seed], steps=steps, beams=100, results=10)
    assert [tuple(text) for text in texts(found)[0]] == expected
    assert (found.name_BR == -1).all()


def test_a_free_text_that_does_not_end_is_cut_off():
    def never_ends(token_BK, _):
        logit = torch.zeros(*token_BK.shape, VOCAB)
        logit[..., EOS] = -torch.inf
        logit[..., 5] = 1
        return logit

    found = search(never_ends, 2, bos=BOS, eos=EOS, steps=3, beams=4, results=1)
    assert texts(found) == [[[5, 5, 5]], [[5, 5, 5]]]
    assert found.score_BR[0, 0] == pytest.approx(3 * math.log(math.e / (VOCAB - 2 + math.e)), abs=1e-5)


def test_codes_of_full_length_need_no_end():
    """[3, 4] may be followed by the end or by 5: as a full code, [3, 4, 5] ends by itself."""
    trie = Trie.build([[3, 4], [3, 4, 5]], VOCAB, EOS, ends_at=3)
    model = Scripted([3])
    found = run([3], trie=trie, beams=4)
    scores = dict(zip(found.name_BR[0].tolist(), found.score_BR[0].tolist()))
    assert scores[0] == pytest.approx(model.score(3, (3, 4)), abs=1e-4)
    assert scores[1] == pytest.approx(model.score(3, (3, 4, 5), ends=False), abs=1e-4)
    assert found.token_BRT.shape[-1] == trie.steps == 3


def test_free_texts_are_kept_where_they_are_names():
    tokens = torch.tensor([[[3, 4, EOS], [5, EOS, EOS], [6, 7, EOS], [8, EOS, EOS], [3, EOS, EOS]]])
    found = Beams(tokens, torch.tensor([[-1.0, -2.0, -3.0, -4.0, -torch.inf]]), torch.full((1, 5), -1))
    spellings = {(3, 4): "nothing", (5,): "iris", (6, 7): "iris", (8,): "rose", (3,): "rose"}
    numbers = {"iris": 70, "rose": 80}
    kept = keep_names(
        found,
        EOS,
        lambda rows: [spellings[tuple(row)] for row in rows],
        lambda names: [numbers.get(name, -1) for name in names],
    )
    assert kept.name_BR.tolist() == [[70, 80, -1, -1, -1]]
    assert kept.score_BR.tolist() == [[-2.0, -4.0, -math.inf, -math.inf, -math.inf]]
    assert kept.token_BRT[0, :2].tolist() == [[5, EOS, EOS], [8, EOS, EOS]]


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, image_BCHW):
        return self.conv(image_BCHW).flatten(2).transpose(1, 2)


CONFIG = GitConfig(
    image_width=8, vocab=30, width=16, layers=2, heads=2, context=4, target=6, positions=16, bos=1, eos=2
)


def test_a_git_finds_the_names_that_it_scores_best():
    torch.manual_seed(0)
    git = Git(CONFIG, Patches())
    for parameter in git.parameters():
        nn.init.normal_(parameter, std=0.4)
    git.eval()
    generator = torch.Generator().manual_seed(1)
    names = list({tuple(torch.randint(3, 30, (n,), generator=generator).tolist()) for n in (1, 2, 3, 4, 5) * 8})
    trie = Trie.build(names, 30, 2)
    image, context = torch.randn(3, 3, 8, 8), torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0], [0, 0, 0, 0]])
    found = decode(git, image, context, trie=trie, beams=len(names))
    for row in range(3):
        scores = []
        for name in names:
            target = torch.tensor([[1, *name, 2]])
            logit = git(image[row : row + 1], context[row : row + 1], target)
            scores.append(logit.log_softmax(-1)[0, :-1].gather(-1, target[0, 1:, None]).sum().item())
        order = sorted(range(len(names)), key=lambda number: -scores[number])
        assert found.name_BR[row].tolist() == order
        torch.testing.assert_close(found.score_BR[row], torch.tensor(scores)[order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [7680, 7681, 30_000])
def test_the_best_of_blocks_are_the_best(count):
    score = torch.randn(3, count, generator=torch.Generator().manual_seed(count)).double()
    score[0, -1] = 9  # behind the last whole block, where there is one
    score[1, 100:150] += 10  # more than one block holds
    found, at = beam._best(score, 30)
    expected = score.topk(30)
    assert torch.equal(found, expected.values) and torch.equal(at, expected.indices)


def test_wrong_use_is_said():
    step = Scripted([1]).step
    with pytest.raises(RaylabError, match="need a number of steps"):
        search(step, 1, bos=BOS, eos=EOS)
    with pytest.raises(RaylabError, match="5 results of 4 beams"):
        search(step, 1, bos=BOS, eos=EOS, steps=3, beams=4, results=5)
    trie = Trie.build([[3]], VOCAB, EOS)
    with pytest.raises(RaylabError, match="end with token 2, the model's with 5"):
        search(step, 1, bos=BOS, eos=5, trie=trie)
    with pytest.raises(RaylabError, match="vocabulary of 9 tokens, the model's has 30"):
        decode(Git(CONFIG, Patches()), torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, dtype=torch.int64), trie=trie)
    with pytest.raises(FloatingPointError, match="not numbers"):
        search(lambda token, _: torch.full((*token.shape, VOCAB), torch.nan), 1, bos=BOS, eos=EOS, trie=trie)
