"""The simulator against what can be reckoned by hand."""

from __future__ import annotations

import pytest

from raylab.scale.flow import Node, simulate
from raylab.scale.shared import Shared
from raylab.scale.work import Phase, StageWork

READ = StageWork("source", 1e-4)
SLOW = StageWork("slow", 2e-3)
FAST = StageWork("fast", 1e-3)


def test_jobs_share_what_there_is_and_none_is_faster_than_one():
    cores = Shared(2.0)
    for name, work in (("a", 1.0), ("b", 2.0), ("c", 2.0)):  # three on two cores: each at 2/3
        cores.add(0.0, work, name)
    assert cores.next_end() == pytest.approx(1.5)
    assert cores.pop(1.5) == "a"  # the others have one second left each, and a core each
    assert cores.next_end() == pytest.approx(2.5)
    assert [cores.pop(2.5), cores.pop(2.5)] == ["b", "c"]
    assert cores.busy == pytest.approx(5.0)


def test_one_core_takes_the_sum_of_all_work():
    phase = Phase("label", READ, (FAST, SLOW), driver_s=1e-4)
    outcome = simulate(phase, [Node(1.0)], [[1], [1], [1]], 10_000)
    assert outcome.seconds == pytest.approx(10_000 * 3.2e-3)


def test_the_slowest_pool_sets_the_pace_and_the_others_wait_for_it():
    outcome = simulate(Phase("label", READ, (FAST, SLOW)), [Node(8.0)], [[1], [1], [2]], 50_000)
    assert outcome.last_s == pytest.approx(50_000 * 1e-3, rel=0.02)  # 1 / 1e-3 against 2 / 2e-3: both take 50 s
    outcome = simulate(Phase("label", READ, (FAST, SLOW)), [Node(8.0)], [[1], [1], [1]], 50_000)
    assert outcome.last_s == pytest.approx(50_000 * 2e-3, rel=0.02)


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 12_345, 30_000_000])
def test_every_row_passes_every_stage_once(rows):
    outcome = simulate(Phase("label", READ, (FAST, SLOW)), [Node(4.0)] * 2, [[1, 0], [1, 1], [2, 2]], rows)
    assert outcome.rows == [rows] * 3


def test_no_rows_end_at_once():
    assert simulate(Phase("label", READ, (FAST,)), [Node(1.0)], [[1], [1]], 0).seconds == 0


def test_what_a_lost_node_had_in_hand_is_done_again_and_nothing_is_counted_twice():
    nodes = [Node(4.0, ready_s=30.0, losses_per_s=1 / 100)] * 3
    placed = [[1, 1, 0], [1, 1, 1], [3, 3, 3]]
    phase = Phase("label", READ, (FAST, SLOW), driver_s=1e-5)
    calm = simulate(phase, [Node(4.0, ready_s=30.0)] * 3, placed, 1_000_000, head_cores=2.0)
    stormy = [simulate(phase, nodes, placed, 1_000_000, head_cores=2.0, seed=seed) for seed in range(3)]
    for one in stormy:
        assert one.rows == [1_000_000] * 3
        assert one.losses > 0
        assert one.seconds > calm.seconds
        assert one.busy[-1] > calm.busy[-1]  # work that was lost was done
    assert len({one.seconds for one in stormy}) == 3


def test_gpu_cores_and_link_work_at_once_and_the_slowest_counts():
    def seconds(**more: object) -> float:
        stage = StageWork("select", 1e-3, **more)  # type: ignore[arg-type]
        node = Node(4.0, gpus=1.0, gpu="L4", link=1e6)
        return simulate(Phase("label", StageWork("source", 0.0), (stage,)), [node], [[1], [4]], 100_000).seconds

    assert seconds() == pytest.approx(25, rel=0.02)  # four actors, four cores
    assert seconds(gpu_s={"L4": 1e-3}) == pytest.approx(100, rel=0.02)  # one card
    assert seconds(gpu_s={"L4": 1e-4}) == pytest.approx(25, rel=0.02)
    assert seconds(link_bytes=2_000) == pytest.approx(200, rel=0.02)


def test_a_copy_on_four_gpus_answers_as_fast_as_four_on_one():
    def seconds(gpus: float, actors: int) -> float:
        stage = StageWork("annotator", 0.0, gpu_s={"A100": 0.4}, gpus_a_copy=gpus, shares_gpu=False, batch_rows=8)
        node = Node(8.0, gpus=4.0, gpu="A100")
        return simulate(Phase("annotate", StageWork("r", 0.0), (stage,)), [node], [[1], [actors]], 8_000).seconds

    assert seconds(4.0, 1) == pytest.approx(800)
    assert seconds(1.0, 4) == pytest.approx(800, rel=0.03)


def test_start_and_end_are_counted_and_actors_start_side_by_side():
    stage = StageWork("all", 1e-3, start_cpu_s=6.0, start_wait_s=1.0)
    phase = Phase("label", READ, (stage,), start_cpu_s=2.0, start_wait_s=3.0, end_cpu_s=4.0, end_row_s=1e-3)
    two = simulate(phase, [Node(2.0)], [[1], [2]], 256)
    assert two.ready_s == pytest.approx(3 + 2 + 6 + 1, abs=0.1)
    assert two.first_s == pytest.approx(two.ready_s + 256 * 1e-3, abs=0.1)
    assert two.seconds - two.last_s == pytest.approx(4 + 256 * 1e-3)
    one = simulate(phase, [Node(1.0)], [[1], [2]], 256)
    assert one.first_s - two.first_s == pytest.approx(6, abs=0.1)


def test_the_report_looks_at_so_many_rows_and_no_more():
    phase = Phase("label", READ, (), end_cpu_s=1.0, end_row_s=1e-3, report_row_s=1e-2, report_rows=100)
    assert [phase.end_s(rows) for rows in (100, 200)] == pytest.approx([1 + 0.1 + 1, 1 + 0.2 + 1])


def test_the_driver_can_be_the_bottleneck():
    phase = Phase("label", READ, (FAST,), driver_s=1e-2)
    outcome = simulate(phase, [Node(8.0)], [[1], [8]], 10_000, head_cores=2.0)
    assert outcome.last_s < 3
    assert outcome.seconds == pytest.approx(50, rel=0.05)
