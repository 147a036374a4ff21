"""What MUG and its two halves learn from, what they learn, and that evaluation opens what they leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from distributed_workers import run_workers
from evaluate.small_sets import coloured
from train.runs import Told, prepared, small, train
from train.training_store import Store, make_store

from raylab.errors import RaylabError
from raylab.evaluate.features import ModelSubject
from raylab.evaluate.models import ModelConfig, as_recogniser, find_model, open_model
from raylab.evaluate.probe import Probe, ProbeConfig
from raylab.evaluate.retrieval import Retrieval
from raylab.models.mae import VitConfig
from raylab.recipes.train import TRAIN
from raylab.tasks import mug
from raylab.tasks.base import TaskContext
from raylab.tasks.mug import MugLearner, MugTask, WeightsConfig
from raylab.train.export import export
from raylab.train.plan import CheckpointConfig, ParallelConfig, TrainConfig
from raylab.train.worker import Run, read_here, work

CONTEXT = TaskContext("", "", 0, 0)
SAID = [
    "a red flag",
    "the blue sign on a pole",
    "two stars",
    "a photo of a green cross",
    "rose",
    "a white bar",
    "x",
    "y",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("mug"), rows=48, parts=1)


def task_of(recipe: str = "mug_miniworld", **changes: Any) -> Any:
    return replace(TRAIN[recipe]().task, **changes)  # type: ignore[type-var]


def learner_of(recipe: str = "mug_miniworld", **changes: Any) -> MugLearner:
    torch.manual_seed(0)
    return task_of(recipe, **changes).learner(CONTEXT)


def batch_of(task: MugTask, count: int = 8) -> dict[str, torch.Tensor]:
    """Return pictures whose colours rise or fall from top to bottom, so that a part tells the rest; and captions."""
    draws, sign_BC = np.random.default_rng(0).spawn(count), 2 * (np.arange(count)[:, None] >> np.arange(3) & 1) - 1
    slope = np.linspace(-100, 100, 64)[None, :, None, None] * sign_BC[:, None, None]
    pictures = (128 + slope).repeat(64, 2).astype(np.uint8)
    told = task.collator(CONTEXT)(pa.table({"caption": SAID[:count]}), draws)
    return {name: torch.from_numpy(one) for name, one in (told | {"image_BHWC": pictures}).items()}


def test_a_row_needs_a_caption_where_captions_are_learnt() -> None:
    rows = pa.table({"caption": ["a flag", "  ", None, ""]})
    for recipe in ("mug_miniworld", "masked_caption_miniworld"):
        collator = task_of(recipe).collator(CONTEXT)
        assert (collator.columns, collator.usable(rows).tolist()) == (("caption",), [True, False, False, False])
    pictures = task_of("mae_miniworld").collator(CONTEXT)
    assert (pictures.columns, pictures.usable(rows).tolist()) == ((), [True] * 4)
    assert set(pictures(rows, np.random.default_rng(0).spawn(4))) == {"noise_BN"}


def test_each_half_is_the_same_network_without_the_other() -> None:
    learners = {name: learner_of(f"{name}_miniworld") for name in ("mug", "mae", "masked_caption")}
    parts = {name: {one.partition(".")[0] for one in found.module.state_dict()} for name, found in learners.items()}
    assert parts == {
        "mug": {"vit", "pixels", "captions"},
        "mae": {"vit", "pixels"},
        "masked_caption": {"vit", "captions"},
    }
    shapes = [
        {name: value.shape for name, value in found.module.vit.state_dict().items()} for found in learners.values()
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    batch, losses = batch_of(task_of()), {}
    for name, learner in learners.items():
        losses[name] = learner.losses(learner.module(*learner.inputs(batch)), batch)
    assert {name: set(found) for name, found in losses.items()} == {
        "mug": {"loss", "reconstruction", "caption"},
        "mae": {"loss", "reconstruction"},
        "masked_caption": {"loss", "caption"},
    }
    both = losses["mug"]
    torch.testing.assert_close(both["loss"], both["reconstruction"] + 0.1 * both["caption"])


def test_some_pictures_are_learnt_by_heart() -> None:
    learner = learner_of()
    batch = batch_of(learner.config)
    optimizer = torch.optim.AdamW(learner.module.parameters(), lr=3e-3)
    found: list[dict[str, float]] = []
    draw = torch.Generator().manual_seed(0)
    for _ in range(60):
        batch["noise_BN"] = torch.rand(batch["noise_BN"].shape, generator=draw)
        losses = learner.losses(learner.module(*learner.inputs(batch)), batch)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append({name: value.item() for name, value in losses.items()})
    for name in ("reconstruction", "caption"):
        assert np.mean([one[name] for one in found[-5:]]) < 0.6 * found[0][name], name
    learner.module.eval()
    with torch.no_grad():
        measures = learner.measures(batch)
        said = learner.describe(batch)
    assert measures["caption_top1"].mean() > 0.5
    assert 0 < measures["explained"].mean() < 1
    right = sum(text.startswith(f"{caption} (right: {caption});") for text, caption in zip(said, SAID))
    assert right >= 4, said


def test_bfloat16_stays_near() -> None:
    learner = learner_of()
    batch, found = batch_of(learner.config), []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = learner.module(*learner.inputs(batch))
        losses = learner.losses(outputs, batch)
        losses["loss"].backward()
        assert all(value.dtype == torch.float32 for value in losses.values())
        found.append({name: value.item() for name, value in losses.items()})
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[1] != found[0]


def test_a_captions_token_weighs_the_same_on_whichever_worker_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing masked all is visible, in another order each time, which changes nothing."""
    learner = learner_of("masked_caption_miniworld", masked=0.0)
    batch = batch_of(learner.config)
    parts = [{name: value[at] for name, value in batch.items()} for at in (slice(0, 2), slice(2, 8))]

    def caption(part: dict[str, torch.Tensor]) -> torch.Tensor:
        return learner.losses(learner.module(*learner.inputs(part)), part)["caption"]

    whole = caption(batch)
    tokens = torch.stack([(part["token_BT"][:, 1:] != learner.module.captions.words.pad).sum() for part in parts])  # type: ignore[union-attr]
    assert tokens[0] != tokens[1]
    monkeypatch.setattr(mug, "mean", lambda count: tokens.float().mean())  # what two workers would hear
    torch.testing.assert_close(torch.stack([caption(part) for part in parts]).mean(), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masked": 1.0}, "masked=1.0"),
        ({"masked": 0.0}, "masked=0.0"),
        ({"weights": WeightsConfig(0, 0)}, "nothing is learnt"),
        ({"weights": WeightsConfig(-1, 1)}, "below 0"),
    ],
)
def test_settings_by_which_nothing_is_learnt_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RaylabError, match=message):
        task_of(**changes)


def test_the_papers_recipes_are_maes() -> None:
    for name, decoders in (
        ("mug_b16", (True, True)),
        ("mae_b16", (True, False)),
        ("masked_caption_b16", (False, True)),
    ):
        config: Any = TRAIN[name]()
        assert (config.task.paints, config.task.writes) == decoders
        assert config.task.collator(CONTEXT).image.size == 224
        assert config.optim.rate == pytest.approx(1.5e-4 * config.batch / 256)
        assert config.optim.betas == (0.9, 0.95)


def test_it_may_begin_with_published_weights_of_the_encoder(tmp_path: Path) -> None:
    before = learner_of("mae_miniworld").module
    torch.save({"model": before.vit.state_dict()}, tmp_path / "mae.pth")
    encoder: VitConfig = replace(task_of().encoder, weights=str(tmp_path / "mae.pth"))
    torch.manual_seed(1)
    after = task_of(encoder=encoder).learner(CONTEXT).module
    for name, value in before.vit.state_dict().items():
        torch.testing.assert_close(after.vit.state_dict()[name], value)


def test_what_a_run_leaves_embeds_pictures_in_evaluation(store: Store, tmp_path: Path) -> None:
    config = small("mug_miniworld", store, tmp_path / "run", steps=1, batch=8, checkpoint=CheckpointConfig(every=1))
    train(config)
    run = prepared(config)
    export(run)
    place = str(tmp_path / "run")
    assert find_model(place) == find_model(f"{place}/model") == f"{place}/model"
    model = ModelConfig(place)
    subject = ModelSubject(model)
    assert not subject.generative
    for benchmark in (Retrieval(coloured()), Probe(coloured(), coloured(), ProbeConfig(strengths=(1e3,)))):
        scores = {score.name: score.value for score in benchmark(subject).scores}
        assert max(scores.values()) > 0.6, scores
    assert subject.used[0].startswith("run@")
    learner: Any = run.config.task.learner(run.context)
    assert open_model(model).embedder.dim == learner.module.vit.embed_dim  # type: ignore[union-attr]
    with pytest.raises(RaylabError, match="run embeds pictures alone"):
        as_recogniser(model, store.kb)


def _points(rank: int, world: int, run: Run) -> list[tuple[float, float]]:
    told = Told(lambda step, point: None)
    work(run, read_here, told)
    return [(point["loss"], point["gradient_norm"]) for point in told.points.values()]


def some_steps(recipe: str, store: Store, out: Path, strategy: str, **changes: Any) -> TrainConfig:
    config: Any = small(recipe, store, out, steps=3, batch=8, checkpoint=CheckpointConfig(every=3))
    parallel = ParallelConfig(threads=1, strategy=strategy)
    track = replace(config.track, evaluate_every=3, samples=2)
    task = replace(config.task, **changes)
    return replace(config, task=task, parallel=parallel, track=track, data=replace(config.data, held_out=0.3))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["mug_miniworld", "masked_caption_miniworld", "simclr_miniworld"])
def test_two_workers_make_the_steps_of_one(recipe: str, store: Store, tmp_path: Path) -> None:
    """Copies of the network, or shards of it: what is random about a row follows from its place, not from a worker."""
    alone = _points(0, 1, prepared(some_steps(recipe, store, tmp_path / "alone", "ddp")))
    for strategy in ("ddp", "fsdp"):
        both = run_workers(_points, 2, prepared(some_steps(recipe, store, tmp_path / strategy, strategy)))
        np.testing.assert_allclose(both[0], alone, rtol=1e-3)


def test_samples_show_what_is_visible_what_is_painted_and_the_picture(store: Store, tmp_path: Path) -> None:
    for recipe, pictures in (("mug_miniworld", 3), ("masked_caption_miniworld", 1), ("simclr_miniworld", 2)):
        told = Told(lambda step, point: None)
        config = some_steps(recipe, store, tmp_path / recipe, "ddp")
        work(prepared(replace(config, steps=1)), read_here, told)
        shown = {(picture.shape, picture.dtype.name) for picture, _ in told.pictures}
        assert (len(told.pictures), shown) == (2, {((64, 64 * pictures, 3), "uint8")})
