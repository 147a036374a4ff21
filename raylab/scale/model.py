"""From a run's config and the rates to the phases of the model: which pool does what for a row, on which machines."""

from __future__ import annotations

from collections.abc import Sequence

from raylab.annotate.plan import RewConfig
from raylab.errors import RaylabError, nearest
from raylab.label.plan import LabelConfig, Stage, stages
from raylab.scale.cluster import Cluster, NodeType
from raylab.scale.rates import Answers, Device, Rate, Rates
from raylab.scale.work import Phase, StageWork


def phases(job: LabelConfig, rates: Rates, cluster: Cluster) -> list[Phase]:
    """Return what the run does, in turn: labeling, and for a recipe with an annotator its rounds of questions.

    Raises:
        RaylabError: a step, a kind of GPU or the annotator has no rate.
    """
    found = [_labeling(job, rates, cluster)]
    if isinstance(job, RewConfig):
        found.append(_annotating(job, rates, cluster))
    return found


def _labeling(job: LabelConfig, rates: Rates, cluster: Cluster) -> Phase:
    read = _step(rates, "source")
    fixed = rates.fixed
    return Phase(
        "label",
        StageWork(
            "source",
            read.cpu_s,
            link_bytes=rates.sizes.pair,
            batch_rows=job.source.chunk_rows,
            start_cpu_s=fixed.reader_cpu_s,
        ),
        tuple(_stage(one, rates, cluster) for one in stages(job)),
        driver_s=fixed.driver_row_s,
        driver_share=fixed.driver_share,
        node_share=fixed.node_share,
        start_cpu_s=fixed.join_cpu_s if cluster.head else fixed.start_cpu_s,
        start_ray_s=0.0 if cluster.head else fixed.start_ray_s,
        start_wait_s=fixed.join_wait_s if cluster.head else fixed.start_wait_s,
        end_cpu_s=fixed.end_cpu_s,
        end_row_s=fixed.end_row_s,
        report_row_s=fixed.report_row_s,
        report_rows=fixed.report_rows,
    )


def _step(rates: Rates, name: str) -> Rate:
    if name not in rates.steps:
        raise RaylabError(
            f"There is no rate for the step {name!r}.{nearest(name, rates.steps)} Label some thousand rows with it, "
            "and give that run's folder as --rates."
        )
    return rates.steps[name]


def _stage(stage: Stage, rates: Rates, cluster: Cluster) -> StageWork:
    steps = {name: _step(rates, name) for name in stage.steps}
    kinds = gpu_types(cluster)
    on_gpu = [one for one in steps.values() if kinds and (one.gflop or one.gpu_s)]
    looks = any(one.host_s or one.gflop for one in steps.values())  # it reads images
    return StageWork(
        stage.name,
        cpu_s=sum(one.host_s if one in on_gpu else one.cpu_s for one in steps.values()) + rates.fixed.actor_row_s,
        gpu_s={one.gpu: sum(gpu_seconds(rate, one, rates) for rate in on_gpu) for one in kinds} if on_gpu else {},
        link_bytes=rates.sizes.image if looks else 0.0,
        in_bytes=rates.sizes.flow.get(stage.steps[0], 0.0),
        batch_rows=stage.pool.batch_rows,
        start_cpu_s=rates.fixed.actor_cpu_s,
        start_wait_s=rates.fixed.actor_wait_s,
    )


def gpu_types(cluster: Cluster) -> list[NodeType]:
    """Return the workers with GPUs."""
    return [one for one in cluster.workers if one.gpus]


def gpu_seconds(rate: Rate, node: NodeType, rates: Rates) -> float:
    """Return the GPU seconds of a row: measured, or the model's operations at the share of the peak that it gets."""
    if rate.gpu_s:
        return rate.gpu_s
    return rate.gflop / (device(node, rates).tflops * 1e3 * rates.use["infer"])


def device(node: NodeType, rates: Rates) -> Device:
    """Return what is known of a node's GPU or TPU.

    Raises:
        RaylabError: nothing is.
    """
    if node.gpu not in rates.devices:
        known = ", ".join(rates.devices)
        raise RaylabError(
            f"Nothing is known of the device {node.gpu!r} of the node type {node.name}."
            f"{nearest(node.gpu, rates.devices)} Known: {known}. A rates file of yours may name others ([device.NAME])."
        )
    return rates.devices[node.gpu]


def _annotating(job: RewConfig, rates: Rates, cluster: Cluster) -> Phase:
    answers = rates.answers
    if answers is None:
        raise RaylabError(f"There are no rates for the annotator of {job.recipe}.")
    fixed = rates.fixed
    cpu_s, gpu_s = answers.host_s, {}
    if job.annotator.num_gpus:
        gpu_s = _answer_seconds(answers, gpu_types(cluster))
    else:
        cpu_s += answers.tokens / answers.tokens_per_s["CPU"]
    stage = StageWork(
        "annotator",
        cpu_s,
        gpu_s=gpu_s,
        gpus_a_copy=answers.gpus,
        shares_gpu=False,
        in_bytes=rates.sizes.image,  # requests carry their picture
        batch_rows=job.annotator.batch_rows,
        start_wait_s=answers.start_s,
    )
    read = StageWork(
        "requests",
        _step(rates, "source").cpu_s,
        link_bytes=rates.sizes.image,
        batch_rows=stage.batch_rows,
        start_cpu_s=fixed.reader_cpu_s,
    )
    return Phase(
        "annotate",
        read,
        (stage,),
        rows_share=answers.share,
        driver_s=fixed.driver_row_s,
        driver_share=fixed.driver_share,
        node_share=fixed.node_share,
        end_cpu_s=fixed.end_cpu_s,
        end_row_s=fixed.end_row_s,
        report_row_s=fixed.report_row_s,
        report_rows=fixed.report_rows,
    )


def _answer_seconds(answers: Answers, nodes: Sequence[NodeType]) -> dict[str, float]:
    """Return kind of GPU -> card seconds a row, for the cards that hold the model."""
    found = {
        one.gpu: answers.tokens / answers.tokens_per_s[one.gpu] for one in nodes if one.gpu in answers.tokens_per_s
    }
    if not found:
        known = ", ".join(answers.tokens_per_s)
        kinds = ", ".join(f"{one.name} ({one.gpu or 'of no kind'})" for one in nodes) or "none"
        raise RaylabError(f"The annotator has rates for {known}; the cluster's GPU nodes are: {kinds}.")
    return found
