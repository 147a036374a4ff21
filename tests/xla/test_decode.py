"""Decoding on XLA finds what it finds on the CPU, and other pictures need no other programs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raylab.models.beam import decode
from raylab.models.git import Git, GitConfig
from raylab.models.trie import Trie

pytest.importorskip("torch_xla", reason="torch-xla has an environment of its own: make test-xla")

CONFIG = GitConfig(image_width=8, vocab=30, width=16, layers=1, heads=2, dropout=0.0, context=3, target=6, bos=1, eos=2)
NAMES = [[5, 6, 7], [5, 6], [8], [9, 10, 11, 12], [9, 4], [13, 14], [13, 15, 3], [20, 21]]


class Patches(nn.Module):
    """Four tokens a picture."""

    width = 8

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return image_BCHW.flatten(2)[..., :4].repeat(1, 8, 1)[:, :8].transpose(1, 2)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("names", [True, False])
def test_it_finds_what_the_cpu_finds_with_the_same_programs_for_all(names: bool) -> None:
    import torch_xla

    from raylab.train.accelerators import open_accelerator
    from raylab.train.accelerators.xla import compiled

    device = open_accelerator("xla").device
    torch.manual_seed(3)
    git = Git(CONFIG, Patches()).eval()
    trie = Trie.build(NAMES, CONFIG.vocab, CONFIG.eos) if names else None
    inputs = [(torch.randn(2, 3, 4, 4) * 3, torch.randint(3, 30, (2, 3))) for _ in range(3)]
    expected = [decode(git, *one, trie=trie, steps=6, beams=3) for one in inputs]
    git.to(device)
    trie = trie.to(device) if trie is not None else None
    programs = []
    for (image, context), right in zip(inputs, expected):
        found = decode(git, image.to(device), context.to(device), trie=trie, steps=6, beams=3, submit=torch_xla.sync)
        torch.testing.assert_close(found.token_BRT.cpu(), right.token_BRT)
        torch.testing.assert_close(found.score_BR.cpu(), right.score_BR, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.name_BR.cpu(), right.name_BR)
        programs.append(compiled())
    assert programs[1:] == programs[:1] * 2
