"""An encoder that was pretrained becomes a classifier: what it begins with, what learns, what is saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from distributed_workers import run_workers
from train.runs import Told, prepared, small, train
from train.training_store import Store, make_store

from raylab.errors import RaylabError
from raylab.evaluate.models import ModelConfig, open_model
from raylab.models.mixing import MixConfig
from raylab.recipes.train import TRAIN
from raylab.storage import Folder
from raylab.tasks.base import decay_groups
from raylab.tasks.finetune import FinetuneTask
from raylab.train.checkpoint import Checkpoints
from raylab.train.export import export
from raylab.train.optim import OptimConfig, make_optimizer
from raylab.train.plan import CheckpointConfig, ParallelConfig, TrainConfig, absolute
from raylab.train.worker import Run, read_here, work

RECIPES = ["finetune_miniworld", "linear_probe_miniworld"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("finetune"), rows=96, parts=1)


@pytest.fixture(scope="module")
def pretrained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MUG that was finished."""
    out = tmp_path_factory.mktemp("pretrained") / "mug"
    config = small("mug_miniworld", store, out, steps=1, batch=8, checkpoint=CheckpointConfig(every=1))
    train(config)
    export(prepared(config))
    return out


def config_of(recipe: str, store: Store, out: Path, weights: Path | str = "", **changes: Any) -> TrainConfig:
    config: Any = small(recipe, store, out, steps=3, batch=16, checkpoint=CheckpointConfig(every=3), **changes)
    encoder = replace(config.task.encoder, weights=str(weights))
    held = replace(config.data, held_out=0.2)
    return replace(config, task=replace(config.task, encoder=encoder), data=held)


def learner_of(run: Run) -> Any:
    torch.manual_seed(0)
    return run.config.task.learner(run.context)


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_begins_with_a_runs_encoder(recipe: str, store: Store, pretrained: Path, tmp_path: Path) -> None:
    before = timm.create_model(f"local-dir:{pretrained / 'model'}", pretrained=True).state_dict()
    after = learner_of(prepared(config_of(recipe, store, tmp_path, pretrained))).module.vit.state_dict()
    fresh = ("norm.", "fc_norm.", "head.") if recipe == "finetune_miniworld" else ()
    for name, value in after.items():
        assert name.startswith(fresh or "-") or torch.equal(value, before[name]), name
    other: Any = config_of(recipe, store, tmp_path / "other", pretrained)
    wider = replace(other.task, encoder=replace(other.task.encoder, width=48))
    with pytest.raises(RaylabError, match="do not fit the encoder"):
        learner_of(prepared(replace(other, task=wider)))


def test_blocks_learn_the_slower_the_deeper_they_lie(store: Store, tmp_path: Path) -> None:
    learner = learner_of(prepared(config_of("finetune_miniworld", store, tmp_path)))
    vit, rates = learner.module.vit, {}
    for group in learner.groups():
        for parameter in group.parameters:
            rates[parameter] = group.rate, group.decays
    head, first = rates[vit.head.weight], rates[vit.blocks[0].attn.qkv.weight]
    assert head == (1.0, True)
    assert first == (pytest.approx(0.75 ** len(vit.blocks)), True)
    assert rates[vit.pos_embed] == (pytest.approx(0.75 ** (len(vit.blocks) + 1)), False)
    assert rates[vit.blocks[-1].norm1.weight] == (pytest.approx(0.75), False)


def test_a_linear_probe_leaves_the_encoder_as_it_is(store: Store, pretrained: Path, tmp_path: Path) -> None:
    run = prepared(config_of("linear_probe_miniworld", store, tmp_path / "run", pretrained))
    work(run, read_here, Told(lambda step, point: None))
    export(run)
    before, after = (
        timm.create_model(f"local-dir:{place / 'model'}", pretrained=True).state_dict()
        for place in (pretrained, tmp_path / "run")
    )
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert set(after) - set(before) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_saved_says_what_the_run_says(recipe: str, store: Store, pretrained: Path, tmp_path: Path) -> None:
    """By timm alone, and with the names of entities; evaluation takes the same folder for the vectors."""
    config = config_of(recipe, store, tmp_path / "run", pretrained)
    points = train(config)
    run = prepared(config)
    export(run)
    assert 0 <= points[3]["held_out/top1"] <= 1
    folder = tmp_path / "run" / "model"
    saved = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    image_BHWC = torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8)
    learner = learner_of(run)
    state = learner.module.state_dict()
    Checkpoints(Folder(run.config.out)).load(3, {"model": state})
    learner.module.load_state_dict(state)
    batch = {"image_BHWC": image_BHWC, "mix_BR": torch.zeros(4, 10), "class_B": torch.zeros(4, dtype=torch.int64)}
    learner.module.eval()
    expected = learner.module(*learner.inputs(batch))["logit_BC"]
    mean, std = learner.module.mean, learner.module.std
    found = saved((image_BHWC.permute(0, 3, 1, 2).float() / 255 - mean) / std)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    told = json.loads((folder / "config.json").read_text())
    assert len(told["label_names"]) == run.examples["classes"] == expected.shape[1]
    assert told["label_descriptions"][told["label_names"][0]] in learner.describe(batch)[0]
    assert open_model(ModelConfig(str(tmp_path / "run"))).embedder.dim == 96  # type: ignore[union-attr]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_few_pictures_are_learnt_by_heart(recipe: str, store: Store, tmp_path: Path) -> None:
    run = prepared(config_of(recipe, store, tmp_path))
    learner, config = learner_of(run), run.config.optim
    batch = {
        "image_BHWC": torch.randint(256, (8, 64, 64, 3), dtype=torch.uint8),
        "mix_BR": torch.from_numpy(np.stack([MixConfig(0, 0, erased=0).draw(64, np.random.default_rng(0))] * 8)),
        "class_B": torch.arange(8),
    }
    optimizer, found = make_optimizer(learner.groups(), config), []
    for _ in range(40):
        losses = learner.losses(learner.module(*learner.inputs(batch)), batch)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(losses["top1"].item())
    assert found[-1] == 1


def test_lars_follows_the_norm_of_matrices_alone() -> None:
    """As facebookresearch/mae's util/lars.py: momentum of the gradient, scaled by 0.001 |w| / |g|."""
    module = torch.nn.Linear(4, 3)
    weight, bias = (one.detach().clone().double() for one in (module.weight, module.bias))
    optimizer = make_optimizer(decay_groups(module), OptimConfig(kind="lars", rate=2.0, weight_decay=0.0))
    momentum = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step in range(3):
        gradients = [torch.randn(one.shape, generator=torch.Generator().manual_seed(step)) for one in (weight, bias)]
        module.weight.grad, module.bias.grad = gradients
        optimizer.step()
        scaled = gradients[0].double() * 0.001 * weight.norm() / gradients[0].double().norm()
        momentum = [0.9 * old + new for old, new in zip(momentum, (scaled, gradients[1].double()))]
        weight, bias = weight - 2 * momentum[0], bias - 2 * momentum[1]
    torch.testing.assert_close(module.weight.double(), weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(module.bias.double(), bias, rtol=1e-5, atol=1e-6)
    with pytest.raises(RaylabError, match="Did you mean 'lars'"):
        OptimConfig(kind="larss")


def test_a_run_of_lars_goes_on_from_its_checkpoint(store: Store, tmp_path: Path) -> None:
    config = config_of("linear_probe_miniworld", store, tmp_path / "whole")
    whole = train(replace(config, steps=4))
    part = replace(config, out=str(tmp_path / "part"), steps=4, checkpoint=CheckpointConfig(every=2))

    def kill(step: int, point: dict[str, float]) -> None:
        if step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(part, kill)
    assert {step: point["loss"] for step, point in train(part).items()} == {
        step: whole[step]["loss"] for step in (3, 4)
    }


def test_paths_of_weights_become_whole(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pretrained.parent)
    config: Any = TRAIN["finetune_b16"]()
    for given, expected in (
        (pretrained.name, str(pretrained)),
        ("timm", "timm"),
        ("", ""),
        ("facebook/x", "facebook/x"),
    ):
        task = replace(config.task, encoder=replace(config.task.encoder, weights=given))
        assert absolute(replace(config, task=task)).task.encoder.weights == expected  # type: ignore[attr-defined]


def test_the_papers_recipes_are_maes() -> None:
    tuned: Any = TRAIN["finetune_b16"]()
    assert tuned.optim.rate == pytest.approx(5e-4 * tuned.batch / 256)
    assert (tuned.task.layer_decay, tuned.task.drop_path, tuned.task.mixing.mixup) == (0.65, 0.1, 0.8)
    large: Any = TRAIN["finetune_l16"]()
    assert large.optim.rate == pytest.approx(1e-3 * large.batch / 256)
    assert (large.task.layer_decay, large.task.drop_path, large.task.mixing.cutmix) == (0.75, 0.2, 1.0)
    probe: Any = TRAIN["linear_probe_b16"]()
    assert probe.optim.rate == pytest.approx(0.1 * probe.batch / 256)
    assert (probe.optim.kind, probe.optim.weight_decay, probe.task.encoder.pool) == ("lars", 0.0, "token")


@pytest.mark.parametrize("changes", [{"layer_decay": 0.0}, {"layer_decay": 1.1}, {"drop_path": 1.0}])
def test_settings_that_cannot_be_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(RaylabError, match=next(iter(changes))):
        FinetuneTask(**changes)  # type: ignore[arg-type]


def _points(rank: int, world: int, run: Run) -> list[tuple[float, float]]:
    told = Told(lambda step, point: None)
    work(run, read_here, told)
    return [(point["loss"], point["gradient_norm"]) for point in told.points.values()]


@pytest.mark.slow
def test_two_workers_make_the_steps_of_one(store: Store, tmp_path: Path) -> None:
    """Where nothing is left out or erased by a worker's own draws."""
    config: Any = config_of("finetune_miniworld", store, tmp_path / "alone")
    config = replace(config, task=replace(config.task, drop_path=0.0, mixing=MixConfig(0, 0, erased=0)))
    alone = _points(0, 1, prepared(config))
    for strategy in ("ddp", "fsdp"):
        parallel = ParallelConfig(threads=1, strategy=strategy)
        both = run_workers(_points, 2, prepared(replace(config, out=str(tmp_path / strategy), parallel=parallel)))
        np.testing.assert_allclose(both[0], alone, rtol=1e-3)


@pytest.mark.slow
def test_sharded_workers_learn_a_linear_probe(store: Store, pretrained: Path, tmp_path: Path) -> None:
    config = config_of("linear_probe_miniworld", store, tmp_path / "ddp", pretrained)
    copies = run_workers(_points, 2, prepared(config))
    parallel = ParallelConfig(threads=1, strategy="fsdp")
    sharded = run_workers(_points, 2, prepared(replace(config, out=str(tmp_path / "fsdp"), parallel=parallel)))
    np.testing.assert_allclose(sharded, copies, rtol=1e-3)
