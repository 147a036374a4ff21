import json
import multiprocessing
import os
from types import SimpleNamespace

import numpy as np
import pytest

from raylab.errors import RaylabError
from raylab.kb.vectors import EntityVectors


class Entities:
    """A catalogue of numbered entities."""

    def __init__(self, count=10_000, fingerprint="kb-1"):
        self.info = SimpleNamespace(fingerprint=fingerprint)
        self.count = count

    def __len__(self):
        return self.count

    def texts(self, rows):
        return [f"{self.info.fingerprint} {row}" for row in rows]


class Encoder:
    """Puts a text's number into its vector; writes down each call."""

    def __init__(self, log=None, revision="r1", fail_after=None):
        self.id, self.revision, self.dim = "Some/Model", revision, 4
        self.log, self.fail_after = log, fail_after

    def encode_texts(self, texts):
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()}\n")
        if self.fail_after is not None:
            self.fail_after -= len(texts)
            if self.fail_after < 0:
                raise OSError(28, "No space left on device")
        angle = np.array([int(text.split()[1]) for text in texts]) / 10_000
        return np.stack([np.cos(angle), np.sin(angle), 0 * angle, 0 * angle], axis=1).astype(np.float32)


def test_row_i_is_the_vector_of_entity_i(tmp_path):
    vectors = EntityVectors.open(tmp_path, Entities(), Encoder())
    assert len(vectors) == 10_000 and vectors.matrix.dtype == np.float16
    rows = np.array([9_999, 3, 3, 5_000])
    expected = Encoder().encode_texts([f"x {row}" for row in rows])
    gathered = vectors.gather(rows)
    assert gathered.dtype == np.float32
    np.testing.assert_allclose(gathered, expected, atol=1e-3)
    assert vectors.gather(np.zeros(0, np.int64)).shape == (0, 4)


def test_they_are_computed_once_and_then_mapped(tmp_path):
    log = tmp_path / "log"
    EntityVectors.open(tmp_path / "v", Entities(), Encoder(log))
    calls = log.read_text()
    again = EntityVectors.open(tmp_path / "v", Entities(), Encoder(log))
    assert log.read_text() == calls
    assert isinstance(again.matrix, np.memmap) and not again.matrix.flags.writeable


def open_in_process(folder, log, results):
    vectors = EntityVectors.open(folder, Entities(), Encoder(log))
    results.put(float(vectors.gather(np.array([7_000]))[0, 1]))


def test_processes_that_come_at_once_compute_once(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    log = tmp_path / "log"
    processes = [context.Process(target=open_in_process, args=(tmp_path / "v", log, results)) for _ in range(4)]
    for process in processes:
        process.start()
    values = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len(set(values)) == 1
    assert len(set(log.read_text().split())) == 1


@pytest.mark.parametrize(
    ("entities", "encoder"),
    [
        (Entities(fingerprint="kb-2"), Encoder()),
        (Entities(), Encoder(revision="r2")),
        (Entities(count=9_000), Encoder()),
    ],
)
def test_vectors_of_another_knowledge_base_or_model_are_never_used(tmp_path, entities, encoder):
    EntityVectors.open(tmp_path, Entities(), Encoder())
    encoder.log = tmp_path / "log"
    assert len(EntityVectors.open(tmp_path, entities, encoder)) == len(entities)
    assert encoder.log.exists()


@pytest.mark.parametrize("damage", ["cut", "no json", "bad json"])
def test_damaged_vectors_are_computed_again(tmp_path, damage):
    EntityVectors.open(tmp_path, Entities(), Encoder())
    (place,) = tmp_path.iterdir()
    if damage == "cut":
        matrix = place / "vectors.npy"
        matrix.write_bytes(matrix.read_bytes()[:5000])
    elif damage == "no json":
        (place / "vectors.json").unlink()
    else:
        (place / "vectors.json").write_text("{")
    log = tmp_path / "log"
    assert len(EntityVectors.open(tmp_path, Entities(), Encoder(log))) == 10_000
    assert log.exists()


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_that_counts(tmp_path):
    with pytest.raises(RaylabError, match="No space left"):
        EntityVectors.open(tmp_path, Entities(), Encoder(fail_after=5_000))
    (place,) = tmp_path.iterdir()
    assert not {path.name for path in place.iterdir()} & {"vectors.npy", "vectors.npy.part", "vectors.json"}
    assert len(EntityVectors.open(tmp_path, Entities(), Encoder())) == 10_000


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RaylabError, match="point `vectors` to a folder"):
        EntityVectors.open(tmp_path / "file", Entities(), Encoder())


def test_a_read_only_folder_with_good_vectors_is_enough(tmp_path, monkeypatch):
    EntityVectors.open(tmp_path, Entities(), Encoder())
    monkeypatch.setattr("pathlib.Path.mkdir", lambda *a, **k: pytest.fail("the folder was written to"))
    assert len(EntityVectors.open(tmp_path, Entities(), Encoder())) == 10_000


def test_vectors_say_what_they_belong_to(tmp_path):
    EntityVectors.open(tmp_path, Entities(), Encoder())
    info = json.loads((tmp_path / "some-model-r1" / "vectors.json").read_text())
    assert info == {
        "kb_fingerprint": "kb-1",
        "model": "Some/Model",
        "revision": "r1",
        "entities": 10_000,
        "dim": 4,
        "format": 1,
    }
