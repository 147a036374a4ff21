from __future__ import annotations

import time
from collections import Counter

import pyarrow as pa
import pytest

from raylab.errors import RaylabError
from raylab.label.isolate import Isolated, survive
from raylab.schema import Reason, reject, set_column, widen


def rows(keys: str) -> pa.Table:
    return widen(pa.table({"row_id": list(keys), "shard": ["s"] * len(keys), "key": list(keys)}))


class Step:
    """Writes the entity id; raises for a batch that holds one of the poisonous keys."""

    def __init__(self, poison: str = "", error: Exception | None = None) -> None:
        self.poison, self.error = poison, error or ValueError("bad")
        self.calls = 0

    def __call__(self, batch: pa.Table) -> pa.Table:
        self.calls += 1
        if any(key in self.poison for key in batch["key"].to_pylist()):
            raise self.error
        return set_column(batch, "entity_id", batch["key"])


def reasons(batch: pa.Table) -> dict[str, str]:
    return {k: r for k, r in zip(batch["key"].to_pylist(), batch["reject_reason"].to_pylist()) if r}


@pytest.mark.parametrize("poison", ["", "a", "h", "dg", "abcdefgh"])
def test_only_the_rows_that_raise_are_lost(poison):
    result = Isolated("toy", Step(poison))(rows("abcdefgh"))
    assert result["key"].to_pylist() == list("abcdefgh")
    assert reasons(result) == dict.fromkeys(poison, "step_error")
    assert [e is None for e in result["entity_id"].to_pylist()] == [k in poison for k in "abcdefgh"]
    assert all(s >= 0 for name in ("seconds_toy", "cpu_toy") for s in result[name].to_pylist())


def test_core_seconds_are_told_apart_from_waiting():
    def wait(batch: pa.Table) -> pa.Table:
        time.sleep(0.2)
        return batch

    result = Isolated("toy", wait)(rows("ab"))
    assert sum(result["seconds_toy"].to_pylist()) >= 0.2 > sum(result["cpu_toy"].to_pylist())


def test_a_lost_row_tells_what_and_where():
    result = Isolated("toy", Step("c"))(rows("abc"))
    assert result["reject_detail"][2].as_py().startswith("ValueError: bad (__call__:")
    assert result["reject_step"][2].as_py() == "toy"


def test_one_poison_row_costs_about_two_log_n_calls():
    step = Step("q")
    Isolated("toy", step)(rows("abcdefghijklmnopqrstuvwxyz012345"))
    assert step.calls <= 2 * 5 + 1


@pytest.mark.parametrize("error", [RaylabError("no model"), MemoryError()])
def test_what_is_no_rows_fault_ends_the_run(error):
    with pytest.raises(type(error)):
        Isolated("toy", Step("c", error))(rows("abc"))


def test_a_step_that_loses_rows_is_found_out():
    with pytest.raises(RaylabError, match="'toy' added, dropped or moved rows"):
        Isolated("toy", lambda batch: batch.slice(1))(rows("abc"))


class MemoryLedger:
    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        self.begun[key] += 1
        return self.begun[key] - 1

    def end(self, key: str) -> None:
        del self.begun[key]


class ProcessDied(BaseException):
    """Stands for the end of the process: nothing after it runs."""


class Killer:
    """Work that ends the process at certain rows, as a native crash does."""

    def __init__(self, poison: str) -> None:
        self.poison, self.deaths = poison, 0

    def __call__(self, batch: pa.Table) -> pa.Table:
        live = [k for k, r in zip(batch["key"].to_pylist(), batch["reject_reason"].to_pylist()) if r is None]
        if any(key in self.poison for key in live):
            self.deaths += 1
            raise ProcessDied
        return set_column(batch, "entity_id", batch["key"])


def until_it_ends(batch: pa.Table, ledger: MemoryLedger, work: Killer) -> pa.Table:
    for _ in range(20):
        try:
            return survive(batch, "pool", ledger, work)
        except ProcessDied:
            continue
    raise AssertionError("it never ends")


@pytest.mark.parametrize("poison", ["", "c", "ah", "abcd"])
def test_a_row_that_kills_the_process_is_given_up_and_the_others_live(poison):
    ledger, work = MemoryLedger(), Killer(poison)
    result = until_it_ends(rows("abcdefgh"), ledger, work)
    assert result["key"].to_pylist() == list("abcdefgh")
    assert reasons(result) == dict.fromkeys(poison, Reason.WORKER_CRASH.value)
    assert work.deaths == (1 + 2 * len(poison) if poison else 0)
    assert {key[-1] for key, n in ledger.begun.items() if n} == set(poison), "only the verdicts stay noted"


def test_one_death_by_chance_condemns_nobody():
    class Once(Killer):
        def __call__(self, batch: pa.Table) -> pa.Table:
            try:
                return super().__call__(batch)
            except ProcessDied:
                self.poison = ""
                raise

    result = until_it_ends(rows("abcdefgh"), MemoryLedger(), Once("d"))
    assert reasons(result) == {}


def test_a_batch_without_live_rows_needs_no_ledger():
    batch = reject(rows("ab"), "source", [Reason.BAD_ROW] * 2)
    assert survive(batch, "pool", MemoryLedger(), lambda b: b).equals(batch)
