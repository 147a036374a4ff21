"""Requests and answers in the JSON of chat completions."""

from __future__ import annotations

import base64
import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any

from raylab.annotate.engines.chat import parts
from raylab.annotate.engines.replies import replied
from raylab.errors import RaylabError

COMPLAINT_CHARS = 400
"""An error page is quoted so far."""


class NoAnswer(Exception):
    """A body that is not what it should be."""


def body(request: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return a request as the server wants it."""
    said = [_picture(request["image"]) if part["type"] == "image" else part for part in parts(request)]
    system = [{"role": "system", "content": request["system"]}] if request["system"] else []
    schema = {"name": "answer", "schema": json.loads(request["schema"]), "strict": True}
    return {
        "model": model,
        "messages": [*system, {"role": "user", "content": said}],
        "response_format": {"type": "json_schema", "json_schema": schema},
        "max_tokens": request["max_tokens"],
        "temperature": request["temperature"],
        "seed": request["seed"],
        "logprobs": True,
    }


def parse(text: str, *, whole: bool) -> dict[str, Any]:
    """Return a reply's JSON.

    Args:
        text: the body.
        whole: whether it must hold an answer.

    Raises:
        NoAnswer: it is something else.
    """
    try:
        said = json.loads(text)
    except ValueError:
        raise NoAnswer(f"the reply is not JSON: {text[:COMPLAINT_CHARS]}") from None
    if whole and not _has_answer(said):
        raise NoAnswer(f"the reply holds no choices: {text[:COMPLAINT_CHARS]}")
    return said


def read(request: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parsed reply as a row of `records.ANSWER`."""
    choice, usage = said["choices"][0], said.get("usage") or {}
    told = (choice.get("logprobs") or {}).get("content")
    text = choice["message"].get("content") or choice["message"].get("refusal") or ""
    kept = _of_the_text(told, text) if told else None
    return replied(
        request,
        text,
        finish="length" if choice.get("finish_reason") == "length" else "stop",
        tokens=None if kept is None else [token["token"] for token in kept],
        logprobs=None if kept is None else [token["logprob"] for token in kept],
        prompt_tokens=usage.get("prompt_tokens"),
        answer_tokens=usage.get("completion_tokens"),
    )


def only_model(said: Any, url: str) -> str:
    """Return the name of the only model in a list of models.

    Raises:
        RaylabError: there are none or several.
    """
    entries = said.get("data") if isinstance(said, Mapping) else None
    names = [str(one["id"]) for one in entries or [] if isinstance(one, Mapping) and "id" in one]
    if len(names) == 1:
        return names[0]
    listed = f"several models: {', '.join(names[:20])}" if names else "no models"
    raise RaylabError(f"{url} lists {listed}. Say which by --annotator.served-name.")


def complaint(text: str) -> str:
    """Return the message in an error's body, or its beginning."""
    try:
        said = json.loads(text)
        said = said.get("error", said)
        said = said.get("message", said) if isinstance(said, Mapping) else said
    except (ValueError, AttributeError):
        said = text
    return " ".join(str(said).split())[:COMPLAINT_CHARS]


def seconds_to_wait(header: str | None) -> float | None:
    """Read Retry-After: seconds, or a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _picture(data: bytes) -> dict[str, Any]:
    uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": uri}}


def _has_answer(said: Any) -> bool:
    try:
        return isinstance(said["choices"][0]["message"], Mapping)
    except (KeyError, IndexError, TypeError):
        return False


def _of_the_text(told: list[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """Leave out the mark of the end, which some servers list as the last token."""
    if told and not text.endswith(told[-1]["token"]) and "".join(one["token"] for one in told[:-1]) == text:
        return told[:-1]
    return told
