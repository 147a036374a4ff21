"""Prompts are files, ``prompts/<call>/<version>.md``: another version is another file, and no code changes.

A file holds a Jinja template in two parts, ``--- system`` and ``--- user``; a line ``<image>`` in the latter says where
the picture goes. Whatever many requests share stands first (instructions, then the entity's summary, then picture and
caption), so that an engine's prefix cache serves it. A prompt's id, its call, version and a hash of the file, travels
with every label.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from raylab.errors import RaylabError, nearest

SHIPPED = Path(__file__).parent / "prompts"
CALLS = ("describe", "verify", "name", "questions")
"""What an annotator can be asked; each is a folder of prompts, and `answers` knows how to read its answer."""

_IMAGE = "<image>"
_LOOKS_LIKE_CONTROL = re.compile(r"<(?=[|/a-zA-Z_])|\[(?=/?(?:INST|IMG|TOOL|SYSTEM|AVAILABLE)\w*\])")


@dataclass(frozen=True)
class Rendered:
    """A request's words. The picture stands between `before` and `after`."""

    system: str
    before: str
    after: str


@dataclass(frozen=True)
class Prompt:
    """A prompt file, read."""

    call: str
    """One of `CALLS`: the name of its folder."""
    version: str
    """The file's name."""
    digest: str
    """12 hex digits over the file's content."""
    system: str
    before: str
    after: str

    @property
    def id(self) -> str:
        """``call/version@digest``."""
        return f"{self.call}/{self.version}@{self.digest}"

    def render(self, **values: str | None) -> Rendered:
        """Fill the template.

        Args:
            values: ``title``, ``description``, ``summary``, ``caption``, ``rationale``: those that the template names.
                What comes from outside cannot speak to the model in its control tokens: see `plain`.

        Raises:
            RaylabError: the template names a value that is not given.
        """
        from jinja2 import TemplateError

        spoken = {name: plain(value or "") for name, value in values.items()}
        try:
            return Rendered(
                *(_template(part).render(spoken).strip() for part in (self.system, self.before, self.after))
            )
        except TemplateError as error:
            raise RaylabError(f"prompt {self.call}/{self.version}: {error}. Known: {', '.join(values)}.") from error


def plain(text: str) -> str:
    """Return text in one line in which nothing reads as a chat model's control token, such as ``<|im_end|>``."""
    line = " ".join(text.split())
    return _LOOKS_LIKE_CONTROL.sub(lambda found: f"{found.group()} ", line)


@cache
def load_prompt(name: str) -> Prompt:
    """Read a prompt.

    Args:
        name: ``call/version`` of a shipped one (``verify/rew-1``), or the path of a file whose folder is named after
            its call.

    Raises:
        RaylabError: there is none, or the file does not have the two parts or its ``<image>``.
    """
    path = Path(name) if name.endswith(".md") else SHIPPED / f"{name}.md"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = shipped()
        raise RaylabError(
            f"There is no prompt {name!r} ({error}).{nearest(name, known)} "
            f"Shipped: {', '.join(known)}; or give the path of a file <call>/<version>.md."
        ) from error
    call = path.parent.name
    if call not in CALLS:
        raise RaylabError(f"{path}: the folder of a prompt names its call, one of {', '.join(CALLS)}, not {call!r}.")
    parts = re.fullmatch(r"(?:\{#.*?#\}\s*)?--- system\n(.*?)^--- user\n(.*)", text, re.DOTALL | re.MULTILINE)
    before, image, after = parts[2].partition(_IMAGE) if parts else ("", "", "")
    if not parts or not image:
        raise RaylabError(f"{path} is no prompt: it needs '--- system', '--- user' and a line {_IMAGE} after that.")
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return Prompt(call, path.stem, digest, parts[1], before, after)


def shipped() -> list[str]:
    """Return the names of the prompts that come with the package."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in SHIPPED.glob("*/*.md"))


@cache
def _template(text: str) -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(text)
