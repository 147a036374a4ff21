"""A softmax over a million classes: the sampled, sparse table against the whole of it in plain PyTorch.

    .venv/bin/python bench/class_table.py [classes] [rounds]        # 1,000,000 classes x 512, 3 interleaved rounds

A step is the loss of 256 vectors, its gradient, and the move of the optimiser. The peer looks at all classes and moves
them all (AdamW, fused); ours looks at the classes of the batch and 16,384 others, and moves those (SparseAdam). Each
side runs in a process of its own, so that its peak memory is its own. Asked: 10 times faster.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from statistics import median

DIM, BATCH, NEGATIVES = 512, 256, 16_384
STEPS = {"sampled": 10, "full": 2}


def side(kind: str, classes: int) -> dict[str, float]:
    """Measure one side in a process of its own."""
    line = [sys.executable, __file__, "side", kind, str(classes)]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(kind: str, classes: int) -> None:
    """Be that process."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    from raylab.models.class_table import ClassTable, ClassTableConfig
    from raylab.train.optim import OptimConfig, make_table_optimizer

    config = ClassTableConfig(negatives=NEGATIVES)
    table = ClassTable(classes, DIM, config)
    if kind == "sampled":
        optimizer: torch.optim.Optimizer = make_table_optimizer(table, OptimConfig())
    else:
        optimizer = torch.optim.AdamW([table.weight], fused=True)

    def loss(image_BD: torch.Tensor, class_B: torch.Tensor) -> torch.Tensor:
        if kind == "sampled":
            return table(image_BD, class_B)
        logit_BC = image_BD @ normalize(table.weight, dim=-1).T
        margin_B1 = torch.full((BATCH, 1), -config.margin)
        return cross_entropy(logit_BC.scatter_add(1, class_B[:, None], margin_B1) / config.temperature, class_B)

    def step() -> None:
        image_BD = normalize(torch.randn(BATCH, DIM), dim=-1).requires_grad_()
        loss(image_BD, torch.randint(classes, (BATCH,))).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    torch.manual_seed(0)
    step()
    started = time.perf_counter()
    for _ in range(STEPS[kind]):
        step()
    seconds = (time.perf_counter() - started) / STEPS[kind]
    print(json.dumps({"step_s": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))


def main(classes: int = 1_000_000, rounds: int = 3) -> None:
    """Measure in turn and print the JSON."""
    found = []
    for _ in range(rounds):
        one = {kind: side(kind, classes) for kind in ("sampled", "full")}
        found.append(one | {"ratio": one["full"]["step_s"] / one["sampled"]["step_s"]})
        print(found[-1], file=sys.stderr)
    result = {
        "ratio": median(one["ratio"] for one in found),
        "asked": 10,
        "classes": classes,
        "dim": DIM,
        "batch": BATCH,
        "negatives": NEGATIVES,
        "rounds": found,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch",)},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        measure(sys.argv[2], int(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
