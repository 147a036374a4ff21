"""The loop with a learner of one matrix: what is saved is sound, and what a point says of time is the steps' alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor

from raylab.errors import RaylabError
from raylab.tasks.base import Group
from raylab.train import loop as loops
from raylab.train.accelerators import open_accelerator
from raylab.train.loop import Curve, Loop
from raylab.train.optim import OptimConfig, clip, make_optimizer

INPUTS = 3


class Matrix:
    """Learns to map rows to zero; ``broken_B``: the loss stays a number, and its gradient is none."""

    table = None

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Linear(INPUTS, 2)

    def groups(self) -> list[Group]:
        return [Group("all", list(self.module.parameters()), 1.0, decays=False)]

    def inputs(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["row_BD"],)

    def losses(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        loss = outputs.square().mean()
        if batch["broken_B"].any():
            loss = loss + (outputs - outputs.detach()).sum().sqrt()
        return {"loss": loss}

    def after_step(self) -> None:
        """Nothing has a limit."""


def rows(broken: int = -1) -> Iterator[dict[str, np.ndarray]]:
    for step in count():
        row_BD = np.random.default_rng(step).normal(size=(4, INPUTS)).astype(np.float32)
        yield {"row_BD": row_BD, "broken_B": np.full(4, step == broken), "replaced": np.zeros(4, np.uint8)}


def looped(learner: Matrix, on_save: Callable[[int], None], points: dict[int, Curve], **settings: int) -> Loop:
    def keep(step: int, point: Curve) -> bool:
        points[step] = point
        return False

    optim = OptimConfig(rate=0.01, warmup_steps=0)
    settings = {"steps": 8, "log_every": 8, "save_every": 2} | settings
    return Loop(
        learner=learner,  # type: ignore[arg-type]
        module=learner.module,
        optimizers=[make_optimizer(learner.groups(), optim)],
        accelerator=open_accelerator("cpu"),
        optim=optim,
        accumulate=1,
        precision="fp32",
        seed=0,
        on_point=keep,
        on_save=on_save,
        evaluate=dict,
        **{"evaluate_every": 100} | settings,
    )


@pytest.mark.parametrize("broken", [4, 5])
def test_weights_of_a_step_whose_gradient_is_no_number_are_not_saved(broken: int) -> None:
    """Be it the very step that is to be saved (6, the sixth), or one since the last checkpoint."""
    saved: list[int] = []
    learner = Matrix()

    def save(step: int) -> None:
        assert all(parameter.isfinite().all() for parameter in learner.module.parameters())
        saved.append(step)

    with pytest.raises(RaylabError, match=r"(loss|gradients' norm) is (inf|nan) after step 6\. .* from before"):
        looped(learner, save, {}).run(rows(broken))
    assert saved == [2, 4]


def test_the_time_of_a_save_is_not_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loops.time, "perf_counter", lambda: now[0])

    def save(step: int) -> None:
        now[0] += 100

    points: dict[int, Curve] = {}
    looped(Matrix(), save, points, log_every=1).run(rows())
    assert [point["step_s"] for point in points.values()] == [0.0] * 8


def test_the_time_of_a_look_is_told_and_is_not_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loops.time, "perf_counter", lambda: now[0])

    def look() -> Curve:
        now[0] += 30
        return {"held_out/loss": 1.0}

    points: dict[int, Curve] = {}
    loop = looped(Matrix(), lambda step: None, points, log_every=1, evaluate_every=4)
    loop.evaluate = look
    loop.run(rows())
    assert {step: point["evaluate_s"] for step, point in points.items() if "evaluate_s" in point} == {4: 30.0, 8: 30.0}
    assert [point["step_s"] for point in points.values()] == [0.0] * 8


def test_it_knows_no_ray_and_no_task() -> None:
    code = "import sys, raylab.train.loop; print(*sorted(name for name in sys.modules if name.startswith('ray')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not [name for name in loaded if name.split(".")[0] == "ray"]
    tasks = {name.removeprefix("raylab.tasks.") for name in loaded if name.startswith("raylab.tasks.")}
    assert tasks <= {"base", "classes"}, "the contract, and the numbers of entities"


def gradients(module: torch.nn.Module) -> list[float]:
    return [float(value) for parameter in module.parameters() for value in parameter.grad.flatten()]


def with_norm_5() -> torch.nn.Module:
    module = torch.nn.Linear(2, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    return module


@pytest.mark.parametrize(("most", "left"), [(1.0, [0.6, 0.0, 0.8]), (10.0, [3.0, 0.0, 4.0]), (0.0, [3.0, 0.0, 4.0])])
def test_gradients_are_scaled_down_to_a_norm(most: float, left: list[float]) -> None:
    module = with_norm_5()
    assert float(clip(module, most)) == pytest.approx(5.0), "the norm before"
    assert gradients(module) == pytest.approx(left, rel=1e-5)
