"""A small knowledge base that the tests of this room share."""

from __future__ import annotations

import pytest
from kb.small_catalogue import ROWS, write_rows

from raylab.kb.build import BuildConfig, build
from raylab.kb.catalog import Catalog


@pytest.fixture(scope="session")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The knowledge base of `ROWS`."""
    folder = tmp_path_factory.mktemp("kb")
    source = write_rows(folder / "rows.jsonl", ROWS)
    build(BuildConfig(str(folder / "kb"), catalogues=(source,), context=False, workers=1))
    return Catalog.open(folder / "kb")
