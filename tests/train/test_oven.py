"""Fine-tuning on OVEN's files, whole and small: files to labels to a model that began as another one; without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sources.oven_folder import write_oven
from train.runs import prepared, small, train
from train.training_store import Store

from raylab.label import store as label_store
from raylab.label.second_pass import second_pass
from raylab.label.segments import read_segment, split
from raylab.label.step import StepContext
from raylab.models.text import Tokenizer
from raylab.recipes import LABEL
from raylab.recipes.train import TRAIN
from raylab.sources import open_source
from raylab.sources.base import SourceConfig
from raylab.storage import Folder
from raylab.train.accelerators import open_accelerator
from raylab.train.plan import TrainConfig, check
from raylab.train.worker import arrays, read_here

BATCH = 16


@pytest.fixture(scope="module")
def questions(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Labels of OVEN's training files, as the recipe ``oven`` makes them."""
    pictures, out = tmp_path_factory.mktemp("oven"), Folder(str(tmp_path_factory.mktemp("labels")))
    write_oven(pictures, rows=110)
    source = SourceConfig(f"oven://{pictures}")
    config = replace(LABEL["oven"](), source=source, kb=store.kb, out=out.uri)
    step = config.given.build(StepContext(store.kb, source))
    opened = open_source(source)
    for segment in split(opened.shards(), config.store.shards_per_segment):
        for rows in read_segment(opened, segment):
            label_store.commit_rows(out, segment.index, step(rows), ["given"])
    second_pass(out, config.store.min_entity_images)
    return Store(out.uri, store.kb, source.uri)


@pytest.fixture(scope="module")
def before(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the generative recogniser."""
    out = tmp_path_factory.mktemp("git")
    train(small("git_miniworld", store, out, steps=20))
    return out


def fine_tuning(questions: Store, out: Path, **changes: object) -> TrainConfig:
    return small("git_oven_miniworld", questions, out, batch=BATCH, **changes)


def test_half_of_each_batch_is_of_either_split(questions: Store, tmp_path: Path) -> None:
    run = prepared(fine_tuning(questions, tmp_path))
    rows = {part["group"]: part["rows"] for part in run.examples["parts"]}
    assert rows[0] != rows[1] and min(rows.values()) > BATCH
    context = run.config.task.shape.context
    of_query = {tuple(row) for row in Tokenizer(run.config.task.tokenizer).questions(asked(questions), context)}
    batches = list(arrays(run, read_here, 0, open_accelerator("cpu")))
    assert len(batches) == run.config.steps
    for batch in batches:
        found = [tuple(row) in of_query for row in batch["context_BRC"][:, 0].tolist()]
        assert found == [False] * (BATCH // 2) + [True] * (BATCH // 2)


def asked(questions: Store) -> list[str]:
    """The questions of the query split: no other asks in these words."""
    labels = label_store.LabelStore(questions.labels).labels().to_table(columns=["shard", "caption"]).to_pylist()
    return [row["caption"] for row in labels if "query_train" in row["shard"]]


def test_it_begins_with_another_runs_weights_and_learns(questions: Store, before: Path, tmp_path: Path) -> None:
    config = fine_tuning(questions, tmp_path / "tuned", init=str(before), steps=16)
    tuned = train(replace(config, optim=replace(config.optim, rate=5e-4)))  # in so few steps it shows
    alone = train(fine_tuning(questions, tmp_path / "alone", steps=2))
    assert tuned[1]["loss"] == tuned[1]["questions"] < alone[1]["loss"]
    assert np.mean([tuned[step]["loss"] for step in (14, 15, 16)]) < tuned[1]["loss"]
    assert "entity" not in tuned[1]


def test_a_killed_run_sees_the_same_rows_again(questions: Store, tmp_path: Path) -> None:
    run = prepared(fine_tuning(questions, tmp_path, steps=9))
    whole, late = (list(arrays(run, read_here, start, open_accelerator("cpu"))) for start in (0, 5))
    assert len(late) == 4
    for first, second in zip(whole[5:], late):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_the_papers_settings() -> None:
    config = TRAIN["git_oven"]()
    check(replace(config, labels="l", kb="k", out="o", source=SourceConfig("oven:///data/oven")))
    assert (config.steps, config.batch, config.task.smoothing) == (10_000, 256, 0.1)
    assert config.task.targets.names() == ["questions"]
    assert config.optim.rate * config.task.encoder_rate == pytest.approx(3e-7)
    assert config.optim.weight_decay == 0
    assert TRAIN["git_large"]().task.smoothing == 0.2
    assert not TRAIN["git_large"]().data.mix
