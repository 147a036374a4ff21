from __future__ import annotations

import bz2
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.errors import RaylabError
from raylab.kb.lines import lines, pieces

TEXT = b"".join(b"%d %s\n" % (number, b"x" * (number * 37 % 400)) for number in range(2_000)) + b"last, without an end"


@pytest.mark.parametrize("piece_bytes", [1, 1_000, 65_536, 10**9])
def test_pieces_of_a_plain_file_hold_every_line_once(tmp_path: Path, piece_bytes: int) -> None:
    path = tmp_path / "a.jsonl"
    text = TEXT if piece_bytes > 1 else TEXT[:3_000]
    path.write_bytes(text)
    cut = pieces(str(path), piece_bytes)
    assert sum(piece.size for piece in cut) == len(text)
    assert [line for piece in cut for line in lines(piece)] == text.splitlines(keepends=True)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=12), piece_bytes=st.integers(50, 20_000))
def test_pieces_of_a_bz2_file_hold_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], piece_bytes: int
) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    path = tmp_path_factory.mktemp("bz2") / "a.json.bz2"
    path.write_bytes(b"".join(bz2.compress(TEXT[a:b]) for a, b in pairwise(edges)))
    found = [line.rstrip(b"\n") for piece in pieces(str(path), piece_bytes) for line in lines(piece)]
    assert found == TEXT.splitlines()


def test_a_cut_bz2_file_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "cut.json.bz2"
    path.write_bytes(bz2.compress(TEXT) + bz2.compress(TEXT)[:-50])
    with pytest.raises(RaylabError, match=r"cut.json.bz2 is damaged"):
        [list(lines(piece)) for piece in pieces(str(path), 1_000)]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RaylabError, match=r"nothing.json cannot be read"):
        pieces(str(tmp_path / "nothing.json"))
