"""A text tokenizer as a generative model uses it: texts to rows of one length, and its special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from raylab.assets import fetch
from raylab.errors import RaylabError


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer."""

    name: str = "bert-base-uncased"
    """What transformers' AutoTokenizer opens: a name on the hub, or a folder. GIT and GER have BERT's."""


class Tokenizer:
    """A transformers tokenizer with its special tokens found. Pickles as a name; loaded where it is used.

    Args:
        config: see there.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}

    @cached_property
    def model(self) -> Any:
        """The tokenizer.

        Raises:
            RaylabError: it is not to be had.
        """
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(fetch(self.config.name))
        except Exception as error:  # the hub's client, the network and the files each raise their own kinds
            raise RaylabError(
                f"tokenizer {self.config.name}: cannot be loaded ({type(error).__name__}: {str(error)[:200]}). Give a "
                "folder that holds it (--task.tokenizer.name), or fetch it where there is a network and copy HF_HOME."
            ) from error

    @property
    def pad(self) -> int:
        """Fills up short texts."""
        return int(self.model.pad_token_id)

    @property
    def start(self) -> int:
        """Begins a text: ``bos``, or BERT's ``cls``."""
        return int(self.model.cls_token_id if self.model.bos_token_id is None else self.model.bos_token_id)

    @property
    def end(self) -> int:
        """Ends a text: ``eos``, or BERT's ``sep``."""
        return int(self.model.sep_token_id if self.model.eos_token_id is None else self.model.eos_token_id)

    @property
    def vocab(self) -> int:
        """Tokens in all."""
        return len(self.model)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's tokens, without special ones."""
        return self.model(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def questions(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Return int64 [n, length]: tokens, cut off and filled up with `pad`."""
        return _rows([ids[:length] for ids in self.ids(texts)], length, self.pad)

    def opened(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return texts behind a start token, all but their last token, and that one: int64 [n, length] and [n].

        So Hugging Face's GIT is asked, whose answers go on where the question ends; see `git_weights`.
        """
        rows = [[self.start, *ids[:length]] for ids in self.ids(texts)]
        return _rows([row[:-1] for row in rows], length, self.pad), np.array([row[-1] for row in rows], np.int64)

    def answers(self, texts: Sequence[str | None], length: int) -> np.ndarray:
        """Return int64 [n, length]: start, tokens, end, filled up with `pad`; all `pad` where there is no text."""
        found = self.ids([text or "" for text in texts])
        return self.framed([ids if text else None for ids, text in zip(found, texts)], length)

    def framed(self, found: Sequence[Sequence[int] | None], length: int) -> np.ndarray:
        """Return what `answers` does, of tokens."""
        rows = [[] if ids is None else [self.start, *ids[: length - 2], self.end] for ids in found]
        return _rows(rows, length, self.pad)

    def text(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of tokens, without special ones."""
        return [one.strip() for one in self.model.batch_decode(list(ids), skip_special_tokens=True)]


def _rows(rows: Sequence[Sequence[int]], length: int, pad: int) -> np.ndarray:
    table = np.full((len(rows), length), pad, np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
