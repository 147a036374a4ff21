from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from raylab.errors import RaylabError
from raylab.models.git import Git, GitConfig

CONFIG = GitConfig(
    image_width=12, vocab=40, width=32, layers=3, heads=4, context=5, target=6, positions=16, bos=1, eos=2
)


class Patches(nn.Module):
    """The smallest encoder: a linear map of each patch."""

    width = 12

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, self.width, 4, 4)

    def forward(self, image_BCHW):
        return self.conv(image_BCHW).flatten(2).transpose(1, 2)


@pytest.fixture(scope="module")
def git():
    torch.manual_seed(0)
    model = Git(CONFIG, Patches())
    for parameter in model.parameters():  # far from the small initial values, so that a slip would be seen
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(1)
    image = torch.randn(3, 3, 8, 8)
    context = torch.tensor([[5, 6, 7, 0, 0], [8, 0, 0, 0, 0], [9, 10, 11, 12, 13]])
    target = torch.tensor([[1, 20, 21, 2, 0, 0], [1, 22, 2, 0, 0, 0], [1, 23, 24, 25, 26, 2]])
    return image, context, target


def close(left, right):
    torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-4)


def test_one_logit_vector_a_target_token(git, batch):
    image, context, target = batch
    assert git(image, context, target).shape == (3, 6, 40)


def test_padding_changes_nothing(git, batch):
    image, context, target = batch
    whole = git(image, context, target)
    for row, (question, answer) in enumerate([(3, 4), (1, 3), (5, 6)]):
        alone = git(image[row : row + 1], context[row : row + 1, :question], target[row : row + 1, :answer])
        close(whole[row, :answer], alone[0])


def test_padding_may_stand_before_the_question(git, batch):
    image, context, target = batch
    moved = torch.stack([row.roll(int((row == 0).sum())) for row in context])
    assert not torch.equal(moved, context)
    real = target != 0
    close(git(image, moved, target)[real], git(image, context, target)[real])


def test_a_picture_without_a_question(git, batch):
    image, context, target = batch
    empty = git(image, context[:, :0], target)
    close(git(image, torch.zeros_like(context), target)[target != 0], empty[target != 0])


def test_what_comes_later_is_not_seen(git, batch):
    image, context, target = batch
    changed = target.clone()
    changed[:, 3:] = 30
    close(git(image, context, changed)[:, :3], git(image, context, target)[:, :3])
    assert not torch.allclose(git(image, context, changed)[2, 3:], git(image, context, target)[2, 3:])


@pytest.mark.parametrize("part", ["image", "context", "target"])
def test_all_that_is_given_is_read(git, batch, part):
    changed = dict(zip(("image", "context", "target"), batch))
    changed[part] = changed[part].clone()
    changed[part][:, 0] = changed[part][:, 0] + 1
    assert not torch.allclose(git(*changed.values())[:, 1:3], git(*batch)[:, 1:3], atol=1e-3)


def test_several_texts_of_a_picture_are_as_if_alone(git, batch):
    image, context, target = batch
    contexts, targets = torch.stack([context, context.roll(1, 0)], 1), torch.stack([target, target.roll(2, 0)], 1)
    together = git(image, contexts, targets)
    assert together.shape == (3, 2, 6, 40)
    for text in range(2):
        real = targets[:, text] != 0
        close(together[:, text][real], git(image, contexts[:, text], targets[:, text])[real])


def test_steps_say_what_the_whole_says(git, batch):
    image, context, _ = batch
    torch.manual_seed(2)
    target = torch.cat([torch.full((3, 1), 1), torch.randint(3, 40, (3, 5))], 1)
    cache = git.cache(git.encode(image, context), 1, 6)
    nothing = torch.zeros(3, 1, dtype=torch.int64)
    steps = [git.step(cache, target[:, t : t + 1], nothing) for t in range(6)]
    close(torch.cat(steps, 1), git(image, context, target))


def test_beams_that_change_parents_keep_their_own_past(git, batch):
    """Random family trees: each beam's logits equal those of its whole text, run alone."""
    image, context, _ = batch
    beams, steps = 4, 6
    generator = torch.Generator().manual_seed(3)
    cache = git.cache(git.encode(image, context), beams, steps)
    texts = torch.ones(3, 1, 1, dtype=torch.int64)
    parent = torch.zeros(3, 1, dtype=torch.int64)
    for step in range(steps):
        logit = git.step(cache, texts[..., -1], parent)
        for beam in range(texts.shape[1]):
            close(logit[:, beam], git(image, context, texts[:, beam])[:, -1])
        parent = torch.randint(texts.shape[1], (3, beams), generator=generator)
        token = torch.randint(3, 40, (3, beams, 1), generator=generator)
        texts = torch.cat([texts.gather(1, parent[..., None].expand(-1, -1, step + 1)), token], -1)


def test_the_loss_is_the_mean_over_texts_of_the_mean_over_tokens(git, batch):
    image, context, target = batch
    logit = git(image, context, target)
    smoothing = 0.2
    by_hand = []
    for row, length in enumerate([4, 3, 6]):
        log_p = logit[row].log_softmax(-1)
        terms = []
        for t in range(length - 1):
            weight = torch.full((40,), smoothing / 39)
            weight[target[row, t + 1]] = 1 - smoothing
            terms.append(-(weight * log_p[t]).sum())
        by_hand.append(torch.stack(terms).mean())
    close(git.loss(logit, target, smoothing), torch.stack(by_hand).mean())
    losses, counts = git.text_losses(logit, target, smoothing)
    close(losses, torch.stack(by_hand))
    assert counts.all()


def test_a_text_without_tokens_is_left_out_of_the_loss(git, batch):
    image, context, target = batch
    logit = git(image, context, target)
    emptied = target.clone()
    emptied[1] = 0
    close(git.loss(logit, emptied), git.loss(logit[[0, 2]], target[[0, 2]]))
    assert git.loss(logit, torch.zeros_like(target)) == 0


def test_codes_are_not_scored_behind_their_end(git, batch):
    image, context, target = batch
    logit = git(image, context, target)
    filled = target.clone()
    filled[filled == 0] = CONFIG.eos
    close(git.loss(logit, filled), git.loss(logit, target))


def test_gradients_reach_every_parameter_and_checkpointing_keeps_them(git, batch):
    image, context, target = batch
    model = Git(dataclasses.replace(CONFIG, dropout=0.0), Patches()).train()
    model.load_state_dict(git.state_dict())

    def gradients():
        model.zero_grad()
        model.loss(model(image, context, target), target, 0.1).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients()
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    model.set_grad_checkpointing()
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


def test_checkpointing_keeps_fewer_activations(git, batch):
    image, context, target = batch
    model = Git(CONFIG, Patches()).train()

    def kept():
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model(image, context, target)
        return sum(sizes)

    plain = kept()
    model.set_grad_checkpointing()
    assert kept() < plain / 2


def test_dropout_is_off_in_evaluation(git, batch):
    assert torch.equal(git(*batch), git(*batch))
    git.train()
    assert not torch.equal(git(*batch), git(*batch))
    git.eval()


def test_the_large_one_has_0_4_billion_parameters():
    import open_clip

    from raylab.models.git_weights import OpenClipTokens

    with torch.device("meta"):
        tower = open_clip.CLIP(**open_clip.get_model_config("ViT-L-14")).visual
        model = Git(GitConfig(), OpenClipTokens(tower))
    assert 0.38e9 < sum(parameter.numel() for parameter in model.parameters()) < 0.42e9


def test_wrong_shapes_are_said(git, batch):
    image, context, target = batch
    with pytest.raises(RaylabError, match="multiple of heads"):
        GitConfig(width=10, heads=4)
    with pytest.raises(RaylabError, match="Raise positions"):
        GitConfig(context=20, target=20, positions=30)
    with pytest.raises(RaylabError, match="set image_width"):
        Git(dataclasses.replace(CONFIG, image_width=13), Patches())
    with pytest.raises(RaylabError, match="positions for 16"):
        git(image, context.repeat(1, 3), target)
    with pytest.raises(RaylabError, match="7 steps"):
        git.cache(git.encode(image, context), 2, 7)


def test_exact_is_what_greedy_decoding_writes(git, batch):
    image, context, _ = batch
    target = torch.full((3, 6), CONFIG.pad)
    target[:, 0] = CONFIG.bos
    for place in range(1, 5):
        target[:, place] = git(image, context, target[:, :place])[:, -1, 3:].argmax(-1) + 3  # neither pad, bos nor eos
    logit = git(image, context, target)
    logit[..., :3] = -torch.inf
    right, has = git.exact(logit, target)
    assert right.tolist() == has.tolist() == [True] * 3
    target[0, 3] = (target[0, 3] - 2) % 37 + 3
    target[1, 1:] = CONFIG.pad
    right, has = git.exact(logit, target)
    assert right[0].item() is False and has.tolist() == [True, False, True]
