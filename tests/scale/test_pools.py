"""Bottlenecks, machines and pools that follow from rates, in cases that can be reckoned by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.errors import RaylabError
from raylab.label.store import THREADS
from raylab.scale import pools
from raylab.scale.cluster import Cluster, NodeType
from raylab.scale.flow import Node, simulate
from raylab.scale.pools import fit
from raylab.scale.work import Phase, StageWork
from raylab.session import READ_CPUS

READ = StageWork("source", 1e-4)
TEXT = StageWork("mentions", 1e-3)
LOOK = StageWork("select", 2e-3, gpu_s={"L4": 5e-4, "H100": 1e-4}, link_bytes=40_000)
HEAD = NodeType("head", 1, 8.0)


def cluster(*workers: NodeType, head: NodeType | None = HEAD) -> Cluster:
    return Cluster("here", workers, head)


def cpu(count: int) -> NodeType:
    return NodeType("cpu", count, 16.0, link=1e9)


def gpu(count: int, **more: object) -> NodeType:
    return NodeType("gpu", count, 16.0, gpus=1, gpu="L4", **{"link": 1e9, **more})  # type: ignore[arg-type]


def test_constants_are_those_of_the_rooms_that_they_speak_of():
    assert (pools.READ_CPUS, pools.COMMIT_THREADS) == (READ_CPUS, THREADS)


def test_cores_alone_share_by_what_the_steps_take():
    found = fit(Phase("label", READ, (TEXT, StageWork("select", 3e-3))), cluster(cpu(10)))
    assert found.bottleneck.what == "cores: select takes 73% of them"
    assert found.bottleneck.rows_per_s == pytest.approx(160 / 4.1e-3)
    assert [pool.actors for pool in found.pools[1:]] == [40, 120]


def test_gpus_are_named_where_they_hold_all_back_and_spare_machines_are_left_out():
    found = fit(Phase("label", READ, (TEXT, LOOK)), cluster(cpu(16), gpu(8)))
    assert found.bottleneck.what == "GPUs: select"
    assert found.bottleneck.rows_per_s == pytest.approx(8 / 5e-4)
    machines = {one.name: one.count for one in found.workers}
    assert machines["gpu"] == 8
    assert machines.get("cpu", 0) == 0  # 16,000 rows/s take 50 cores; the GPU nodes have 128


def test_cores_beside_the_gpu_are_named_where_they_are_too_few():
    slow_decode = StageWork("select", 2e-2, gpu_s={"L4": 5e-4})
    found = fit(Phase("label", READ, (slow_decode,)), cluster(gpu(8), cpu(8)))
    assert found.bottleneck.what == "cores beside the GPUs: select"
    assert found.bottleneck.rows_per_s == pytest.approx(8 * 16 / 2e-2)


def test_the_network_is_named():
    found = fit(Phase("label", READ, (TEXT, LOOK)), cluster(cpu(16), gpu(8, link=1e7)))
    assert found.bottleneck.what == "network of the GPU nodes: select"
    assert found.bottleneck.rows_per_s == pytest.approx(8 * 1e7 / 40_000)


def test_the_driver_is_named_and_has_its_threads_alone():
    found = fit(Phase("label", READ, (TEXT,), driver_s=1e-3), cluster(cpu(10)))
    assert found.bottleneck.what == "driver: commits on the head"
    assert found.bottleneck.rows_per_s == pytest.approx(4_000)
    assert sum(one.count for one in found.workers) == 1  # 4,000 rows/s take 4.4 cores


def test_faster_gpus_take_more_rows():
    big = NodeType("big", 1, 192.0, gpus=8, gpu="H100", link=1e10)
    found = fit(Phase("label", READ, (LOOK,)), cluster(gpu(1), big))
    # of the eight H100 the cores beside them allow more than the GPUs: 192 / 2e-3 against 8 / 1e-4
    assert found.bottleneck.rows_per_s == pytest.approx(1 / 5e-4 + 8 / 1e-4, rel=0.2)


def test_an_engine_on_four_gpus_wants_them_on_one_node():
    stage = StageWork("annotator", 0.0, gpu_s={"L4": 0.3}, gpus_a_copy=4, shares_gpu=False)
    with pytest.raises(RaylabError, match="needs 4 GPUs on one node"):
        fit(Phase("annotate", READ, (stage,)), cluster(gpu(8)))
    six = NodeType("six", 2, 48.0, gpus=6, gpu="L4")
    found = fit(Phase("annotate", READ, (stage,)), cluster(six))
    assert found.pools[1].actors == 2 and found.pools[1].num_gpus == 4
    assert found.bottleneck.rows_per_s == pytest.approx(2 * 4 / 0.3)


COSTS = st.floats(1e-5, 1e-1)


@settings(max_examples=60, deadline=None)
@given(
    text=COSTS,
    look=COSTS,
    on_gpu=st.none() | COSTS,
    cpus=st.integers(0, 6),
    gpus=st.integers(1, 4),
    cores=st.integers(1, 64),
    cards=st.integers(1, 8),
)
def test_pools_fit_the_nodes(  # noqa: PLR0917
    text, look, on_gpu, cpus, gpus, cores, cards
):
    stages = (StageWork("mentions", text), StageWork("select", look, gpu_s={"L4": on_gpu} if on_gpu else {}))
    types = (NodeType("cpu", cpus, float(cores)), NodeType("gpu", gpus, float(cores), gpus=cards, gpu="L4"))
    found = fit(Phase("label", READ, stages), cluster(*types))
    for index, node in enumerate(found.nodes):
        actors = found.pools[1:]
        asked = sum(pool.on_nodes[index] * pool.num_cpus for pool in actors)
        assert asked <= max(node.cores, pools.READ_CPUS) or sum(one.cores for one in found.nodes) < len(stages)
        assert sum(pool.on_nodes[index] * pool.num_gpus for pool in actors) <= node.gpus + 1e-9
    assert all(pool.actors >= 1 for pool in found.pools)


@settings(max_examples=25, deadline=None)
@given(text=COSTS, look=COSTS, nodes=st.integers(1, 5))
def test_more_nodes_are_never_slower(text, look, nodes):
    phase = Phase("label", READ, (StageWork("mentions", text), StageWork("select", look)))

    def seconds(count: int) -> float:
        found = fit(phase, cluster(cpu(count)))
        machines = [Node(one.cores) for one in found.nodes]
        return simulate(phase, machines, [pool.on_nodes for pool in found.pools], 200_000, head_cores=8.0).seconds

    assert seconds(nodes + 1) <= seconds(nodes) * 1.02  # the last parcels may fall less well


def test_the_simulator_agrees_with_the_bottleneck_where_nothing_else_counts():
    phase = Phase("label", READ, (TEXT, LOOK))
    found = fit(phase, cluster(cpu(16), gpu(8)))
    nodes = [Node(one.cores, one.gpus, one.gpu, one.link) for one in found.nodes]
    rows = 3_000_000
    outcome = simulate(phase, nodes, [pool.on_nodes for pool in found.pools], rows, head_cores=8.0)
    assert rows / outcome.seconds == pytest.approx(found.bottleneck.rows_per_s, rel=0.03)
