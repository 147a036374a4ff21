"""Machines from files and lines; what is wrong is named with file and key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raylab.errors import RaylabError
from raylab.scale.cluster import parse_nodes, parse_prices, read_cluster

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "cluster"


def test_the_file_for_aws():
    found = read_cluster(str(CLUSTERS / "gpu.yaml"), {"gpu": 0.5})
    workers = {one.name: one for one in found.workers}
    assert {name: one.count for name, one in workers.items()} == {"cpu": 16, "gpu": 8, "gpu_large": 1}
    gpu = workers["gpu"]
    assert (gpu.cores, gpu.gpus, gpu.gpu, gpu.spot, gpu.machine) == (16, 1, "L4", True, "g6.4xlarge")
    assert gpu.link == pytest.approx(10e9 / 8)
    assert (gpu.price, gpu.price_said) == (0.5, "--price")
    assert workers["cpu"].price and "2026" in workers["cpu"].price_said
    assert workers["gpu_large"].price is None  # nobody told
    assert found.head and found.head.cores == 8 and not found.head.spot and found.grows


def test_slices_have_hosts():
    workers = {one.name: one for one in read_cluster(str(CLUSTERS / "tpu.yaml"), {}).workers}
    assert (workers["v6e_16"].count, workers["v6e_16"].tpus, workers["v6e_16"].gpus) == (4, 4, 0)
    assert (workers["v6e_8"].count, workers["v6e_8"].gpu) == (1, "V6E")


@pytest.mark.parametrize("name", ["gpu-gcp.yaml", "kuberay/gpu-cluster.yaml", "kuberay/tpu-cluster.yaml"])
def test_the_other_files_are_understood(name):
    found = read_cluster(str(CLUSTERS / name), {})
    assert any(one.gpus or one.tpus for one in found.workers) and found.head
    assert all(one.cores > 0 and one.count > 0 for one in found.workers)


def test_own_machines_are_told_by_a_line():
    with pytest.raises(RaylabError, match=r"local\.yaml does not say how many cores .* --nodes 3x16CPU"):
        read_cluster(str(CLUSTERS / "local.yaml"), {})
    found = parse_nodes("4x16CPU,2x32CPU+4L4", {"32CPU+4L4": 3.0})
    assert [(one.count, one.cores, one.gpus, one.gpu) for one in found.workers] == [(4, 16, 0, ""), (2, 32, 4, "L4")]
    assert [one.price for one in found.workers] == [None, 3.0]
    assert found.head is None


@pytest.mark.parametrize("line", ["16CPU", "4x", "0x16CPU", "4x16", "4x16CPU+L4", "4x16CPU;2x8CPU", ""])
def test_a_line_that_says_nothing(line):
    with pytest.raises(RaylabError, match="is not of the form 4x16CPU"):
        parse_nodes(line, {})


def changed(tmp_path: Path, change) -> str:
    document = yaml.safe_load((CLUSTERS / "gpu.yaml").read_text())
    change(document)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["available_node_types"]["gpu"].pop("resources"), r"mine\.yaml: available_node_types\.gpu\.res"),
        (lambda d: d["available_node_types"]["gpu"]["resources"].pop("CPU"), r"gpu\.resources\.CPU is missing"),
        (lambda d: d["available_node_types"]["cpu"].update(max_workers="many"), r"cpu\.max_workers must be a number"),
        (lambda d: d["available_node_types"]["cpu"]["resources"].update(CPU=-1), r"cpu\.resources\.CPU must be"),
        (lambda d: d.update(head_node_type="haed"), "head_node_type 'haed' is not in available_node_types"),
        (lambda d: d.pop("head_node_type"), r"mine\.yaml: head_node_type is missing"),
        (lambda d: d.pop("available_node_types"), "has neither available_node_types"),
    ],
)  # fmt: skip
def test_a_file_that_lacks_something_names_it(tmp_path, change, said):
    with pytest.raises(RaylabError, match=said):
        read_cluster(changed(tmp_path, change), {})


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(RaylabError, match=r"--cluster .*nothing\.yaml: No such file"):
        read_cluster(str(tmp_path / "nothing.yaml"), {})
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(RaylabError, match=r"bad\.yaml is no YAML"):
        read_cluster(str(tmp_path / "bad.yaml"), {})


def test_max_workers_of_all_together_holds(tmp_path):
    found = read_cluster(changed(tmp_path, lambda d: d.update(max_workers=20)), {})
    assert [(one.name, one.count) for one in found.workers] == [("cpu", 16), ("gpu", 4)]


def test_prices_and_types_that_are_none():
    with pytest.raises(RaylabError, match=r"--price names no node type .*: 'gpus'\. Did you mean 'gpu'"):
        read_cluster(str(CLUSTERS / "gpu.yaml"), {"gpus": 1.0})
    with pytest.raises(RaylabError, match="--price: gpu=cheap must be a number"):
        parse_prices(["gpu=cheap"])
    with pytest.raises(RaylabError, match=r"no node type 'cpus'\. Did you mean 'cpu'"):
        read_cluster(str(CLUSTERS / "gpu.yaml"), {}).only(["cpus"])
