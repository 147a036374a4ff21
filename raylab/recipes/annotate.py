"""Annotation runs: ``rew`` for the web, ``rew_miniworld`` for the demo."""

from __future__ import annotations

import json
from dataclasses import fields, replace

from raylab.annotate.plan import AblationConfig, AnswersConfig, EngineConfig, PromptsConfig, RewConfig
from raylab.label.plan import LabelConfig
from raylab.recipes.label import miniworld

MINIWORLD_ANNOTATOR = "package://raylab.sources.miniworld/assets/annotator"

SMALL_ENGINE = {
    "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
    "block_size": 32,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 4096,
}
"""For a model of a few megabytes on a CPU: it lives in the engine's core process, not in one more that has to import
everything again; blocks of the prefix cache are as short as the CPU build can have them; many rows in one step."""


def rew() -> RewConfig:
    """Verified and corrected labels, rationales and questions (REW: arXiv 2410.23676, section 3), on one 24 GB GPU.

    Qwen2.5-VL-7B-Instruct (Apache-2.0): 17 GB of weights, which leaves room for some 30 rows of 2,000 tokens.
    """
    small = EngineConfig(model="Qwen/Qwen2.5-VL-7B-Instruct", context_tokens=3072, extra='{"max_num_seqs": 48}')
    return RewConfig(annotator=small)


def rew_80gb() -> RewConfig:
    """The same on one 80 GB GPU: Qwen2.5-VL-32B-Instruct (Apache-2.0), its weights in 8 bits: 34 GB."""
    large = EngineConfig(
        model="Qwen/Qwen2.5-VL-32B-Instruct",
        image_tokens=512,
        batch_rows=64,
        extra='{"quantization": "fp8", "max_num_seqs": 256}',
    )
    return RewConfig(recipe="rew_80gb", annotator=large)


def rew_8gpu() -> RewConfig:
    """The same on eight 80 GB GPUs: two copies of Qwen2.5-VL-72B-Instruct (Qwen licence), each on four: 147 GB."""
    largest = EngineConfig(
        model="Qwen/Qwen2.5-VL-72B-Instruct",
        tensor_parallel=4,
        min_actors=2,
        max_actors=2,
        image_tokens=512,
        batch_rows=64,
        extra='{"max_num_seqs": 256}',
    )
    return RewConfig(recipe="rew_8gpu", annotator=largest)


def rew_miniworld() -> RewConfig:
    """The embedded mini-world, annotated by the mini annotator under vLLM's CPU build: nothing is downloaded."""
    labeling = {field.name: getattr(miniworld(), field.name) for field in fields(LabelConfig)}
    return RewConfig(
        **labeling | {"recipe": "rew_miniworld"},
        annotator=EngineConfig(
            model=MINIWORLD_ANNOTATOR,
            dtype="float32",
            num_gpus=0,
            context_tokens=384,
            image_tokens=16,
            pixels_per_token=1024,
            concurrent_batches=12,
            extra=json.dumps(SMALL_ENGINE),
        ),
        prompts=PromptsConfig(first="verify/mini-1", questions="questions/mini-1"),
        # One attempt: where a model of this size answers amiss, it does not know.
        answers=AnswersConfig(first_tokens=96, questions_tokens=128, attempts=1),
    )


def rew_ablation() -> AblationConfig:
    """The paper's four targets side by side: the model alone, the candidate, corrected without and with context."""
    return AblationConfig(annotator=rew().annotator)


def rew_ablation_miniworld() -> AblationConfig:
    """The same in the mini-world, by the mini annotator."""
    own = {field.name: getattr(rew_miniworld(), field.name) for field in fields(RewConfig)}
    return replace(
        AblationConfig(**own), recipe="rew_ablation_miniworld", bare="verify/mini-1-bare", alone="name/mini-1"
    )
