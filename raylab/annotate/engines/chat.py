"""A request in the words that its model was trained on: the model's own chat template, and the picture in its place."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from raylab.errors import RaylabError

_PROBE = "one two three"


def parts(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the user says, as parts: words, picture, words. Empty ones are left out."""
    words_before = [{"type": "text", "text": request["before"]}] if request["before"] else []
    picture = [{"type": "image"}] if request["image"] else []
    words_after = [{"type": "text", "text": request["after"]}] if request["after"] else []
    return words_before + picture + words_after


class Template:
    """A model's chat template.

    Templates differ in what they take: a list of parts or a string, a system role or none. Both are found out by
    rendering a probe.

    Args:
        model: a folder or a name on the hub.
        revision: of a model on the hub.

    Raises:
        RaylabError: the model has no chat template, or none that can be read.
    """

    def __init__(self, model: str, revision: str | None = None) -> None:
        """Load the template."""
        self._model = model
        self._render, tokenizer = _load(model, revision)
        self._takes_parts = self._try([_user([{"type": "text", "text": _PROBE}])]) is not None
        self._takes_images = self._takes_parts and self._sees_images()
        self._takes_system = self._try([_system("s", self._takes_parts), self._said(_PROBE)]) is not None
        if self._try([self._said(_PROBE)]) is None:
            raise RaylabError(f"{model} has no chat template that can be used: take an instruction-tuned model.")
        self.stop_tokens = frozenset(tokenizer.all_special_ids)
        self._first = _first_token(tokenizer)

    def prompt(self, request: Mapping[str, Any]) -> str:
        """Return the prompt of a request, the picture as the model's own placeholder.

        Raises:
            RaylabError: there is a picture and the model's template has no place for one.
        """
        content = parts(request)
        if request["image"] and not self._takes_images:
            raise RaylabError(
                f"The chat template of {self._model} has no place for a picture. Take a vision-language model, or "
                "serve it by `vllm serve` and give its address; one that only reads needs --describer.model beside it."
            )
        messages = [self._said(content)]
        if request["system"]:
            messages = self._with_system(request["system"], content)
        prompt = self._render(messages)
        return prompt.removeprefix(self._first) if self._first else prompt

    def _with_system(self, system: str, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self._takes_system:
            return [_system(system, self._takes_parts), self._said(content)]
        return [self._said([{"type": "text", "text": f"{system}\n\n"}, *content])]

    def _said(self, content: list[dict[str, Any]] | str) -> dict[str, Any]:
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        return _user(content if self._takes_parts else "\n".join(part["text"] for part in content if "text" in part))

    def _sees_images(self) -> bool:
        text: list[dict[str, Any]] = [{"type": "text", "text": _PROBE}]
        return self._try([_user([{"type": "image"}, *text])]) not in (None, self._try([_user(text)]))

    def _try(self, messages: list[dict[str, Any]]) -> str | None:
        """Return the prompt, or None where the template fails or shows the parts' own notation."""
        try:
            prompt = self._render(messages)
        except Exception:  # a template raises what it likes
            return None
        return prompt if _PROBE in prompt and "'type'" not in prompt else None


def picture(data: bytes) -> Any:
    """Return a request's JPEG, which `pictures` wrote, as a PIL image."""
    from PIL import Image

    return Image.open(io.BytesIO(data)).convert("RGB")


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _system(words: str, as_parts: bool) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": "text", "text": words}] if as_parts else words}


def _load(model: str, revision: str | None) -> tuple[Any, Any]:
    """Return a function from messages to the prompt, and the tokenizer."""
    from transformers import AutoProcessor, AutoTokenizer

    try:
        processor = AutoProcessor.from_pretrained(model, revision=revision)
    except Exception:  # no processor: a model that only reads
        processor = AutoTokenizer.from_pretrained(model, revision=revision)
    tokenizer = getattr(processor, "tokenizer", processor)
    speaks = processor if getattr(processor, "chat_template", None) else tokenizer

    def render(messages: list[dict[str, Any]]) -> str:
        # enable_thinking: some families think aloud first, which a JSON answer leaves no room for; others ignore it.
        return speaks.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)

    return render, tokenizer


def _first_token(tokenizer: Any) -> str | None:
    """Return the token that the tokenizer puts before every prompt by itself: templates write it too."""
    first = tokenizer("").input_ids[:1]
    return tokenizer.bos_token if first and first[0] == tokenizer.bos_token_id else None
