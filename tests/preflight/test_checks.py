"""Each check judges what hosts saw, without Ray."""

from __future__ import annotations

import http.server
import math
import pickle
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from sources.source_files import jpeg, pair_members, write_tar

from raylab.errors import RaylabError
from raylab.kb.build import BuildConfig, build
from raylab.preflight import hosts
from raylab.preflight.asked import Asked, Input, Model, of_train
from raylab.preflight.base import Check, Cluster, Failed, Finding, Level, Seen, Task, judge, looks, together
from raylab.preflight.checks import CHECKS
from raylab.preflight.cluster import Cpus, Token, Upload, WandB
from raylab.preflight.data import Inputs, KnowledgeBase, LocalPaths, SourceReads, Storage
from raylab.preflight.hosts import CACHE, SPILL, Accelerators, Clock, Disk, SharedMemory, Versions
from raylab.preflight.models import Models, _said
from raylab.preflight.table import report, table
from raylab.recipes.devise import devise_miniworld, devise_random_miniworld
from raylab.recipes.label import MINIWORLD_SPACY
from raylab.recipes.train import git_large, mae_b16, mug_b16
from raylab.recipes.transfer import finetune_miniworld
from raylab.schema import LABEL
from raylab.sources.base import SourceConfig
from raylab.storage import Folder

GIB = 2**30
NODE = {"CPU": 2.0, "object_store_memory": 1.0 * GIB}
TWO = Cluster({"a": NODE, "b": NODE}, upload_limit=100 * 2**20)


def task(**asked: object) -> Task:
    return Task(Asked(**asked), "probe", "driver")  # type: ignore[arg-type]


def judged(check: Check, nodes: dict, cluster: Cluster = TWO, driver: object = None, **asked: object) -> Finding:
    return judge(check, Seen(task(**asked), cluster, driver, nodes))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A job that asks for all that there is to check, on this host."""
    root = tmp_path_factory.mktemp("asked")
    build(BuildConfig(out=str(root / "kb"), catalogues=("miniworld://",), workers=1, context=False))
    write_tar(root / "pairs.tar", pair_members("k", "x", 5))
    source = SourceConfig(uri=str(root / "pairs.tar"))
    places = {"--source": source.uri, "--kb": str(root / "kb"), "--out": str(root / "out")}
    models = {"--mentions.spacy": Model("spacy", MINIWORLD_SPACY)}
    return Asked(
        1.0,
        places=places,
        out=str(root / "out"),
        source=source,
        kb=str(root / "kb"),
        models=models,
        inputs={"--source": Input("set", source.uri)},
        packages=("torchvision",),
        project="raylab",
    )


@pytest.mark.parametrize("kind", CHECKS, ids=lambda kind: kind.name)
def test_every_check_says_something_of_a_sound_host(kind: type[Check], everything: Asked, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(hosts, "usage", lambda place: (50 * GIB, 100 * GIB))  # the disk of this machine may be full
    check = kind()
    here = Task(everything, "probe", "a")
    assert check.name and kind.__doc__ and check.applies(everything)
    check.prepare(here)
    saw = looks([check], here)[check.name]
    assert pickle.loads(pickle.dumps(saw)) == saw, "it travels from node to driver"
    cluster = Cluster({"a": {"CPU": 2.0}}, upload_limit=1)
    found = judge(check, Seen(here, cluster, saw, {"a": saw}))
    check.finish(here)
    assert found.check == check.name and found.seen
    assert found.level is Level.OK and not found.way_out
    assert not Path(everything.out).exists(), "nothing is left behind"
    broken = judge(check, Seen(here, cluster, saw, {"a": Failed("no such thing")}))
    assert broken.level is Level.FAIL and "a: no such thing" in broken.seen


def test_names_are_unique_and_a_bare_cluster_asks_for_no_data() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    bare = {check.name for check in CHECKS if check().applies(Asked())}
    assert bare == {"CPUs", "accelerators", "versions", "clocks", "disk", "shared memory", "token", "upload"}


def test_what_a_look_raises_is_a_failure_of_that_check_alone() -> None:
    class Raises(Check):
        name, way_out = "raises", "mend it"

        def look(self, task: Task) -> None:
            raise OSError(28, "No space left")

    found = looks([Raises(), Disk()], task())
    assert found["raises"] == Failed("OSError: [Errno 28] No space left")
    assert not isinstance(found["disk"], Failed)
    assert judged(Raises(), {"a": found["raises"]}) == Finding(
        "raises", Level.FAIL, "a: OSError: [Errno 28] No space left", "mend it"
    )


def test_a_look_that_never_ends_is_a_failure_of_that_check_alone() -> None:
    """As of storage whose endpoint takes connections and says nothing: its library tries for minutes."""
    over = threading.Event()

    class Hangs(Check):
        name, patience_s = "hangs", 0.2

        def look(self, task: Task) -> None:
            over.wait(60)

    started = time.monotonic()
    found = looks([Hangs(), Clock()], task())
    over.set()
    assert time.monotonic() - started < 30
    assert found["hangs"] == Failed("no answer within 0.2 s") and found["clocks"] is None


def test_versions_that_differ_are_named() -> None:
    driver = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"}
    assert judged(Versions(), {"a": driver, "b": driver}, driver=driver).level is Level.OK
    found = judged(Versions(), {"a": driver, "b": driver | {"torch": "missing"}}, driver=driver)
    assert (found.level, found.seen) == (Level.FAIL, "b: torch missing, the driver has 2.13.0")
    without = driver | {"vllm": "missing"}
    found = judged(Versions(), {"a": without}, driver=without, packages=("vllm",))
    assert found.level is Level.FAIL and "vllm not installed on any node" in found.seen
    assert Versions().look(task(packages=("no-such-package",)))["no-such-package"] == "missing"


@pytest.mark.parametrize(("skew", "level"), [(0.1, Level.OK), (-5.0, Level.WARN), (90.0, Level.FAIL)])
def test_clocks(skew: float, level: Level) -> None:
    found = judged(Clock(), {}, replace(TWO, skews={"a": 0.01, "b": skew}))
    assert found.level is level
    assert ("b is 5.00 s behind" in found.seen) == (skew == -5)


@pytest.mark.parametrize(("free", "level"), [(50, Level.OK), (8, Level.WARN), (3, Level.FAIL)])
def test_the_fullest_disk_counts(free: int, level: Level) -> None:
    roomy, full = (90 * GIB, 100 * GIB), (free * GIB, 100 * GIB)
    found = judged(Disk(), {"a": {SPILL: roomy, CACHE: roomy}, "b": {SPILL: full, CACHE: roomy}})
    assert found.level is level
    assert found.seen.startswith(f"b: {free} GiB free where Ray spills")
    copies = judged(Disk(), {"a": {SPILL: roomy, CACHE: full}})
    assert copies.level is min(level, Level.WARN, key=list(Level).index), "a full cache stops nothing of Ray's"


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "yet"))
    assert set(Disk().look(task())) == {SPILL, CACHE}


def test_an_object_store_larger_than_shared_memory_is_warned_of() -> None:
    assert judged(SharedMemory(), {"a": 2 * GIB, "b": 2 * GIB}).level is Level.OK
    found = judged(SharedMemory(), {"a": 2 * GIB, "b": 2**26})
    assert (found.level, found.seen) == (Level.WARN, "b: 0.06 GiB for an object store of 1.00 GiB")
    assert "--shm-size" in found.way_out


def test_accelerators_that_ray_and_the_host_disagree_about() -> None:
    none, one = {"GPU": 0, "TPU": 0, "torch": 0}, {"GPU": 1, "TPU": 0, "torch": 1}
    with_gpu = Cluster({"a": NODE, "b": NODE | {"GPU": 1.0}})
    assert judged(Accelerators(), {"a": none, "b": one}, with_gpu, gpus=1.0).level is Level.OK
    gone = judged(Accelerators(), {"a": none, "b": none}, with_gpu)
    assert (gone.level, gone.seen) == (Level.FAIL, "b: Ray offers 1 GPU, the host has 0")
    idle = judged(Accelerators(), {"a": one, "b": one}, with_gpu)
    assert (idle.level, idle.seen) == (Level.WARN, "a: 1 GPU that Ray does not offer")
    few = judged(Accelerators(), {"a": none, "b": one}, with_gpu, gpus=4.0)
    assert few.level is Level.FAIL and "asks for 4 GPUs" in few.seen


def test_gpus_that_torch_cannot_use() -> None:
    with_gpu = Cluster({"a": NODE | {"GPU": 1.0}})
    for torch, said in ((0, "0 of 1 GPUs"), ("none: driver too old", "none: driver too old")):
        found = judged(Accelerators(), {"a": {"GPU": 1, "TPU": 0, "torch": torch}}, with_gpu)
        assert (found.level, found.seen) == (Level.FAIL, f"a: torch can use {said}")


def test_gpus_that_are_to_come() -> None:
    head = {"a": {"GPU": 0, "TPU": 0, "torch": 0}}
    from_zero = Cluster({"a": {}}, elsewhere=True, most={"GPU": 8.0})
    found = judged(Accelerators(), head, from_zero, gpus=4.0)
    assert found.level is Level.WARN and "8 at the most: it waits" in found.seen
    assert judged(Accelerators(), head, from_zero, gpus=9.0).level is Level.FAIL
    unknown = judged(Accelerators(), head, replace(from_zero, most={"GPU": math.inf}), gpus=9.0)
    assert unknown.level is Level.WARN and "nobody can tell" in unknown.seen


def test_what_the_job_itself_would_refuse_is_told_in_its_words() -> None:
    none = {"GPU": 0, "TPU": 0, "torch": 0}
    found = judged(Accelerators(), {"a": none}, Cluster({"a": NODE}, refused="say which slices"))
    assert (found.level, found.way_out) == (Level.FAIL, "say which slices")


def test_cpus_token_and_upload() -> None:
    assert judged(Cpus(), {}, cpus=4.0).level is Level.OK
    assert judged(Cpus(), {}, cpus=4.5).level is Level.WARN
    assert judged(Cpus(), {}, replace(TWO, is_own=True), cpus=4.5).level is Level.OK
    assert judged(Token(), {}).level is Level.OK
    assert judged(Token(), {}, replace(TWO, token=False)).level is Level.WARN
    assert judged(Token(), {}, replace(TWO, token=False, is_own=True)).level is Level.OK
    sizes = {2**20: Level.OK, 30 * 2**20: Level.WARN, 100 * 2**20: Level.FAIL}
    assert {size: judged(Upload(), {}, replace(TWO, upload_bytes=size)).level for size in sizes} == sizes


def test_a_local_path_is_refused_on_two_nodes_unless_it_is_said_to_be_shared() -> None:
    places = {"--out": "/data/run", "--kb": "s3://bucket/kb"}
    found = judged(LocalPaths(), {}, places=places)
    assert found.level is Level.FAIL
    assert "--out /data/run" in found.seen and "--kb" not in found.seen and "--shared-disk" in found.way_out
    assert judged(LocalPaths(), {}, places=places, shared_disk=True).level is Level.OK
    assert judged(LocalPaths(), {}, Cluster({"a": NODE}), places=places).level is Level.OK
    from_zero = judged(LocalPaths(), {}, Cluster({"a": {}}, elsewhere=True), places=places)
    assert from_zero.level is Level.FAIL and "starts more nodes" in from_zero.seen
    assert judged(LocalPaths(), {}, places={"--kb": "s3://bucket/kb"}).level is Level.OK


def test_storage_that_is_not_shared_is_told_in_either_direction(tmp_path: Path) -> None:
    check, here = Storage(), Task(Asked(out=str(tmp_path / "run")), "probe", "driver")
    check.prepare(here)
    elsewhere = replace(here, asked=replace(here.asked, out=str(tmp_path / "another disk")))
    saw = looks([check], elsewhere)["storage"]
    assert isinstance(saw, Failed) and "what the driver wrote" in saw.error
    assert looks([check], replace(here, host="a")) == {"storage": None}
    found = judge(check, Seen(here, TWO, None, {"a": None, "b": None}))
    assert found.level is Level.FAIL
    assert found.seen.startswith("b: what it wrote") and found.seen.endswith("is not to be seen by the driver")
    check.finish(here)
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RaylabError, match="Cannot write"):
        Storage().prepare(Task(Asked(out=str(tmp_path / "file" / "run")), "probe", "driver"))


def test_another_knowledge_base_on_a_node() -> None:
    mine = {"fingerprint": "1" * 32, "entities": 5, "bytes": 2**20}
    assert judged(KnowledgeBase(), {"a": mine}, driver=mine, kb="/kb").seen.startswith(
        "5 entities, 111111111111 on every"
    )
    found = judged(KnowledgeBase(), {"a": mine, "b": mine | {"fingerprint": "2" * 32}}, driver=mine, kb="/kb")
    assert (found.level, found.seen) == (Level.FAIL, "b: fingerprint 222222222222; the driver has 111111111111")


def test_a_knowledge_base_that_does_not_fit() -> None:
    mine = {"fingerprint": "1" * 32, "entities": 5, "bytes": 2**30, "free": 2**31}
    at = "s3://bucket/kb"
    assert judged(KnowledgeBase(), {"a": mine}, driver=mine, kb=at).level is Level.OK
    assert judged(KnowledgeBase(), {"a": mine | {"free": None}}, driver=mine, kb=at).level is Level.OK, "it is there"
    found = judged(KnowledgeBase(), {"a": mine, "b": mine | {"free": 2**20}}, driver=mine, kb=at)
    assert (found.level, found.seen) == (Level.FAIL, "b: 1 MiB free for a copy of 1,024 MiB")


def test_half_of_a_knowledge_base_in_a_bucket(everything: Asked, bucket: str) -> None:
    import fsspec

    fs = fsspec.filesystem("s3")
    fs.put(everything.kb, f"{bucket}/kb", recursive=True)
    there = looks([KnowledgeBase()], task(kb=f"{bucket}/kb"))["knowledge base"]
    assert there["bytes"] > 0 and there["free"] > 0
    fs.pipe(f"{bucket}/kb/names.arrow", b"half")
    assert "names.arrow has 4 bytes" in looks([KnowledgeBase()], task(kb=f"{bucket}/kb"))["knowledge base"].error
    fs.rm(f"{bucket}/kb/names.arrow")
    assert "names.arrow is missing" in looks([KnowledgeBase()], task(kb=f"{bucket}/kb"))["knowledge base"].error


def inputs(kind: str, uri: str) -> Failed | dict[str, str]:
    found: Failed | dict[str, str] = looks([Inputs()], task(inputs={"--it": Input(kind, uri)}))["inputs"]
    return found


def test_labels_that_are_not_there_or_not_all_there(tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "labels"))
    assert "--it" in inputs("store", store.uri).error and "holds no label store" in inputs("store", store.uri).error
    store.write_json("run.json", {})
    assert "is not finished" in inputs("store", store.uri).error
    store.write_json("MANIFEST.json", {"labels": ["labels/0.parquet", "labels/1.parquet"], "rejects": []})
    store.write_parquet("labels/0.parquet", LABEL.empty_table())
    assert "lacks labels/1.parquet, 1 of 2 parts" in inputs("store", store.uri).error
    store.write_parquet("labels/1.parquet", LABEL.empty_table())
    assert inputs("store", store.uri) == {"--it": "--it 2 parts"}
    store.write_bytes("labels/0.parquet", b"no Parquet")
    assert isinstance(inputs("store", store.uri), Failed)


def test_other_runs_and_sets_that_are_not_there(tmp_path: Path) -> None:
    assert "has no checkpoint" in inputs("run", str(tmp_path)).error
    Folder(str(tmp_path)).write_json("checkpoints/LAST.json", {"step": 7})
    assert inputs("run", str(tmp_path)) == {"--it": "--it step 7"}
    assert "no such file" in inputs("set", str(tmp_path / "*.parquet")).error
    one = {"--it": "--it 5 files"}
    assert judged(Inputs(), {"a": one}, driver=one, places={"--it": "x"}).level is Level.OK
    assert judged(Inputs(), {"a": {"--it": "--it 4 files"}}, driver=one, places={"--it": "x"}).level is Level.FAIL
    assert judged(Inputs(), {"a": {}}, driver=one).level is Level.OK, "workers do not read it"


def test_a_source_whose_pictures_are_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "t.jsonl").write_text('{"image": "images/1.jpg", "caption": "x", "key": "k"}\n')
    here = task(source=SourceConfig(uri=str(tmp_path / "t.jsonl")))
    assert looks([SourceReads()], here) == {"source": "1 shards"}
    (tmp_path / "images" / "1.jpg").unlink()
    saw = looks([SourceReads()], here)["source"]
    assert saw == "1 shards, the first picture is refused (missing_image)"
    assert judged(SourceReads(), {"a": "1 shards", "b": saw}, driver="1 shards").level is Level.FAIL
    assert judged(SourceReads(), {"a": saw}, driver=saw).level is Level.WARN


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, int]]]:
    """A server that answers each path by a status."""
    statuses: dict[str, int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}", statuses
    served.shutdown()
    served.server_close()
    thread.join()


def model(name: str, kind: str = "engine") -> tuple[Level, str]:
    return looks([Models()], task(models={"--m": Model(kind, name)}))["models"]["--m"]


def test_an_annotator_behind_an_address(server: tuple[str, dict[str, int]]) -> None:
    address, statuses = server
    statuses["/v1/models"] = 401
    assert model(f"{address}/v1")[0] is Level.OK, "it wants a key: it is there"
    statuses["/v1/models"] = 500
    assert model(f"{address}/v1")[0] is Level.FAIL
    assert "does not answer from here" in model("http://127.0.0.1:9/v1")[1]


def test_models_by_folder_and_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model(str(tmp_path), "clip")[0] is Level.OK
    assert model(str(tmp_path / "nowhere"), "clip") == (
        Level.FAIL,
        f"--m nowhere: {tmp_path}/nowhere: no such file or folder",
    )
    assert "python -m spacy download en_core_web_xl" in model("en_core_web_xl", "spacy")[1]
    assert "HF_HUB_OFFLINE forbids" in model("nobody/nothing", "engine")[1]


def test_models_that_differ_between_nodes() -> None:
    asked = {"models": {"--m": Model("clip", "x")}}
    one, other = {"--m": (Level.OK, "--m x @1")}, {"--m": (Level.OK, "--m x @2")}
    absent = {"--m": (Level.WARN, "--m x is not here yet")}
    assert judged(Models(), {"a": one, "b": one}, driver=one, **asked).seen == "--m x @1"
    assert judged(Models(), {"a": one, "b": other}, driver=one, **asked).level is Level.FAIL
    assert judged(Models(), {"a": one, "b": absent}, driver=one, **asked).level is Level.WARN


def test_wandb(server: tuple[str, dict[str, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", server[0])
    assert WandB().look(task()) == "offline: there is no key; wandb sync sends the run later"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert WandB().look(task()) == f"online, {server[0]}", "404 is an answer"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    seen = WandB().look(task())
    assert seen.startswith("there is a key, and no answer from http://127.0.0.1:9")
    down = judged(WandB(), {"a": seen, "b": seen})
    assert down.level is Level.WARN and "WANDB_MODE=offline" in down.way_out, "no run fails by it"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert WandB().look(task()) == "offline, by WANDB_MODE"
    assert judged(WandB(), {"a": "online", "b": "offline"}).level is Level.WARN


def test_hosts_of_which_the_same_is_said_stand_together() -> None:
    assert together({"a": "x", "b": "y", "c": "x"}) == "a, c: x; b: y"
    assert together(dict.fromkeys("abcde", "x")) == "a, b and 3 more: x"


def test_the_table_and_the_report() -> None:
    findings = [
        Finding("disk", Level.OK, "all is well"),
        Finding("versions", Level.FAIL, "b: torch missing", "install it"),
    ]
    assert table(findings).splitlines() == [
        "disk      ok    all is well",
        "versions  fail  b: torch missing",
        "                -> install it",
    ]
    found = report(findings, 1.23)
    assert found["level"] == "fail" and found["seconds"] == 1.2
    assert found["checks"][1] == {
        "check": "versions",
        "level": "fail",
        "seen": "b: torch missing",
        "way_out": "install it",
    }


def test_a_checkpoint_to_start_from_brings_encoder_and_tokenizer():
    config = git_large()
    assert set(of_train(config, 1).models) == {"--task.encoder", "--task.tokenizer"}
    task = replace(config.task, pretrained="/models/git-base")
    assert of_train(replace(config, task=task), 1).models == {
        "--task.pretrained": Model("tokenizer", "/models/git-base")
    }


def test_a_run_that_writes_no_captions_wants_no_tokenizer():
    assert set(of_train(mug_b16(), 1).models) == {"--task.tokenizer"}
    assert of_train(mae_b16(), 1).models == {}


def test_what_an_encoder_begins_with_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = finetune_miniworld()

    def told(weights):
        task = replace(config.task, encoder=replace(config.task.encoder, weights=weights))
        asked = of_train(replace(config, task=task), 1)
        [text] = [_said(flag, model) for flag, model in asked.models.items()]
        return *text, asked.places.get("--task.encoder.weights")

    (tmp_path / "mae.pth").write_bytes(b"weights")
    level, _, place = told(str(tmp_path / "mae.pth"))
    assert (level, place) == (Level.OK, str(tmp_path / "mae.pth"))
    for missing in (str(tmp_path / "no-run"), "runs/of/nobody"):
        level, text, _ = told(missing)
        assert level is Level.FAIL and "no such file or folder" in text
    level, text, place = told("facebook/vit-mae-nowhere")
    assert level is Level.FAIL and "HF_HUB_OFFLINE" in text and place is None


def test_word_vectors_are_looked_for(tmp_path):
    config = devise_miniworld()
    asked = of_train(replace(config, task=replace(config.task, words=str(tmp_path))), 1)
    with pytest.raises(RaylabError, match=r"--task.words: .* holds no word vectors"):
        Inputs().look(Task(replace(asked, inputs={"--task.words": asked.inputs["--task.words"]}), "probe", "driver"))
    assert "--task.words" not in of_train(devise_random_miniworld(), 1).inputs
