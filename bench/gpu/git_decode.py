"""Images/s of a GiT-Large that names what it sees: beam 30, a trie of 6 million names, by batch.

    python bench/gpu/git_decode.py [--tiny]            # one JSON line; --tiny: small and quick, on a CPU too

Needs torch, timm and numpy besides this repository. Weights are random and do not matter to speed, but for the output's
bias, which is the tokens' frequency in the names: so beams go where the trie branches most. Names are of one to four
words drawn by Zipf's law; a common word is one token, a rare one two to four. Encoder and search are timed together.
Rounds are interleaved over the batch sizes; medians are reported, with every round.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from raylab.models.beam import decode
from raylab.models.git import Git, GitConfig
from raylab.models.trie import Trie
from raylab.models.trie_build import Ragged

VOCAB, FIRST_WORD = 30_522, 1000
WORDS, WHOLE_WORDS = 400_000, 20_000
"""Words; the most frequent ones are a token each."""
LENGTHS = (0.08, 0.47, 0.30, 0.15)
"""Shares of names of one to four words."""
ROUNDS = 5


class TimmTokens(torch.nn.Module):
    """A CLIP vision transformer of timm as an encoder: all tokens behind the final norm."""

    def __init__(self, name: str) -> None:
        import timm

        super().__init__()
        self.trunk = timm.create_model(name, num_classes=0, global_pool="")
        self.width = self.trunk.num_features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Hand the switch on to timm."""
        self.trunk.set_grad_checkpointing(enable)

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Return token_BND."""
        return self.trunk.forward_features(image_BCHW)


def make_git(tiny: bool) -> Git:
    """Return VER's GiT-Large, or a small one that reads images of the same side."""
    torch.manual_seed(0)
    encoder = TimmTokens("vit_tiny_patch16_224" if tiny else "vit_large_patch14_clip_224")
    small = {"width": 96, "layers": 2, "heads": 2} if tiny else {}
    return Git(GitConfig(image_width=encoder.width, **small), encoder)


def zipf(rng: np.random.Generator, size: int, ranks: int) -> np.ndarray:
    """Draw ranks 0..ranks-1 with probability about 1 / (rank + 10)."""
    return (((10 + ranks) / 10) ** rng.random(size) * 10 - 10).astype(np.int64)


def make_names(count: int, seed: int = 0) -> Ragged:
    """Return the tokens of `count` names."""
    rng = np.random.default_rng(seed)
    pieces = np.full((WORDS, 4), -1, np.int32)
    pieces[:WHOLE_WORDS, 0] = rng.permutation(np.arange(FIRST_WORD, FIRST_WORD + WHOLE_WORDS))
    rare = rng.integers(FIRST_WORD, VOCAB, (WORDS - WHOLE_WORDS, 4))
    sizes = rng.integers(2, 5, WORDS - WHOLE_WORDS)
    pieces[WHOLE_WORDS:] = np.where(np.arange(4) < sizes[:, None], rare, -1)
    table = pieces[zipf(rng, count * 4, WORDS).reshape(count, 4)]
    length = 1 + rng.choice(4, count, p=LENGTHS)
    table[np.arange(4) >= length[:, None]] = -1
    table = table.reshape(count, 16)
    start = np.concatenate([[0], (table >= 0).sum(1).cumsum()])
    return Ragged(table[table >= 0], start)


def frequency_bias(names: Ragged, eos: int) -> torch.Tensor:
    """Return the logarithm of each token's share of all that is written, float32 [vocabulary]."""
    count = np.bincount(names.token, minlength=VOCAB).astype(np.float64) + 0.01
    count[eos] = len(names)
    return torch.from_numpy(np.log(count / count.sum())).float()


def measure(git: Git, trie: Trie, batch: int) -> float:
    """Return images/s of one batch, encoder and search."""
    device, dtype = git.output.weight.device, git.output.weight.dtype
    image_BCHW = torch.randn(batch, 3, 224, 224, device=device, dtype=dtype)
    context_BC = torch.zeros(batch, git.config.context, dtype=torch.int64, device=device)
    context_BC[:, :8] = torch.randint(FIRST_WORD, VOCAB, (batch, 8), device=device)
    _wait(device)
    started = time.perf_counter()
    found = decode(git, image_BCHW, context_BC, trie=trie)
    _wait(device)
    seconds = time.perf_counter() - started
    assert (found.name_BR[:, 0] >= 0).all(), "a picture without a name"
    return batch / seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(tiny: bool) -> None:
    """Measure in turn and print the JSON."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = (1, 2) if tiny else (1, 8, 32, 64)
    git = make_git(tiny).eval()
    names = make_names(20_000 if tiny else 6_100_000)
    with torch.no_grad():
        git.output.weight.normal_(std=2 / git.config.width**0.5)
        git.output.bias.copy_(frequency_bias(names, git.config.eos))
    git = git.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    started = time.perf_counter()
    trie = Trie.build(names, VOCAB, git.config.eos).to(device)
    built = time.perf_counter() - started
    for batch in batches:
        measure(git, trie, batch)  # warm up
    rounds = [{str(batch): measure(git, trie, batch) for batch in batches} for _ in range(2 if tiny else ROUNDS)]
    result = {
        "figure": "images/s by batch, beam 30",
        "images_per_s": {batch: round(statistics.median(one[batch] for one in rounds), 2) for batch in rounds[0]},
        "names": trie.names,
        "trie_built_s": round(built, 1),
        "steps": trie.steps,
        "parameters": sum(parameter.numel() for parameter in git.parameters()),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "rounds": rounds,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main("--tiny" in sys.argv[1:])
