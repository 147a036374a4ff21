"""What a labeling run is: its config, and the steps and pools that follow from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from raylab.errors import RaylabError
from raylab.label.candidates import CandidatesConfig
from raylab.label.given import GivenConfig
from raylab.label.link import LinkConfig
from raylab.label.mentions import MentionsConfig
from raylab.label.neighbours import NeighboursConfig
from raylab.label.select import SelectConfig
from raylab.label.step import StepConfig
from raylab.sources.base import SourceConfig
from raylab.storage import is_one_hosts
from raylab.tracking import TrackingConfig, check_installed


@dataclass(frozen=True)
class Pool:
    """The actors that run a step."""

    min_actors: int = 1
    """Actors started at once."""
    max_actors: int = 1
    """Ray Data adds actors up to this number while rows wait for them."""
    num_cpus: float = 1.0
    """CPUs an actor; fractions share a core."""
    num_gpus: float = 0.0
    """GPUs an actor; fractions share a card. Above 0 the step runs on ``cuda``."""
    batch_rows: int = 256
    """Rows in one call of the step."""
    join_previous: bool = False
    """Run in the actors of the step before instead of in a pool of one's own: rows are not copied between them."""


@dataclass(frozen=True)
class Pools:
    """One pool a step."""

    given: Pool = field(default_factory=lambda: Pool(batch_rows=4096))
    mentions: Pool = field(default_factory=Pool)
    candidates: Pool = field(default_factory=lambda: Pool(join_previous=True))
    neighbours: Pool = field(default_factory=lambda: Pool(join_previous=True))
    link: Pool = field(default_factory=lambda: Pool(join_previous=True))
    select: Pool = field(default_factory=Pool)


@dataclass(frozen=True)
class StoreConfig:
    """How labels are kept."""

    shards_per_segment: int = 1
    """Input shards whose labels are committed together: the unit of resuming, and of one Parquet part."""
    min_entity_images: int = 5
    """Entities with fewer labelled images are cut in a second pass (MOFI; 1 keeps all)."""


@dataclass(frozen=True)
class Prices:
    """What an hour costs, for the estimate of a dry run. In your currency."""

    cpu_hour: float = 0.04
    gpu_hour: float = 2.5
    million_prompt_tokens: float = 0.15
    """Of an annotator behind an address."""
    million_answer_tokens: float = 0.6


@dataclass(frozen=True)
class LabelConfig:
    """A labeling run. Everything that changes the labels is in here, and lies beside them as config.json."""

    recipe: str = "i2e"
    """The recipe's name, for the record."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """The pairs."""
    kb: str = ""
    """The knowledge base's folder, made by jobs/build_kb.py."""
    out: str = ""
    """Where labels, rejects, summary and report go: a folder or a cloud URI. The same line again resumes there."""
    shared_disk: bool = False
    """Source, kb and out are paths of a disk that every node of the cluster mounts at the same place."""
    given: GivenConfig = field(default_factory=GivenConfig)
    """The only step where labels are given: those below find them out."""
    mentions: MentionsConfig = field(default_factory=MentionsConfig)
    """Step 1: which words name something."""
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    """Step 2: which entities they may mean."""
    neighbours: NeighboursConfig = field(default_factory=NeighboursConfig)
    """Step 2, second source: entities whose names lie near the whole caption."""
    link: LinkConfig = field(default_factory=LinkConfig)
    """Step 3: what the text alone says."""
    select: SelectConfig = field(default_factory=SelectConfig)
    """Step 4: what the image says."""
    pools: Pools = field(default_factory=Pools)
    """Actors and resources; they do not change the labels."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Segments and the second pass."""
    track: TrackingConfig = field(default_factory=TrackingConfig)
    """W&B."""
    prices: Prices = field(default_factory=Prices)
    """For --dry-run."""
    dry_run: bool = False
    """Print the plan with measured rates and a cost for --rows rows, label nothing."""
    rows: int = 1_000_000
    """The number of rows that a dry run estimates."""

    def step_configs(self) -> dict[str, StepConfig]:
        """Return the steps in the order of the flow. A step that is switched off is left out."""
        if self.given.enabled:
            return {"given": self.given}
        steps: dict[str, StepConfig] = {"mentions": self.mentions, "candidates": self.candidates}
        if self.neighbours.enabled:
            steps["neighbours"] = self.neighbours
        return steps | {"link": self.link, "select": self.select}

    def places(self) -> dict[str, str]:
        """Return what workers open, by its flag."""
        found = {"--source": self.source.uri, "--kb": self.kb, "--out": self.out}
        local = filter(is_one_hosts, self.select.leak.images)
        return found | {"--select.leak.images": next(local, "")}


NOT_IN_LABELS = ("recipe", "kb", "out", "shared_disk", "pools", "track", "prices", "dry_run", "rows")
"""Fields of `LabelConfig` that may change between a run and its resumption."""


@dataclass(frozen=True)
class Stage:
    """Steps that share one pool of actors."""

    steps: tuple[str, ...]
    pool: Pool

    @property
    def name(self) -> str:
        """The names of the steps, joined."""
        return "+".join(self.steps)

    @property
    def device(self) -> str:
        """Where the steps' models run."""
        return "cuda" if self.pool.num_gpus else "cpu"


def stages(config: LabelConfig) -> list[Stage]:
    """Group the steps of the run into stages, in order.

    A stage takes the pool of its first step; a step joins when its own pool says so.

    Raises:
        RaylabError: a pool whose numbers make no sense.
    """
    pools = {f.name: getattr(config.pools, f.name) for f in fields(config.pools)}
    found: list[Stage] = []
    for name in config.step_configs():
        pool = pools[name]
        if not 1 <= pool.min_actors <= pool.max_actors or pool.batch_rows < 1:
            raise RaylabError(f"pools.{name}: needs 1 <= min_actors <= max_actors and batch_rows >= 1, got {pool}.")
        if pool.join_previous and found:
            found[-1] = Stage((*found[-1].steps, name), found[-1].pool)
        else:
            found.append(Stage((name,), pool))
    return found


def check(config: LabelConfig) -> None:
    """Refuse a config that cannot run, before anything is started.

    Raises:
        RaylabError: --source, --kb or --out is missing, an address holds a password, or W&B is not installed.
    """
    given = {"source": config.source.uri, "kb": config.kb, "out": config.out}
    for name, value in given.items():
        if not value:
            raise RaylabError(f"--{name} is missing: python jobs/label.py --source URI --kb DIR --out DIR")
    refuse_passwords(given.values())
    check_installed(config.track)


def refuse_passwords(addresses: Iterable[str]) -> None:
    """Raise `RaylabError` where an address holds a password."""
    if any(re.search(r"://[^/@]*:[^/@]*@", address) for address in addresses):
        raise RaylabError("An address holds a password, and configs are written down: give it by the environment.")
