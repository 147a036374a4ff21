"""Make word vectors, which DeViSE maps pictures to: of a knowledge base's texts, or of vectors that are there.

    python jobs/words.py --kb kb --out words
    python jobs/words.py --kb kb --dim 64 --passes 100 --least 1 --out words    # a small one, as the mini-world's
    python jobs/words.py --given glove.6B.300d.txt --out words

The last line on stdout is one JSON object: id, tokens, dim, revision, and of texts: words, words_a_second.
"""

from __future__ import annotations

import json
import sys

from raylab.config import parse
from raylab.errors import RaylabError
from raylab.kb.words_build import WordsConfig, build_words


def main(args: list[str]) -> int:
    """Run the job; return the exit status."""
    try:
        config = parse({"words": WordsConfig}, "words", args, "Make word vectors.")
        about = build_words(config)
    except RaylabError as error:
        print(f"words: {error}", file=sys.stderr)
        return 2
    print(json.dumps(about | {"out": config.out}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
