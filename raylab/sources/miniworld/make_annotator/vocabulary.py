"""The annotator's tokenizer: byte pairs, and every title of the catalogue as one token.

An answer's title is one token, so its probability is the annotator's confidence in it; and a candidate's title is
compared with a picture by one vector.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from raylab.sources.miniworld.entities import ENTITIES
from raylab.sources.miniworld.make_annotator.lessons import lesson, texts
from raylab.sources.miniworld.make_annotator.model import END, PAD, SPECIAL
from raylab.sources.miniworld.samples import Sample

_LESSONS = 10_000
"""Lessons whose words the vocabulary is made from."""


def make_tokenizer(rows: Sequence[Sample], vocabulary: int) -> Any:
    """Train a byte-pair tokenizer on lessons about `rows`.

    Returns:
        A transformers ``PreTrainedTokenizerFast`` of at most `vocabulary` tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random("vocabulary")
    lessons = [lesson(row, rng) for row in rows[:_LESSONS]]
    words = [*texts(), *(text for one in lessons for text in (one.prompt, one.answer))]
    titles = [entity.title for entity in ENTITIES]
    for token in SPECIAL:
        words = [text.replace(token, "\n") for text in words]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(titles),
        min_frequency=5,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    bpe.add_special_tokens(list(SPECIAL))
    bpe.add_tokens([AddedToken(title, normalized=False) for title in titles])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END, model_max_length=1024)
