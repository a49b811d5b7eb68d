"""Parquet files whose few bytes stand for many."""

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from builder.core.errors import SourceError  # noqa: E402
from builder.inputs.parquet import rows, select_rows  # noqa: E402
from schemas.config import Limits  # noqa: E402

LIMITS = Limits(max_chunk_bytes=8 << 20)
LONG = "x" * 1_000_000


@pytest.fixture
def texts(tmp_path):
    """A hundred rows of one long text: one megabyte encoded, a hundred decoded."""
    table = pa.table({"episode_index": np.arange(100) // 50, "text": [LONG] * 100})
    pq.write_table(table, tmp_path / "a.parquet", compression="none")
    assert (tmp_path / "a.parquet").stat().st_size < 2_000_000
    return tmp_path / "a.parquet"


def test_values_that_repeat_count_as_often_as_they_stand_there(texts):
    says = r"column text of row group 0.*limits\.max_chunk_bytes"
    with select_rows(texts, "episode_index", 1, LIMITS) as found:
        with pytest.raises(SourceError, match=says):
            found.column("text")
    with select_rows(texts, "episode_index", 1, Limits(max_chunk_bytes=101 << 20)) as found:
        assert found.column("text").to_pylist() == [LONG] * 50


def test_rows_are_decoded_a_few_at_a_time(texts):
    before = pa.total_allocated_bytes()
    found = rows(texts, ["text"], LIMITS)
    for _ in range(100):
        assert next(found)["text"] == LONG
        assert pa.total_allocated_bytes() - before < 3 * LIMITS.max_chunk_bytes
    assert next(found, None) is None


def test_runs_of_numbers_are_counted_before_they_are_read(tmp_path):
    table = pa.table({"episode_index": np.zeros(2_000_000, np.int64)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2_000_000)
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.raises(SourceError, match="has 16000000 bytes"):
        select_rows(tmp_path / "a.parquet", "episode_index", 0, LIMITS).__enter__()
