"""What a sweep may change, and within which bounds: written in words, checked against the recipe before anything runs.

    loguniform(1e-5, 1e-3)   uniform(0, 0.3)    as Ray Tune's
    randint(1, 8)            lograndint(1, 9)   likewise: the upper bound is left out
    powers_of_two(64, 1024)                     64, 128, ..., 1024
    choice(ddp, fsdp)                           one of these
    grid_search(1e-7, 3e-7, 1e-6)               every one of these

A field is one of the training config, such as ``task.smoothing`` or ``batch``, or one of `RATES`: the learning rates of
encoder and decoder, which the configs hold as one rate and a share of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from raylab.config import leaves
from raylab.errors import RaylabError, nearest
from raylab.train.plan import TrainConfig, check

C = TypeVar("C", bound=TrainConfig)

BOUNDED = ("uniform", "loguniform", "randint", "lograndint", "powers_of_two")
LISTED = ("choice", "grid_search")
_CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)

DECODER_RATE, ENCODER_RATE = "optim.lr_decoder", "optim.lr_encoder"
RATES = (DECODER_RATE, ENCODER_RATE)
"""The highest learning rates of a generative model's two parts. One without the other moves both, in their ratio."""

RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""How learning rates follow the batch: by which power of its ratio to the recipe's. ``sqrt`` suits Adam
(arXiv 2205.10287), ``linear`` SGD (arXiv 1706.02677)."""

DATA_FIELDS = ("data.", "labels", "source.", "kb", "task.targets.", "task.codes", "task.more_entities", "task.unseen")
"""Fields (or their beginnings) that decide which rows are of use: trials that differ in them share no survey."""


@dataclass(frozen=True)
class Domain:
    """The values that a field may take."""

    kind: str
    """One of `BOUNDED` or `LISTED`."""
    args: tuple[Any, ...]
    """Lower and upper bound, or the values."""

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.args))})"

    @property
    def edges(self) -> tuple[Any, ...]:
        """The values that are checked before a sweep begins: the bounds, or all."""
        if self.kind in ("randint", "lograndint"):
            return self.args[0], self.args[1] - 1
        return self.args

    @property
    def values(self) -> tuple[Any, ...]:
        """All values, of a domain that is a list."""
        if self.kind == "powers_of_two":
            low, high = (int(math.log2(bound)) for bound in self.args)
            return tuple(2**power for power in range(low, high + 1))
        return self.args

    def holds(self, value: Any) -> bool:
        """Tell whether a value may be drawn."""
        if self.kind in (*LISTED, "powers_of_two"):
            return value in self.values
        low, high = self.edges
        return bool(low <= value <= high)


def parse_domain(field: str, text: str) -> Domain:
    """Return the domain that a text describes.

    Raises:
        RaylabError: it describes none.
    """
    found = _CALL.fullmatch(text)
    if not found:
        raise RaylabError(
            f"--space.{field} {text!r}: write such as loguniform(1e-5, 1e-3), uniform(0, 0.3), powers_of_two(64, 1024) "
            "or choice(a, b); for one value, give the field itself."
        )
    kind, inner = found[1], found[2]
    if kind not in BOUNDED + LISTED:
        raise RaylabError(f"--space.{field}: there is no {kind}().{nearest(kind, BOUNDED + LISTED)}")
    args = tuple(_value(one.strip()) for one in inner.split(",") if one.strip())
    domain = Domain(kind, args)
    if complaint := _complaint(domain):
        raise RaylabError(f"--space.{field} {text}: {complaint}.")
    return domain


def _value(text: str) -> Any:
    """Return a number, true, false, or the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text.strip("'\""))


def _complaint(domain: Domain) -> str:
    """Return what is wrong with a domain; empty where nothing is."""
    kind, args = domain.kind, domain.args
    if kind in LISTED:
        return "" if args else "it has no values"
    if len(args) != 2 or not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in args):
        return "it takes two numbers, the lowest and the highest"
    low, high = args
    wrong = {
        "the first has to be below the second": not (math.isfinite(low) and math.isfinite(high) and low < high),
        "a logarithm wants numbers above 0": "log" in kind and low <= 0,
        "it takes whole numbers": kind not in ("uniform", "loguniform") and not isinstance(low + high, int),
        "both have to be powers of two": kind == "powers_of_two" and not all(map(_is_power, args)),
    }
    return next((text for text, is_so in wrong.items() if is_so), "")


def _is_power(number: float) -> bool:
    return number >= 1 and math.log2(number).is_integer()


def parse_space(texts: Mapping[str, str]) -> dict[str, Domain]:
    """Return the domains that texts describe, by field."""
    return {field: parse_domain(field, text) for field, text in texts.items()}


def take_space(args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return what a command line says of the space, by field, and its other arguments.

    Args:
        args: with ``--space.FIELD DOMAIN``; ``none`` for a domain leaves the recipe's own field out, ``--space none``
            all of them.

    Raises:
        RaylabError: a field without a domain.
    """
    texts: dict[str, str] = {}
    rest: list[str] = []
    left = list(args)
    while left:
        flag, joined, value = left.pop(0).partition("=")
        if flag != "--space" and not flag.startswith("--space."):
            rest.append(f"{flag}{joined}{value}")
            continue
        if not joined:
            if not left:
                raise RaylabError(f"{flag}: its domain is missing, such as uniform(0, 0.3).")
            value = left.pop(0)
        field = flag.removeprefix("--space").removeprefix(".").replace("-", "_")
        if not field and value != "none":
            raise RaylabError(f"--space {value}: write --space.FIELD DOMAIN, or --space none.")
        texts[field] = value
    return texts, rest


def space_of(recipe: str, texts: Mapping[str, str]) -> dict[str, Domain]:
    """Return a recipe's space with what a line says of it; see `take_space`."""
    whole = dict(texts)
    usual = {} if whole.pop("", "") == "none" else SPACES.get(recipe, {})
    return parse_space({field: text for field, text in (usual | whole).items() if text != "none"})


def check_space(config: TrainConfig, space: Mapping[str, Domain], fit: Fit) -> None:
    """Try the bounds of each field on the recipe.

    Raises:
        RaylabError: a field that the recipe does not have, or that another one decides; a value of another kind, or one
            that a run would refuse.
    """
    known = dict(leaves(config)) | dict.fromkeys(RATES if _has_rates(config) else (), 0.0)
    for field, domain in space.items():
        if field not in known:
            raise RaylabError(f"--space.{field}: {config.recipe} has no such field.{nearest(field, known)}")
        _check_kinds(field, domain, known[field])
        for value in domain.edges:
            try:
                check(applied(config, {field: value}, fit))
            except RaylabError as error:
                raise RaylabError(f"--space.{field} {domain}: with {value}: {error}") from error
    for one, other in ((DECODER_RATE, "optim.rate"), (ENCODER_RATE, "task.encoder_rate")):
        if one in space and other in space:
            raise RaylabError(f"--space.{one} decides {other}: leave --space.{other} out.")
    if "parallel.accumulate" in space:
        raise RaylabError("--space.parallel.accumulate: it follows from the batch; see --fit.most-rows.")


def own_values(config: TrainConfig, space: Mapping[str, Domain]) -> dict[str, Any]:
    """Return a recipe's own value of each field of a space; `applied` makes the recipe of them."""
    known = dict(leaves(config))
    if _has_rates(config):
        known |= {DECODER_RATE: config.optim.rate, ENCODER_RATE: config.optim.rate * known["task.encoder_rate"]}
    return {field: known[field] for field in space}


def _has_rates(config: TrainConfig) -> bool:
    return hasattr(config.task, "encoder_rate")


def _check_kinds(field: str, domain: Domain, now: Any) -> None:
    """Raise `RaylabError` where the values are of another kind than the field's; whole numbers are numbers, too."""
    for value in domain.edges:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if now is None or (whole and isinstance(now, float)) or type(value) is type(now):
            continue
        raise RaylabError(f"--space.{field} {domain}: {value!r} is not of the kind of {field}, which is {now!r}.")
    if isinstance(now, int) and domain.kind in ("uniform", "loguniform"):
        raise RaylabError(f"--space.{field} {domain}: {field} is a whole number: take randint or powers_of_two.")


@dataclass(frozen=True)
class Fit:
    """What follows from a batch that is drawn.

    Args:
        rule: of `RULES`.
        most_rows: of a worker's pass; a larger batch takes more passes. 0: as many as the recipe has.
    """

    rule: str = "none"
    most_rows: int = 0


def applied(config: C, values: Mapping[str, Any], fit: Fit) -> C:
    """Return the config of a trial: the recipe's with the values drawn, and with what follows from them.

    Raises:
        RaylabError: the recipe refuses a value.
    """
    base = config
    for field, value in values.items():
        if field not in RATES:
            config = with_field(config, field, value)
    config = _with_rates(config, values)
    if config.batch != base.batch:
        factor = (config.batch / base.batch) ** RULES[fit.rule]
        optim = replace(config.optim, rate=config.optim.rate * factor, table_rate=config.optim.table_rate * factor)
        config = replace(config, optim=optim)
    return _with_passes(config, base, fit.most_rows)


def with_field(config: C, field: str, value: Any) -> C:
    """Return the config with one field changed; dots lead into nested ones."""
    name, _, rest = field.partition(".")
    if rest:
        return _replaced(config, name, with_field(getattr(config, name), rest, value))
    old = getattr(config, name)
    return _replaced(config, name, float(value) if isinstance(old, float) else value)


def _replaced(config: C, name: str, value: Any) -> C:
    changed: dict[str, Any] = {name: value}
    return replace(config, **changed)


def _with_rates(config: C, values: Mapping[str, Any]) -> C:
    """Set rate and encoder's share from the absolute rates that were drawn."""
    decoder, encoder = values.get(DECODER_RATE), values.get(ENCODER_RATE)
    if decoder is None and encoder is None:
        return config
    task: Any = config.task
    share = task.encoder_rate
    if decoder is None:
        decoder = encoder / share
    elif encoder is not None:
        share = encoder / decoder
    task = replace(task, encoder_rate=share)
    return replace(config, task=task, optim=replace(config.optim, rate=decoder))


def _with_passes(config: C, base: TrainConfig, most_rows: int) -> C:
    """Give a step as many passes as it needs for a worker's pass to fit."""
    workers = config.parallel.workers
    most = most_rows or base.batch // (base.parallel.workers * base.parallel.accumulate)
    numbers = range(1, config.batch + 1)
    fitting = (n for n in numbers if config.batch % (workers * n) == 0 and config.batch <= most * workers * n)
    passes = next(fitting, config.parallel.accumulate)  # where the workers cannot share the batch, a check says so
    return replace(config, parallel=replace(config.parallel, accumulate=passes))


def shares_survey(space: Mapping[str, Domain]) -> bool:
    """Tell whether all trials of a space learn from the same rows."""
    return not any(field.startswith(DATA_FIELDS) for field in space)


def within(space: Mapping[str, Domain], values: dict[str, Any]) -> dict[str, Any]:
    """Return values that were moved, put back into their bounds; whole numbers stay whole."""
    found = dict(values)
    for field, domain in space.items():
        if domain.kind in ("uniform", "loguniform", "randint", "lograndint"):
            low, high = domain.edges
            value = min(max(found[field], low), high)
            found[field] = round(value) if "int" in domain.kind else value
    return found


GENERATIVE = {
    ENCODER_RATE: "loguniform(1e-6, 1e-4)",
    DECODER_RATE: "loguniform(1e-5, 1e-3)",
    "task.smoothing": "uniform(0, 0.3)",
    "batch": "powers_of_two(1024, 8192)",
}
"""The paper's 1e-5, 1e-4, 0.2 and 4096 (arXiv 2410.23676, appendix), widened."""
OVEN = {ENCODER_RATE: "grid_search(1e-7, 3e-7, 1e-6)"}
"""The rates among which the paper chooses for OVEN's questions; the decoder's follow at ten times these."""
DUAL = {"optim.rate": "loguniform(1e-4, 3e-3)", "batch": "powers_of_two(1024, 16384)"}
MASKED = {"optim.rate": "loguniform(3e-4, 6e-3)", "task.masked": "uniform(0.5, 0.9)"}
VIEWS = {"optim.rate": "loguniform(3e-4, 6e-3)", "task.temperature": "loguniform(0.05, 0.5)"}
TUNED = {"optim.rate": "loguniform(3e-4, 6e-3)", "task.layer_decay": "uniform(0.5, 1)"}
CAPTION_WEIGHT = {"task.weights.caption": "loguniform(0.03, 1)"}
SOFTMAX = {"optim.rate": "loguniform(1e-4, 1e-2)"}
MAPPED = SOFTMAX | {"task.margin": "uniform(0.02, 0.5)"}
MAPPED_AND_TUNED = {"optim.rate": "loguniform(1e-5, 1e-2)", "task.encoder_rate": "loguniform(0.01, 1)"}
SPACES: dict[str, dict[str, str]] = {
    "git_large": GENERATIVE,
    "ger_ald": GENERATIVE,
    "git_oven": OVEN,
    "clip_b16": DUAL,
    "mofi_b16": DUAL | {"optim.table_rate": "loguniform(1e-4, 1e-2)", "task.supervised_weight": "uniform(0, 1)"},
    "mug_b16": MASKED | CAPTION_WEIGHT,
    "mae_b16": MASKED,
    "masked_caption_b16": MASKED,
    "simclr_b16": VIEWS,
    "mug_miniworld": MASKED | CAPTION_WEIGHT,
    "mae_miniworld": MASKED,
    "masked_caption_miniworld": MASKED,
    "simclr_miniworld": VIEWS,
    "finetune_b16": TUNED,
    "finetune_l16": TUNED,
    "finetune_miniworld": TUNED,
    "linear_probe_b16": {"optim.rate": "loguniform(0.5, 50)"},
    "linear_probe_miniworld": {"optim.rate": "loguniform(5, 100)"},
    "devise_softmax": SOFTMAX,
    "devise": MAPPED,
    "devise_tuned": MAPPED_AND_TUNED,
    "devise_random": MAPPED,
    "devise_softmax_miniworld": SOFTMAX,
    "devise_miniworld": MAPPED,
    "devise_tuned_miniworld": MAPPED_AND_TUNED,
    "devise_random_miniworld": MAPPED,
    "git_miniworld": {
        "optim.rate": "loguniform(3e-4, 1e-2)",
        "task.smoothing": "uniform(0, 0.3)",
        "batch": "powers_of_two(16, 128)",
    },
    "git_oven_miniworld": {"optim.rate": "grid_search(2e-5, 5e-5, 1e-4)"},
    "clip_miniworld": {"optim.rate": "loguniform(3e-4, 1e-2)", "batch": "powers_of_two(32, 128)"},
    "mofi_miniworld": {
        "optim.rate": "loguniform(3e-4, 1e-2)",
        "task.supervised_weight": "uniform(0, 1)",
        "batch": "powers_of_two(32, 128)",
    },
}
"""Training recipe -> what is swept where the line names no field."""
