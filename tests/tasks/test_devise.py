"""DeViSE: which rows it learns from, what each stage moves, what is saved, and how the saved model names pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from train.runs import Told, prepared, small, train
from train.training_store import Store, make_store

from raylab.errors import RaylabError
from raylab.evaluate import named
from raylab.evaluate.embedding import Embedding
from raylab.evaluate.features import ModelSubject
from raylab.evaluate.image_set import ImageSet
from raylab.evaluate.models import ModelConfig, as_recogniser, open_model
from raylab.evaluate.named import NamedEncoder, NearestName
from raylab.kb.catalog import Catalog
from raylab.kb.words import RandomWords
from raylab.kb.words_build import WordsConfig, build_words
from raylab.sources.miniworld.entities import BY_ID
from raylab.storage import Folder
from raylab.tasks.classes import Classes
from raylab.train.checkpoint import Checkpoints
from raylab.train.export import export
from raylab.train.plan import CheckpointConfig, TrainConfig, absolute
from raylab.train.worker import Run, read_here, work


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("devise"), rows=96, parts=1)


@pytest.fixture(scope="module")
def words(store: Store) -> str:
    out = str(Path(store.kb).with_name("words"))
    build_words(WordsConfig(kb=store.kb, out=out, dim=16, passes=5, least=1, threads=1))
    return out


def config_of(recipe: str, store: Store, out: Path, words: str = "", init: str = "", **task: Any) -> TrainConfig:
    config: Any = small(recipe, store, out, steps=2, batch=8, checkpoint=CheckpointConfig(every=2), init=init)
    if words:
        task |= {"words": words}
    return replace(config, task=replace(config.task, **task))


def finished(config: TrainConfig) -> Path:
    train(config)
    export(prepared(config))
    return Path(config.out)


def weights(run: Run, out: Path) -> dict[str, torch.Tensor]:
    state = run.config.task.learner(run.context).module.state_dict()
    Checkpoints(Folder(str(out))).load(2, {"model": state})
    return state


@pytest.fixture(scope="module")
def runs(store: Store, words: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A softmax's run, and the two stages after it."""
    folder = tmp_path_factory.mktemp("stages")
    softmax = finished(config_of("devise_softmax_miniworld", store, folder / "softmax"))
    config: Any = config_of("devise_miniworld", store, folder / "mapped", words)
    encoder = replace(config.task.encoder, weights=str(softmax))
    mapped = finished(replace(config, task=replace(config.task, encoder=encoder)))
    tuned = finished(config_of("devise_tuned_miniworld", store, folder / "tuned", words, init=str(mapped)))
    return {"softmax": softmax, "mapped": mapped, "tuned": tuned}


def test_what_stays_unseen_is_not_learnt_from(store: Store, tmp_path: Path) -> None:
    run = prepared(config_of("devise_miniworld", store, tmp_path))
    ids = Catalog.open(store.kb).take(Classes(run.config.out, store.kb).kb_rows, ("id",))["id"].to_pylist()
    assert ids and not any(BY_ID[one].unseen for one in ids)
    left, kept = BY_ID[ids[0]].id, BY_ID[ids[1]].id
    (tmp_path / "unseen.txt").write_text(f"{left}\n\n")
    other = prepared(config_of("devise_miniworld", store, tmp_path / "b", unseen=str(tmp_path / "unseen.txt")))
    found = Catalog.open(store.kb).take(Classes(other.config.out, store.kb).kb_rows, ("id",))["id"].to_pylist()
    assert left not in found
    assert kept in found and any(BY_ID[one].unseen for one in found)
    with pytest.raises(RaylabError, match=r"task\.unseen"):
        prepared(config_of("devise_miniworld", store, tmp_path / "c", unseen="no/such/file"))


def test_entities_whose_names_are_not_known_are_left_out(store: Store, tmp_path: Path) -> None:
    glove = tmp_path / "glove.txt"
    glove.write_text("signal 1 0 0\nlima 0 1 0\n")
    build_words(WordsConfig(given=str(glove), out=str(tmp_path / "words")))
    run = prepared(config_of("devise_miniworld", store, tmp_path / "run", str(tmp_path / "words")))
    titles = Catalog.open(store.kb).take(Classes(run.config.out, store.kb).kb_rows, ("title",))["title"].to_pylist()
    assert titles and all("Signal" in title or "Lima" in title for title in titles)


def test_the_first_stage_moves_the_map_and_the_second_all(runs: dict[str, Path], store: Store, words: str) -> None:
    state = {}
    for name, recipe in (("softmax", "devise_softmax"), ("mapped", "devise"), ("tuned", "devise_tuned")):
        given = "" if name == "softmax" else words
        state[name] = weights(prepared(config_of(f"{recipe}_miniworld", store, runs[name], given)), runs[name])
    encoder = [name for name in state["mapped"] if name.startswith("vit.")]
    assert all(torch.equal(state["mapped"][name], state["softmax"][name]) for name in encoder)
    moved = [name for name in encoder if not torch.equal(state["tuned"][name], state["mapped"][name])]
    assert "vit.blocks.0.attn.qkv.weight" in moved
    assert not torch.equal(state["tuned"]["map.weight"], state["mapped"]["map.weight"])


def test_groups_give_the_encoder_a_rate_of_its_own(store: Store, words: str, tmp_path: Path) -> None:
    run = prepared(config_of("devise_tuned_miniworld", store, tmp_path, words, encoder_rate=0.25))
    rates = {group.name.split()[0]: group.rate for group in run.config.task.learner(run.context).groups()}
    assert rates == {"map": 1.0, "encoder": 0.25}


def test_a_learner_says_the_nearest_name(store: Store, words: str, tmp_path: Path) -> None:
    told = Told(lambda step, point: None)
    config: Any = config_of("devise_miniworld", store, tmp_path, words)
    config = replace(config, data=replace(config.data, held_out=0.3), track=replace(config.track, evaluate_every=2))
    work(prepared(config), read_here, told)
    assert told.pictures and all("(right: " in said for _, said in told.pictures)
    assert 0 <= told.points[2]["held_out/top1"] <= 1


@pytest.mark.parametrize("name", ["softmax", "mapped", "tuned"])
def test_saved_models_rank_as_their_networks_do(runs: dict[str, Path], store: Store, words: str, name: str) -> None:
    recipe = {"softmax": "devise_softmax", "mapped": "devise", "tuned": "devise_tuned"}[name]
    run = prepared(config_of(f"{recipe}_miniworld", store, runs[name], "" if name == "softmax" else words))
    learner = run.config.task.learner(run.context)
    learner.module.load_state_dict(weights(run, runs[name]))
    image_BHWC = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    wanted_BC = learner.module.eval()(torch.from_numpy(image_BHWC))["logit_BC"].detach().numpy()
    embedder: Any = open_model(ModelConfig(str(runs[name]), threads=1)).embedder
    assert isinstance(embedder, NamedEncoder)
    cosine_BC = embedder.encode_images(list(image_BHWC)) @ embedder.name_vectors(list(embedder.classes.values())).T
    if name != "softmax":
        np.testing.assert_allclose(cosine_BC, wanted_BC, atol=2e-3)
    for found_C, wanted_C in zip(cosine_BC, wanted_BC):
        assert np.corrcoef(found_C, wanted_C)[0, 1] > 0.999


def test_a_softmax_knows_its_classes_alone(runs: dict[str, Path]) -> None:
    embedder: Any = open_model(ModelConfig(str(runs["softmax"]))).embedder
    unseen = next(one.title for one in BY_ID.values() if one.unseen)
    vector_ND = embedder.name_vectors([unseen, *embedder.classes.values()])
    assert np.isnan(vector_ND[0]).all()
    np.testing.assert_allclose(np.linalg.norm(vector_ND[1:], axis=1), 1, atol=1e-5)
    with pytest.raises(RaylabError, match="names are not known"):
        embedder.encode_texts([unseen])


def test_the_benchmark_takes_a_trained_model(runs: dict[str, Path]) -> None:
    from raylab.evaluate.datasets import open_images

    images: ImageSet = open_images("miniworld://?rows=60&seed=5")
    subject = ModelSubject(ModelConfig(str(runs["tuned"]), threads=1))
    found = {(one.protocol, one.metric) for one in Embedding(images)(subject).scores}
    assert {("seen", "hit@1"), ("unseen", "hit@5"), ("unseen+seen", "hit@20")} <= found


def test_predictions_are_the_nearest_titles(runs: dict[str, Path], store: Store) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    for name in ("tuned", "softmax"):
        config = ModelConfig(str(runs[name]), threads=1)
        (said,) = as_recogniser(config, store.kb).recognise([picture], [""], 4)
        embedder: Any = open_model(config).embedder
        titles = Catalog.open(store.kb).titles.to_pylist()
        cosine_N = np.nan_to_num(embedder.name_vectors(titles) @ embedder.encode_images([picture])[0], nan=-2)
        assert [one.score for one in said] == pytest.approx(sorted(cosine_N, reverse=True)[:4], abs=2e-3)
        assert all(BY_ID[one.entity_id or ""].title == one.text for one in said)


class Pictures(NamedEncoder):
    """Pictures are numbers: each looks as the name of that number in the catalogue is placed, nearly."""

    def __init__(self, catalog: Catalog, dim: int) -> None:
        self.id, self.revision, self.image_side, self.dim, self.classes = "pictures", "1", 8, dim, {}
        self.words, self._catalog = RandomWords(dim, 0), catalog

    def encode_images(self, images: Any) -> np.ndarray:
        vector_ND = self.words.vectors(self._catalog.take(np.array(images), ("title",))["title"].to_pylist())
        return named.unit(vector_ND + 0.02 * np.random.default_rng(0).standard_normal(vector_ND.shape), "pictures")


def test_many_names_are_found_by_faiss(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog.open(store.kb)
    pictures: list[Any] = list(range(0, len(catalog), 3))
    exact = NearestName(Pictures(catalog, 48), catalog).recognise(pictures, [""] * len(pictures), 3)
    monkeypatch.setattr(named, "EXACT_NAMES", 100)
    monkeypatch.setattr(named, "CELLS_OF_ROOT", 0.5)
    for _ in range(2):  # built, then mapped
        found = NearestName(Pictures(catalog, 48), catalog).recognise(pictures, [""] * len(pictures), 3)
        assert [row[0].entity_id for row in found] == [row[0].entity_id for row in exact]
        scores = [[[one.score for one in row] for row in rows] for rows in (found, exact)]
        np.testing.assert_allclose(*scores, atol=2e-3)  # of names as near as each other, either comes first
    assert [row[0].entity_id for row in exact] == catalog.take(np.array(pictures), ("id",))["id"].to_pylist()
    assert len(list(Path(store.kb, "vectors").glob("words-random-*/names.faiss"))) == 1


def test_another_word_space_is_refused(runs: dict[str, Path], store: Store, tmp_path: Path) -> None:
    import shutil

    model = tmp_path / "model"
    shutil.copytree(runs["mapped"] / "model", model)
    about = json.loads((model / "devise.json").read_text())
    build_words(WordsConfig(kb=store.kb, out=str(tmp_path / "others"), dim=16, passes=1, least=1, threads=1, seed=5))
    for address, said in ((str(tmp_path / "others"), "was trained with word vectors"), ("gone", "holds no word")):
        (model / "devise.json").write_text(json.dumps(about | {"words": address}))
        with pytest.raises(RaylabError, match=said):
            open_model(ModelConfig(str(model), batch=3 + len(address)))


def test_paths_are_whole_for_workers(store: Store, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(words).parent)
    config: Any = absolute(config_of("devise_miniworld", store, tmp_path, Path(words).name))
    assert config.task.words == words
    assert config.task.unseen == "miniworld://"


def test_mistakes_are_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match=r"task\.margin"):
        config_of("devise_miniworld", store, tmp_path, margin=0.0)
    with pytest.raises(RaylabError, match=r"jobs/words\.py"):
        config: Any = config_of("devise_miniworld", store, tmp_path)
        prepared(replace(config, task=replace(config.task, words="")))
