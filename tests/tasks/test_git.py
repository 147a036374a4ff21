"""What the generative task makes of rows that lack parts, and what its network may begin with."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from distributed_workers import run_workers
from models.small_checkpoint import write_checkpoint
from train.conftest import make_tower
from train.runs import Told, prepared, small, train
from train.training_store import Store, make_store

from raylab.errors import RaylabError
from raylab.models.ald import LENGTH
from raylab.models.git_module import GitShape, SavedGit
from raylab.models.text import Tokenizer
from raylab.recipes.train import TRAIN, GitRun
from raylab.schema import LABEL
from raylab.tasks.base import TaskContext
from raylab.tasks.git import ENTITY_QUESTIONS, RATIONALE_QUESTION, GitTask, TargetsConfig, TextCollator
from raylab.train.accelerators import open_accelerator
from raylab.train.export import export
from raylab.train.order import generator
from raylab.train.plan import CheckpointConfig, ParallelConfig, TrainConfig
from raylab.train.worker import Run, read_here, work


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("git"), rows=40, parts=1)


@pytest.fixture(scope="module")
def patchy(store: Store) -> Store:
    """The same labels, of which a third has no rationale, and but every fourth questions."""
    path = Path(store.labels) / "labels" / "00000.parquet"
    rows = pq.read_table(path)
    told = rows.to_pylist()
    for number, row in enumerate(told):
        row["annotation"]["rationale"] = row["annotation"]["rationale"] if number % 3 else None
        row["annotation"]["questions"] = row["annotation"]["questions"] if number % 4 == 0 else []
    pq.write_table(pa.Table.from_pylist(told, rows.schema), path)
    return store


def rows_of(*told: dict[str, Any]) -> pa.Table:
    fields = [LABEL.field(name) for name in ("entity_id", "entity_name", "annotation")]
    return pa.Table.from_pylist(list(told), pa.schema(fields))


ROWS = rows_of(
    {"entity_id": "x:1", "entity_name": "Iris", "annotation": None},
    {"entity_name": None, "annotation": {"rationale": "It is red.", "questions": []}},
    {"entity_name": "", "annotation": {"rationale": "", "questions": [{"question": "what?", "answer": "Iris"}]}},
    {"entity_name": None, "annotation": {"rationale": None, "questions": None}},
)


@pytest.mark.parametrize(
    ("targets", "usable"),
    [
        (TargetsConfig(), [True, True, True, False]),
        (TargetsConfig(rationale=0, questions=0), [True, False, False, False]),
        (TargetsConfig(entity=0, rationale=0), [False, False, True, False]),
        (TargetsConfig(entity=0, questions=0), [False, True, False, False]),
    ],
)
def test_a_row_without_any_part_is_left_out(targets: TargetsConfig, usable: list[bool]) -> None:
    config = replace(TRAIN["git_miniworld"]().task, targets=targets)  # type: ignore[type-var]
    collator = TextCollator(config, TaskContext("", "", 0, 0))
    assert collator.usable(ROWS).tolist() == usable


def test_a_row_without_an_entity_has_no_code(store: Store) -> None:
    config = replace(TRAIN["git_miniworld"]().task, codes=True)  # type: ignore[type-var]
    collator = TextCollator(config, TaskContext(store.kb, "", 0, 0))
    rows = ROWS.slice(1, 1)
    assert collator.usable(rows).tolist() == [True]
    target_RT = collator(rows, [generator(0, 0)])["target_BRT"][0]
    assert (target_RT[0] == collator.tokenizer.pad).all()
    assert (target_RT[1] != collator.tokenizer.pad).any()


def test_a_generic_question_and_one_of_the_pairs_are_drawn(store: Store) -> None:
    """The entity has one of six questions, the rationale its prefix; each row's pair is asked as the annotator did."""
    count = 600
    config: Any = TRAIN["git_miniworld"]().task  # type: ignore[attr-defined]
    collator = TextCollator(config, TaskContext(store.kb, "", 0, 0))
    pairs = [{"question": f"which one is number {i}?", "answer": f"number {i}"} for i in range(3)]
    row = {"entity_id": "x:1", "entity_name": "Iris", "annotation": {"rationale": "It is red.", "questions": pairs}}
    arrays = collator(rows_of(*[row] * count), [generator(3, i) for i in range(count)])
    asked, answered = (
        list(zip(*(collator.tokenizer.text(part.tolist()) for part in arrays[name].swapaxes(0, 1))))
        for name in ("context_BRC", "target_BRT")
    )
    said = [collator.tokenizer.text(collator.tokenizer.questions([one], config.shape.context).tolist())[0] for one in
            (*ENTITY_QUESTIONS, RATIONALE_QUESTION, *(one["question"] for one in pairs))]  # fmt: skip
    drawn = Counter(entity for entity, _, _ in asked)
    assert set(drawn) == set(said[:6]) and len(drawn) == 6
    assert min(drawn.values()) > count / 6 / 2
    assert {rationale for _, rationale, _ in asked} == {said[6]}
    assert {(question, answer) for (_, _, question), (_, _, answer) in zip(asked, answered)} == {
        (said[7 + i], pair["answer"]) for i, pair in enumerate(pairs)
    }
    assert {entity.casefold() for entity, _, _ in answered} == {"iris"}


def batch_of(run: Run, count: int) -> dict[str, torch.Tensor]:
    from raylab.storage import Folder
    from raylab.train.examples import read_part

    collator = run.config.task.collator(run.context)
    rows, _ = read_part(Folder(run.config.labels), "labels/00000.parquet", collator)
    arrays = collator(rows.slice(0, count), [generator(0, i) for i in range(count)])
    pictures = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    return open_accelerator("cpu").to_device(arrays | {"image_BHWC": pictures})


def test_a_row_weighs_the_same_whatever_rows_it_comes_with(patchy: Store, tmp_path: Path) -> None:
    """The mean of the halves' losses, as workers and passes make it, is the whole's, though they have other parts."""
    run = prepared(small("git_miniworld", patchy, tmp_path))
    learner = run.config.task.learner(run.context)
    learner.module.eval()  # batch statistics would tie the rows together
    batch = batch_of(run, 12)
    order = batch["target_BRT"][:, 1, 0].argsort()  # rows without a rationale first
    batch = {name: value[order] for name, value in batch.items()}
    whole, *halves = (
        learner.losses(learner.module(*learner.inputs(part)), part)
        for part in (batch, *({name: value[at] for name, value in batch.items()} for at in (slice(0, 6), slice(6, 12))))
    )
    shares = [float(half["with/rationale"]) for half in halves]
    assert shares[0] < shares[1]
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([half[name] for half in halves]).mean(), value)


def test_a_parts_loss_over_its_share_is_the_mean_of_its_texts(patchy: Store, tmp_path: Path) -> None:
    run = prepared(small("git_miniworld", patchy, tmp_path))
    learner = run.config.task.learner(run.context)
    learner.module.eval()
    batch = batch_of(run, 12)
    outputs = learner.module(*learner.inputs(batch))
    found = learner.losses(outputs, batch)
    git, smoothing = learner.module.git, run.config.task.smoothing  # type: ignore[attr-defined]
    for number, name in enumerate(("entity", "rationale", "questions")):
        alone = git.loss(outputs["logit_BRTV"][:, number], batch["target_BRT"][:, number], smoothing)
        torch.testing.assert_close(found[name] / found[f"with/{name}"], alone)
    assert 0 < found["with/questions"] < found["with/rationale"] < found["with/entity"] == 1


def test_an_answer_is_exact_where_greedy_decoding_writes_it(patchy: Store, tmp_path: Path) -> None:
    run = prepared(small("git_miniworld", patchy, tmp_path))
    torch.manual_seed(0)
    learner: Any = run.config.task.learner(run.context)
    learner.module.eval()
    batch = batch_of(run, 12)
    git, pixels = learner.module.git, learner.module.pixels(batch["image_BHWC"])
    with torch.no_grad():
        logit_V = git(pixels, batch["context_BRC"], batch["target_BRT"])[0, 0, 0]
        said = int(logit_V.argmax())
        for row in (0, 1):  # what it says first is taken for the name
            batch["target_BRT"][row, 0, 1] = said
            batch["target_BRT"][row, 0, 2:] = git.config.pad
        batch["target_BRT"][1, 0, 2] = (said + 1) % 50 + 200
        found = learner.measures(batch)
    assert set(found) == {"entity_exact", "questions_exact"}
    assert found["entity_exact"][:2].tolist() == [1, 0]
    lacking = batch["target_BRT"][:, 2, 0] == git.config.pad
    assert torch.equal(found["questions_exact"].isnan(), lacking)


def _losses(rank: int, world: int, run: Run) -> list[tuple[float, float]]:
    told = Told(lambda step, point: None)
    work(run, read_here, told)
    return [(point["loss"], point["gradient_norm"]) for point in told.points.values()]


def patchy_run(patchy: Store, out: Path, **parallel: Any) -> TrainConfig:
    """Some steps on a tower without batch statistics."""
    config: Any = small("git_miniworld", patchy, out, steps=3, batch=8, checkpoint=CheckpointConfig(every=3))
    encoder = replace(config.task.encoder, name=str(make_tower(out)))
    task = replace(config.task, encoder=encoder)
    return replace(config, task=task, parallel=ParallelConfig(threads=1, **parallel))


def test_passes_make_the_steps_of_one_where_rows_lack_parts(patchy: Store, tmp_path: Path) -> None:
    alone = _losses(0, 1, prepared(patchy_run(patchy, tmp_path / "alone")))
    passes = _losses(0, 1, prepared(patchy_run(patchy, tmp_path / "passes", accumulate=2)))
    np.testing.assert_allclose(passes, alone, rtol=1e-3)


@pytest.mark.slow
def test_two_workers_make_the_steps_of_one_where_rows_lack_parts(patchy: Store, tmp_path: Path) -> None:
    alone = _losses(0, 1, prepared(patchy_run(patchy, tmp_path / "alone")))
    for strategy in ("ddp", "fsdp"):
        both = run_workers(_losses, 2, prepared(patchy_run(patchy, tmp_path / strategy, strategy=strategy)))[0]
        np.testing.assert_allclose(both, alone, rtol=1e-3)


def test_a_random_tower_at_a_rate_for_a_pretrained_one_is_refused() -> None:
    for name in ("git_large", "git_oven", "ger_ald"):
        config: Any = TRAIN[name]()
        assert config.task.encoder.pretrained and config.task.encoder_rate < 1
        random = replace(config.task, encoder=replace(config.task.encoder, pretrained=None))
        with pytest.raises(RaylabError, match=r"ViT-L-14 would start from random weights at 0\.1 times"):
            replace(config, task=random)
        replace(config, task=random, init="runs/git_large")
        replace(config, task=replace(random, encoder_rate=1.0))
        replace(config, task=replace(random, pretrained="microsoft/git-large"))


def test_the_papers_settings() -> None:
    """VER's (arXiv 2410.23676): GiT-Large, tasks alike, smoothing, rates, batch, lengths; GER's (arXiv 2403.02041)."""
    large, ger = TRAIN["git_large"](), TRAIN["ger_ald"]()
    task: Any = large.task
    assert task.shape == GitShape(width=768, layers=6, heads=12, dropout=0.1, context=32, target=32)
    assert (task.targets.entity, task.targets.rationale, task.targets.questions) == (1.0, 1.0, 1.0)
    assert (task.smoothing, task.crop, task.codes, task.tokenizer.name) == (
        0.2,
        "inception",
        False,
        "bert-base-uncased",
    )
    assert (task.encoder.name, task.encoder.model_config()["model_cfg"]["vision_cfg"]["image_size"]) == (
        "ViT-L-14",
        224,
    )
    assert large.optim.rate == 1e-4 and large.optim.rate * task.encoder_rate == pytest.approx(1e-5)
    assert (large.optim.weight_decay, large.batch, large.steps) == (0.0, 4096, 200_000)
    codes: Any = ger.task
    assert (codes.codes, codes.smoothing, codes.targets.names()) == (True, 0.3, ["entity"])
    assert (codes.shape.context, codes.shape.target) == (20, 1 + LENGTH)
    assert (ger.steps, ger.optim.warmup_steps, ger.optim.rate, ger.batch) == (600_000, 250, 1e-4, 4096)


def test_the_tower_of_the_papers_recipes_has_weights() -> None:
    import open_clip

    tower = TRAIN["git_large"]().task.encoder  # type: ignore[attr-defined]
    assert open_clip.get_pretrained_cfg(tower.name, tower.pretrained)


def test_it_may_begin_with_a_git_of_hugging_face(store: Store, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "git-tiny")
    config: Any = small(
        "git_miniworld", store, tmp_path / "run", steps=2, batch=8, checkpoint=CheckpointConfig(every=2)
    )
    task = GitTask(pretrained=str(checkpoint), shape=replace(config.task.shape, context=12, target=16), crop="shift")
    config = replace(config, task=task)
    run = prepared(config)
    assert task.collator(run.context).image.size == 32
    torch.manual_seed(0)
    learner = task.learner(run.context)
    theirs = SavedGit.open(checkpoint)
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(learner.module.state_dict()[name], value)
    assert len(learner.shard_units()) == 4
    points = train(config)
    assert points[2]["loss"] < points[1]["loss"]
    export(run)
    saved = SavedGit.open(tmp_path / "run" / "model")
    assert (saved.codes, saved.one_text, saved.module.git.config.target) == (False, False, 16)
    assert saved.tokenizer.ids(["a red rose"]) == Tokenizer(task.words).ids(["a red rose"])
    assert isinstance(config, GitRun)


def test_a_part_that_no_row_has_is_refused_before_the_run(tmp_path: Path) -> None:
    bare = make_store(tmp_path / "bare", rows=24, parts=1)
    path = Path(bare.labels) / "labels" / "00000.parquet"
    rows = pq.read_table(path)
    told = [row | {"annotation": None} for row in rows.to_pylist()]
    pq.write_table(pa.Table.from_pylist(told, rows.schema), path)
    config: Any = small("git_miniworld", bare, tmp_path / "run")
    with pytest.raises(RaylabError, match=r"what --task\.targets\.rationale, --task\.targets\.questions wants"):
        prepared(config)
    prepared(replace(config, task=replace(config.task, targets=TargetsConfig(rationale=0, questions=0))))
