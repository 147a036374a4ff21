"""What an annotation run is: its config. Everything that changes an answer is in here, prompts by their hash."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from raylab.annotate.prompts import Prompt, load_prompt
from raylab.errors import RaylabError
from raylab.label import plan as label_plan
from raylab.label.plan import LabelConfig
from raylab.schema import Reason
from raylab.tracking import TrackingConfig


@dataclass(frozen=True)
class EngineConfig:
    """A model, and where it runs: under vLLM in the job's own actors, or behind an OpenAI-compatible server."""

    model: str = ""
    """A model's name or folder, served by vLLM in the job's own actors; or an address such as http://host:8000/v1.
    Empty: none."""
    revision: str | None = None
    """Of a model on the hub."""
    served_name: str = ""
    """For an address: the model's name there; empty takes the only one that the server lists."""
    dtype: str = "auto"
    """Of the weights: auto, bfloat16, float16, float32."""
    tensor_parallel: int = 1
    """GPUs that share one copy of the model."""
    min_actors: int = 1
    """Copies of the model started at once; for an address, processes that send requests."""
    max_actors: int = 1
    """Ray Data adds copies up to this number while requests wait."""
    num_gpus: float = 1.0
    """GPUs a copy needs (with tensor parallelism: one for each share). 0: vLLM's CPU build."""
    num_cpus: float = 1.0
    """CPUs a copy reserves."""
    batch_rows: int = 32
    """Requests handed over at once."""
    concurrent_batches: int = 8
    """Such batches in the engine at the same time: nobody waits for a slow row of another batch."""
    context_tokens: int = 4096
    """Tokens that prompt, picture and answer may take together."""
    image_tokens: int = 256
    """Tokens that a picture may take: pictures are made smaller before they travel."""
    pixels_per_token: int = 784
    """Pixels of a picture that one token stands for: 28 x 28 for Qwen2-VL and Qwen2.5-VL, 32 x 32 for Qwen3-VL."""
    gpu_memory: float = 0.9
    """Share of a GPU's memory that vLLM takes."""
    extra: str = "{}"
    """More arguments for vLLM's engine, as a JSON object: '{"quantization": "fp8", "max_num_seqs": 512}'."""
    max_restarts: int = 3
    """An engine that dies is started again so many times; then the run ends with a message, its answers kept."""
    concurrency: int = 64
    """For an address: requests under way at once, from each process."""
    timeout_s: float = 120.0
    """For an address: seconds after which a request counts as failed and is sent again."""
    give_up_s: float = 600.0
    """For an address: seconds without a single answer after which the run ends with a message, its answers kept."""
    api_key_env: str = "OPENAI_API_KEY"
    """For an address: the environment variable that holds the key. The key itself is written nowhere."""

    @property
    def is_address(self) -> bool:
        """Whether the model is behind a server."""
        return self.model.startswith(("http://", "https://"))

    def extra_arguments(self) -> dict[str, Any]:
        """Return `extra` as a dictionary.

        Raises:
            RaylabError: it is not a JSON object.
        """
        wanted = f"The extra arguments of {self.model} must be a JSON object, such as '{{\"max_num_seqs\": 64}}'"
        try:
            value = json.loads(self.extra)
        except ValueError as error:
            raise RaylabError(f"{wanted}, and are no JSON ({error}): {self.extra}") from error
        if not isinstance(value, dict):
            raise RaylabError(f"{wanted}: {self.extra}")
        return value


@dataclass(frozen=True)
class PromptsConfig:
    """Which prompts are used: names of shipped ones (``verify/rew-1``), or paths of files."""

    first: str = "verify/rew-1"
    """Call 1: verify or correct; or one that names without a candidate (``name/rew-1``)."""
    questions: str = "questions/rew-1"
    """Call 2; empty leaves it out."""
    describe: str = "describe/rew-1"
    """What a describer is asked, where there is one."""


@dataclass(frozen=True)
class AnswersConfig:
    """How answers are drawn and judged."""

    temperature: float = 0.0
    """Of first attempts."""
    retry_temperature: float = 0.4
    """Of further ones: at 0 the same request gives the same answer again."""
    seed: int = 0
    attempts: int = 3
    """Requests for one call of one row, at most."""
    first_tokens: int = 160
    """Tokens that an answer to call 1 may have; an answer that is cut off gets twice as many the next time."""
    questions_tokens: int = 256
    """The same for call 2."""
    describe_tokens: int = 256
    """The same for a description."""
    summary_chars: int = 1200
    """Characters of an entity's summary that are told."""
    rationale_chars: int = 600
    """Longer rationales are refused."""
    min_confidence: float = 0.0
    """Rows whose decision and title have a lower probability are rejected. Choose it by the audit: `label.audit`."""
    close_match: float = 0.88
    """Likeness, 0..1, from which a corrected title counts as a misspelt entity's name."""


@dataclass(frozen=True)
class RewConfig(LabelConfig):
    """An annotation run: candidates by the labeling steps, or from a label store, and what an LLM says of them.

    Where `source` is a label store, the labeling steps' settings are those of its own run.
    """

    recipe: str = "rew"
    annotator: EngineConfig = field(default_factory=EngineConfig)
    """The model that verifies, corrects, explains and asks."""
    describer: EngineConfig = field(default_factory=EngineConfig)
    """The open-model variant: a vision-language model that describes each picture for an annotator that only reads."""
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    answers: AnswersConfig = field(default_factory=AnswersConfig)
    rescue: tuple[Reason, ...] = (Reason.LOW_SCORE, Reason.LOW_MARGIN, Reason.RARE_ENTITY)
    """Rows rejected by the selection for these reasons are annotated too: their best candidate may be right, or put
    right."""
    sample_rows: int = 0
    """Annotate a sample of so many rows (those with the lowest row ids, which are hashes); 0: all."""
    segment_rows: int = 4096
    """Rows that are committed together."""

    def places(self) -> dict[str, str]:
        """Return what workers open, by its flag. A prompt's relative path travels in the working directory."""
        parts = {f"--prompts.{one.name}": getattr(self.prompts, one.name) for one in fields(PromptsConfig)}
        files = {flag: name for flag, name in parts.items() if name.endswith(".md") and Path(name).is_absolute()}
        return super().places() | files

    def labeling(self, out: str) -> LabelConfig:
        """Return the labeling run that makes the candidates. Rare entities are cut after annotation, not before.

        W&B is told of the annotation run alone.
        """
        own = {one.name: getattr(self, one.name) for one in fields(LabelConfig)}
        store = replace(self.store, min_entity_images=1)
        changed = {"out": out, "store": store, "track": TrackingConfig(), "recipe": f"{self.recipe}: candidates"}
        return LabelConfig(**own | changed)

    def load_prompts(self) -> dict[str, Prompt]:
        """Return the prompts by the part they play: ``describe`` (with a describer), ``first``, ``questions``.

        Raises:
            RaylabError: see `load_prompt`; a prompt of the wrong call.
        """
        wanted = {"first": self.prompts.first, "questions": self.prompts.questions}
        if self.describer.model:
            wanted = {"describe": self.prompts.describe} | wanted
        found = {part: load_prompt(name) for part, name in wanted.items() if name}
        fitting = {"describe": ("describe",), "first": ("verify", "name"), "questions": ("questions",)}
        for part, prompt in found.items():
            if prompt.call not in fitting[part]:
                raise RaylabError(
                    f"--prompts.{part} needs a prompt of {' or '.join(fitting[part])}, not {prompt.call}."
                )
        return found


@dataclass(frozen=True)
class AblationConfig(RewConfig):
    """The four targets of the paper's ablation (arXiv 2410.23676, section 4.3) side by side, on the same candidates.

    The candidate as it is; corrected with summary and caption (`prompts`); corrected without both (`bare`); and what
    the model names without a candidate (`alone`).
    """

    recipe: str = "rew_ablation"
    rescue: tuple[Reason, ...] = ()
    """None, so that all targets have the same rows."""
    bare: str = "verify/rew-1-bare"
    """The prompt without summary and caption."""
    alone: str = "name/rew-1"
    """The prompt without a candidate."""

    def targets(self) -> dict[str, RewConfig]:
        """Return the annotation run behind each target but the first, under ``<out>/<target>``."""
        own = {one.name: getattr(self, one.name) for one in fields(RewConfig)}
        track = replace(self.track, group=self.track.group or self.out.rstrip("/").rsplit("/", 1)[-1])
        first = {"llm_alone": self.alone, "corrected_bare": self.bare, "corrected": self.prompts.first}
        return {
            target: RewConfig(
                **own
                | {
                    "recipe": f"{self.recipe}: {target}",
                    "out": f"{self.out.rstrip('/')}/{target}",
                    "prompts": replace(self.prompts, first=prompt, questions=""),
                    "track": track,
                }
            )
            for target, prompt in first.items()
        }


NOT_IN_ANSWERS = (*label_plan.NOT_IN_LABELS, "annotator", "describer")
"""Fields of `RewConfig` that are not compared on resume as they stand: of the engines only what changes answers is."""
ENGINE_DECIDES = ("model", "revision", "served_name", "dtype", "image_tokens", "pixels_per_token", "extra")
"""The engines' settings that are."""


def check(config: RewConfig) -> None:
    """Refuse a config that cannot run, before anything is started.

    Raises:
        RaylabError: see `label.plan.check`; no model, a prompt that is missing, numbers that make no sense.
    """
    label_plan.check(config)
    if not config.annotator.model:
        raise RaylabError("--annotator.model is missing: a model's name, its folder, or http://host:8000/v1")
    for name in ("annotator", "describer"):
        engine: EngineConfig = getattr(config, name)
        if not 1 <= engine.min_actors <= engine.max_actors or min(engine.batch_rows, engine.concurrent_batches) < 1:
            raise RaylabError(f"{name}: needs 1 <= min_actors <= max_actors, batch_rows and concurrent_batches >= 1.")
        engine.extra_arguments()
    if config.answers.attempts < 1:
        raise RaylabError("--answers.attempts must be 1 or more.")
    label_plan.refuse_passwords([config.annotator.model, config.describer.model])
    config.load_prompts()
