"""Configs are frozen dataclasses; a recipe is a function that returns one; the command line overrides its fields."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import hashlib
import io
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from raylab.errors import RaylabError, nearest

T = TypeVar("T")


def parse(
    recipes: Mapping[str, Callable[[], T]],
    default: str,
    args: Sequence[str],
    description: str,
    beside: Sequence[str] = (),
) -> T:
    """Return the config of the recipe that ``--recipe`` names, with the fields that `args` override.

    Every field is a flag, nested ones with dots: ``--select.min-score 0.4``. A recipe may also be a file: a config as
    JSON, as `to_dict` returns it.

    Args:
        recipes: recipe name -> function that returns a frozen dataclass.
        default: the recipe taken without ``--recipe``.
        args: the command line without the program's name.
        description: for ``--help``.
        beside: flags that were taken from the line before (`parse_beside`): one that was misspelt is left in it.

    Raises:
        RaylabError: an unknown recipe or flag (the nearest name is given), a value of the wrong type, a flag that is
            required and missing.
        SystemExit: status 0, after ``--help``.
    """
    import tyro

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default=default)
    chosen, rest = first.parse_known_args(list(args))
    is_file = chosen.recipe.endswith(".json")
    recipe = read_recipe(chosen.recipe, recipes) if is_file else _named(chosen.recipe, recipes)()
    names = ", ".join(recipes)
    help_text = f"{description}\n\n--recipe NAME chooses the defaults below: {names} (now {chosen.recipe})."
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(type(recipe), default=recipe, args=rest, description=help_text)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise RaylabError(_explain(complaint.getvalue(), recipe, rest, beside)) from None


def _named(name: str, recipes: Mapping[str, Callable[[], T]]) -> Callable[[], T]:
    if name not in recipes:
        raise RaylabError(f"There is no recipe {name!r}.{nearest(name, recipes)} Known: {', '.join(recipes)}.")
    return recipes[name]


def read_recipe(path: str, recipes: Mapping[str, Callable[[], T]]) -> T:
    """Return the config that a file holds, of the class of the recipe that it began as.

    Raises:
        RaylabError: no such file, no such config.
    """
    from raylab.storage import Folder

    folder, slash, file = path.rpartition("/")
    try:
        values = Folder(folder or slash or ".").read_json(file)
        name = values["recipe"]
    except (OSError, ValueError, TypeError, KeyError, RaylabError) as error:
        raise RaylabError(f"--recipe {path}: no recipe there ({type(error).__name__}: {error}).") from error
    try:
        return from_dict(type(_named(name, recipes)()), values)
    except (RaylabError, TypeError, ValueError, AttributeError) as error:
        raise RaylabError(f"--recipe {path}: {error}") from error


def parse_beside(kind: type[T], args: Sequence[str], description: str) -> tuple[T, list[str]]:
    """Return a config from its flags, and the arguments that are none of them.

    Args:
        kind: a frozen dataclass whose fields all have defaults.
        args: the command line.
        description: for ``--help``.

    Raises:
        RaylabError: a value of the wrong type.
        SystemExit: status 0, after ``--help``.
    """
    import tyro

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(args), description=description, return_unknown_args=True)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        raise RaylabError(_explain(complaint.getvalue(), kind(), args)) from None


def flags_of(config: Any) -> list[str]:
    """Return the flags of a config's fields."""
    return [f"--{name.replace('_', '-')}" for name, _ in leaves(config)]


def _explain(complaint: str, recipe: Any, args: Sequence[str], beside: Sequence[str] = ()) -> str:
    """Turn tyro's boxed message into plain lines, and name the nearest flag for each one that does not exist."""
    flags = [*flags_of(recipe), "--source", *beside]
    given = [arg.partition("=")[0].replace("_", "-") for arg in args if arg.startswith("--")]
    unknown = [flag for flag in dict.fromkeys(given) if flag not in flags and f"--{flag[5:]}" not in flags]
    plain = re.sub(r"[╭╮╰╯─│]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", complaint))
    said = " ".join(plain.split())
    hints = [f"There is no flag {flag}.{nearest(flag, flags)}" for flag in unknown]
    return "\n".join(hints) if hints and "nrecognized" in said else said


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted name, value)`` for every field that is not itself a dataclass."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as nested plain values, ready for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{value!r} does not belong in a config")


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return the config that `to_dict` was given, from what it returned; fields that are missing get their defaults.

    Raises:
        RaylabError: a field that `kind` does not have.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - fields.keys()):
        raise RaylabError(f"a {kind.__name__} has no field {unknown[0]!r}.{nearest(unknown[0], fields)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _from_plain(hints[name], value) for name, value in values.items()})


def _from_plain(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_dict(kind, value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(_from_plain(inner, one) for one in value)
    return value


def fingerprint(value: Any) -> str:
    """Return 16 hex digits that depend on a JSON-able value alone."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def check_least(least: Mapping[str, tuple[float, float]]) -> None:
    """Raise `RaylabError` where a number is too small.

    Args:
        least: flag, without its dashes -> what was given, and the least that it may be.
    """
    for flag, (value, low) in least.items():
        if value < low:
            raise RaylabError(f"--{flag} {value:g}: it has to be {low:g} or more.")


def check_same(before: Any, now: Any, said: str) -> None:
    """Raise `RaylabError` where what a folder was begun with differs; `said`: what it holds, for the message."""
    if differing := differences(before, now):
        lines = "\n  ".join(differing[:10])
        raise RaylabError(f"{said}:\n  {lines}\nTake another --out, or what it began with.")


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return one line ``dotted.key: old -> new`` for each leaf that differs between two nested dicts."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            lines += differences(old.get(key), new.get(key), f"{prefix}{key}.")
        return lines
    return [] if old == new else [f"{prefix.rstrip('.')}: {old!r} -> {new!r}"]
