"""Arguments of ``hr.profile`` and ``open_data`` that cannot be, and what a profile of odd data is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_batches import bags, one_feature

import hotrow as hr
from hotrow.errors import ConfigError, DataError
from hotrow.profiling import open_data

NUMBERS = ("batch_size", "look_ahead", "num_windows", "num_threads")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 2.5), ("batch_size", 10**12), ("batch_size", True), ("batch_size", "8"), ("num_windows", 2.5),
        ("num_windows", None), ("num_windows", 10**6), ("look_ahead", 1.0), ("look_ahead", None), ("num_threads", 1e9),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^profile: {name}=.*; give at least .*a whole number"):
        hr.profile(one_feature(np.arange(10), 5), **{name: value})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NUMBERS),
    st.one_of(st.integers(), st.integers(-3, 9), st.floats(), st.sampled_from(["", [], None, 10**400])),
)
def test_any_number_is_refused_or_profiled_with(name: str, value: Any) -> None:
    value = min(value, 64) if name == "num_threads" and isinstance(value, int) else value
    try:
        made = hr.profile(one_feature(np.arange(40) % 7, 5), **{name: value})
    except ConfigError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
        return
    assert made.tables["f"].num_distinct_rows == 7


def test_a_feature_without_ids_makes_a_profile_that_can_be_read(tmp_path: Path) -> None:
    hr.profile([bags({"a": [[], []], "b": [[1], []]})]).save(tmp_path / "p.json")
    assert hr.AccessProfile.load(tmp_path / "p.json").tables["a"].num_rows == 1


def test_every_file_has_the_columns_before_the_pass(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"other": [1, 2]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: no column 'item', which .*a\.parquet has"):
        open_data(tmp_path, batch_size=2)
    with pytest.raises(ConfigError, match="batch_size=0; give at least 1"):
        open_data(tmp_path / "a.parquet", batch_size=0)
