"""The dataset card of a run: README.md with the front matter that dataset hubs read, and an honest description."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from raylab.label import formats
from raylab.label.intervals import wilson
from raylab.label.judging import AUDIT
from raylab.schema import LABEL
from raylab.storage import Folder

_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)
_LICENCES = {
    "cc0-1.0": "cc0-1.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc-by-2.0": "cc-by-2.0",
    "cc-by-sa-2.0": "cc-by-sa-2.0",
    "mit": "mit",
    "apache-2.0": "apache-2.0",
    "odbl-1.0": "odbl",
}
"""SPDX ids, in lower case, and what the hub calls them."""

_FIELDS = {
    "row_id": "hash of shard and key: the same in every run over the same input",
    "shard": "the input shard, relative to the source",
    "key": "the row's key in its shard",
    "url": "where the image came from, if the source says so",
    "licence": "as the source states it",
    "caption": "the alt-text",
    "image": "where the image's bytes lie: file, offset, size in bytes (-1: to the end)",
    "truth": "ids of the entities in the picture, for sources that know them",
    "entity_id": "**the label**",
    "entity_name": "its title",
    "score": "image against entity, calibrated against distractor entities, 0 to 1",
    "margin": "distance to the runner-up, same unit",
    "leak_cosine": "to the nearest image of the evaluation sets; null without leak control",
    "mentions": "spans of the caption that may name an entity, in characters",
    "candidates": "every entity considered, with its prior and its scores from text and image",
    "link_entity_id": "the best entity from the text alone",
    "link_score": "its probability",
    "models": "id@revision of the model or knowledge base that each step used",
    "annotation": "what a multimodal LLM made of it, where one was asked: decision, candidate, rationale, questions",
}


def write_card(folder: Folder, summary: dict[str, Any], config: dict[str, Any]) -> None:
    """Write the dataset card, ``README.md``, into a finished run's folder.

    Args:
        folder: the run's folder. Its ``audit.json``, where there is one, says what judges found.
        summary: the run's ``summary.json``.
        config: the resolved config.

    Raises:
        RaylabError: the folder cannot be written.
    """
    audit = folder.read_json(AUDIT) if folder.exists(AUDIT) else None
    folder.write_bytes("README.md", render_card(summary, config, audit).encode("utf-8", "replace"))


def render_card(summary: dict[str, Any], config: dict[str, Any], audit: dict[str, Any] | None = None) -> str:
    """Return the card's text: YAML front matter, then Markdown in which everything from the input is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("raylab.label"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = (formats.count, formats.share, formats.figure, formats.words, formats.kb_source)
    environment.filters |= {"plain": _plain} | {function.__name__: function for function in shown}
    return environment.get_template("card.md.j2").render(
        front_matter=_front_matter(summary),
        summary=summary,
        store=config.get("store", {}),
        audit=audit,
        known=_known(summary),
        fields=[(field.name, _type(field.type), _FIELDS[field.name]) for field in LABEL],
    )


def _known(summary: dict[str, Any]) -> dict[str, float] | None:
    """Return the precision of the annotator's labels against the known truth, with its interval."""
    decisions = summary.get("annotation", {}).get("decisions", {}).values()
    known, right = (sum(one[name] for one in decisions) for name in ("known", "right"))
    if not known:
        return None
    low, high = wilson(right / known, known)
    return {"precision": right / known, "low": low, "high": high, "judged": known}


def _front_matter(summary: dict[str, Any]) -> str:
    """Return the YAML head, quoted by the YAML library itself."""
    import yaml

    head = {
        "pretty_name": " ".join(f"Entity labels of {summary['source']}".split()),
        **_licence(summary.get("licences", {})),
        "task_categories": ["image-classification", "zero-shot-image-classification", "image-feature-extraction"],
        "tags": ["entity-linking", "wikidata", "image-text", "raylab"],
        "size_categories": [next((name for limit, name in _SIZES if summary["labelled"] < limit), "n>1T")],
        "configs": [
            {
                "config_name": name,
                **({"default": True} if name == "labels" else {}),
                "data_files": f"{name}/*.parquet",
            }
            for name in ("labels", "rejects")
        ],
    }
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120)


def _licence(counted: dict[str, int]) -> dict[str, str]:
    """Return the hub's licence entry: a known one where all rows state it, else "other"."""
    known = {_LICENCES.get(name.lower()) for name in counted}
    only = known.pop() if len(known) == 1 else None
    return {"license": only} if only else {"license": "other", "license_name": "that-of-each-input-row"}


def _dtype(kind: pa.DataType) -> str:
    """Return the hub's name of a plain type: Arrow's float and double go by their widths there."""
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _type(kind: pa.DataType) -> str:
    """Return a type for human eyes."""
    if pa.types.is_struct(kind):
        return "{" + ", ".join(field.name for field in kind) + "}"
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    return _dtype(kind)


def _plain(text: object) -> str:
    """Return text that Markdown shows as it is: one line, none of its marks or tags at work."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{mark}" if mark in "\\`*_{}[]()#|!~$" else mark for mark in line)
