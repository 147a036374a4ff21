"""Decoding to names: a trie-constrained beam search of 30 against transformers' generate, and what more names cost.

    .venv/bin/python bench/trie_decode.py --out bench/results/trie_decode.json        # about 6 minutes on two cores

1. `ratio`: batch 8, a million names, the same weights: transformers' ``generate(num_beams=30,
   prefix_allowed_tokens_fn=...)`` against `raylab.models.beam.decode`. The function given to transformers is as quick
   as we could make it: a dictionary from (node, token) to node, and a view of a tensor; built before. Both run the
   encoder. `same_best` counts pictures whose best name is the same. Asked for: 10.
2. `growth`: the cost of a step with 6.1 million names over that with 10 thousand: of all but the network (scoring,
   trie, choosing beams) and with it. Asked for: under 1.5. `worst_choice` is the former where all beams stand at the
   nodes that branch most.
3. `build`: seconds and peak memory of a process that makes 6.1 million names' tokens, builds and saves the trie.
   Asked for: minutes, under 4 GB.

The network is a small GIT with a real one's numbers of tokens (257 of the image, BERT's vocabulary). Its weights are
random, but its output prefers tokens as often as names have them: so beams go where the trie branches most. Names are
those of bench/gpu/git_decode.py.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import tyro
from gpu.git_decode import FIRST_WORD, VOCAB, frequency_bias, make_names

from raylab.models.beam import Beams, decode, search
from raylab.models.git import Git
from raylab.models.git_weights import from_hugging_face
from raylab.models.trie import Trie
from raylab.models.trie_build import Ragged

BOS, EOS = 101, 102
BEAMS, BATCH, QUESTION = 30, 8, 6
PEER_NAMES, SIZES = 1_090_000, (10_000, 1_000_000, 6_100_000)


@dataclass(frozen=True)
class Config:
    """What is measured."""

    out: str | None = None
    """Where to keep the JSON."""
    rounds: int = 3
    cost_rounds: int = 9
    names: tuple[int, int, int] = SIZES
    """Sizes of the tries whose step costs are compared."""
    peer_names: int = PEER_NAMES
    build: str | None = None
    """Only build the trie of the largest size and save it here; prints what that took."""


def make_model(names: Ragged) -> transformers.GitForCausalLM:
    """Return a small GIT whose logits spread by about 2 around the tokens' frequencies."""
    vision = transformers.GitVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
    )
    config = transformers.GitConfig(
        vision_config=vision.to_dict(), hidden_size=256, intermediate_size=1024, num_hidden_layers=3,
        num_attention_heads=4, vocab_size=VOCAB, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GitForCausalLM(config).eval()
    for part in (model.git.encoder, model.git.visual_projection, model.git.image_encoder, model.git.embeddings):
        for name, parameter in part.named_parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.08 if "embeddings" not in name else 0.5)
    with torch.no_grad():
        model.output.weight.normal_(std=2 / config.hidden_size**0.5)
        model.output.bias.copy_(frequency_bias(names, EOS))
    return model


def peer_lookup(trie: Trie, prompt: int) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """Return transformers' prefix_allowed_tokens_fn, with everything prepared that can be."""
    first, token, name = (array.numpy().astype(np.int64) for array in (trie.first, trie.token, trie.name))
    parent = np.repeat(np.arange(trie.nodes), np.diff(first[:-1]))
    children = dict(zip((parent * VOCAB + token[1:-1]).tolist(), range(1, trie.nodes)))
    # What is allowed at a node: its children's tokens, and behind them the end where it is a name's.
    counts = np.diff(first[:-1]) + (name[:-1] >= 0)
    bounds = np.concatenate([[0], counts.cumsum()])
    allowed = np.full(bounds[-1], EOS)
    allowed[np.arange(trie.nodes - 1) + (bounds[:-1] - first[:-2] + 1)[parent]] = token[1:-1]
    allowed_tensor, bounds_list = torch.from_numpy(allowed), bounds.tolist()
    only_end = torch.tensor([EOS])

    def fn(_: int, text: torch.Tensor) -> torch.Tensor:
        node = 0
        for one in text.tolist()[prompt:]:
            node = children.get(node * VOCAB + one, -1)
            if node < 0:  # a beam that there are too few names for
                return only_end
        return allowed_tensor[bounds_list[node] : bounds_list[node + 1]]

    return fn


class Bench:
    """The network twice, and what it is asked."""

    def __init__(self, names: Ragged) -> None:
        self.theirs = make_model(names)
        self.ours: Git = from_hugging_face(self.theirs.config, self.theirs.state_dict()).eval()
        generator = torch.Generator().manual_seed(1)
        self.image = torch.randn(BATCH, 3, 224, 224, generator=generator)
        self.question = torch.randint(FIRST_WORD, VOCAB, (BATCH, QUESTION), generator=generator)

    @torch.inference_mode()
    def transformers(self, trie: Trie, lookup: Callable[[int, torch.Tensor], torch.Tensor]) -> list[list[int]]:
        """Return each picture's best name, as tokens."""
        prompt = torch.cat([self.question, torch.full((BATCH, 1), BOS)], 1)
        found = self.theirs.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), pixel_values=self.image,
            num_beams=BEAMS, max_new_tokens=trie.steps, length_penalty=0.0, do_sample=False,
            prefix_allowed_tokens_fn=lookup, pad_token_id=0,
        )  # fmt: skip
        return [row[: row.index(EOS)] for row in found[:, prompt.shape[1] :].tolist()]

    def raylab(self, trie: Trie) -> Beams:
        """Return all beams of each picture."""
        return decode(self.ours, self.image, self.question, trie=trie, beams=BEAMS)

    @torch.inference_mode()
    def step_costs(self, trie: Trie) -> dict[str, float]:
        """Return milliseconds a step: of all but the network, and with it; the encoder is outside both."""
        cache = self.ours.cache(self.ours.encode(self.image, self.question), BEAMS, trie.steps)
        network: list[float] = []

        def step(token_BK: torch.Tensor, parent_BK: torch.Tensor) -> torch.Tensor:
            started = time.perf_counter()
            logit_BKV = self.ours.step(cache, token_BK, parent_BK)
            network.append(time.perf_counter() - started)
            return logit_BKV

        started = time.perf_counter()
        search(step, BATCH, bos=BOS, eos=EOS, trie=trie, beams=BEAMS)
        total = time.perf_counter() - started
        per_step = 1000 / len(network)
        return {"choice": (total - sum(network)) * per_step, "step": total * per_step, "steps": len(network)}


@torch.inference_mode()
def worst_cost(trie: Trie) -> float:
    """Return milliseconds a step, without a network, where all beams go to the nodes that branch most."""
    children = np.diff(trie.first.numpy())[1 : 1 + trie.fan_out[0]]
    logit_V = torch.full((VOCAB,), -9.0)
    logit_V[trie.token[1 : 1 + len(children)].long()] = torch.from_numpy(3 * np.log1p(children)).float()
    first_B1V = logit_V.expand(BATCH, 1, VOCAB)
    later_BKV = torch.randn(BATCH, BEAMS, VOCAB, generator=torch.Generator().manual_seed(2))
    calls: list[float] = []

    def step(token_BK: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        calls.append(time.perf_counter())
        return first_B1V if token_BK.shape[1] == 1 else later_BKV

    search(step, BATCH, bos=BOS, eos=EOS, trie=trie, beams=BEAMS)
    return 1000 * (time.perf_counter() - calls[0]) / len(calls)


def compare(bench: Bench, trie: Trie, rounds: int) -> dict[str, Any]:
    """Measure both decoders in turn."""
    lookup = peer_lookup(trie, QUESTION + 1)
    best = [[t for t in row if t != EOS] for row in bench.raylab(trie).token_BRT[:, 0].tolist()]
    measured, same = [], 0
    for number in range(rounds):
        one: dict[str, float] = {}
        for side in ("transformers", "raylab") if number % 2 else ("raylab", "transformers"):
            started = time.perf_counter()
            if side == "raylab":
                bench.raylab(trie)
            else:
                same = sum(ours == theirs for ours, theirs in zip(best, bench.transformers(trie, lookup)))
            one[side] = time.perf_counter() - started
        print(f"{trie.names} names: {one}", file=sys.stderr)
        measured.append(one)
    ratio = statistics.median(one["transformers"] / one["raylab"] for one in measured)
    return {"ratio": ratio, "names": trie.names, "same_best": same, "pictures": BATCH, "rounds": measured}


def grow(bench: Bench, tries: dict[int, Trie], rounds: int) -> dict[str, Any]:
    """Measure a step's cost with each trie in turn."""
    for trie in tries.values():
        bench.step_costs(trie)  # warm up
    measured = [
        {str(size): bench.step_costs(trie) | {"worst_choice": worst_cost(trie)} for size, trie in tries.items()}
        for _ in range(rounds)
    ]
    medians = {
        size: {part: statistics.median(one[size][part] for one in measured) for part in parts}
        for size, parts in measured[0].items()
    }
    least, most = (medians[str(size)] for size in (min(tries), max(tries)))
    growth = {part: most[part] / least[part] for part in ("choice", "step", "worst_choice")}
    fan_out = {str(size): trie.fan_out for size, trie in tries.items()}
    return {"growth": growth, "ms": medians, "fan_out": fan_out, "rounds": measured}


def build(count: int, folder: str) -> None:
    """Make names, build their trie, save it; print what it took."""
    names = make_names(count)
    made = time.perf_counter()
    trie = Trie.build(names, VOCAB, EOS)
    built = time.perf_counter()
    trie.save(folder)
    saved = time.perf_counter()
    took = {"build_s": built - made, "save_s": saved - built}
    sizes = {"names": count, "distinct": trie.names, "nodes": trie.nodes, "depth": trie.depth}
    disk = sum(path.stat().st_size for path in Path(folder).iterdir())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**took, **sizes, "disk_mb": disk / 1e6, "peak_gb": peak * 1024 / 1e9}))


def main(config: Config) -> None:
    """Build, compare, grow; print the JSON last."""
    if config.build:
        build(max(config.names), config.build)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--build", f"{folder}/trie", "--names", *map(str, config.names)]
        built = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(built, file=sys.stderr)
        names = make_names(max(config.names))
        tries = {size: Trie.build(head(names, size), VOCAB, EOS) for size in sorted(config.names)[:-1]}
        tries[max(config.names)] = Trie.open(f"{folder}/trie")  # as a job would have it: mapped from disk
        bench = Bench(names)
        grown = grow(bench, tries, config.cost_rounds)
        print({part: grown[part] for part in ("growth", "ms")}, file=sys.stderr)
        peer_trie = tries.get(config.peer_names) or Trie.build(head(names, config.peer_names), VOCAB, EOS)
        compared = compare(bench, peer_trie, config.rounds)
    result = {
        "ratio": compared["ratio"],
        "asked": {"ratio": 10.0, "growth": 1.5, "peak_gb": 4.0},
        "compared": compared,
        "grown": grown,
        "build": built,
        "beams": BEAMS,
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {
            "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version(),
        },
    }  # fmt: skip
    if config.out:
        Path(config.out).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))


def head(names: Ragged, count: int) -> Ragged:
    """Return the first names."""
    return Ragged(names.token[: names.start[count]], names.start[: count + 1])


if __name__ == "__main__":
    main(tyro.cli(Config))
