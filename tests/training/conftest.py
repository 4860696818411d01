"""One small dataset for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_helpers import make_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("dataset"))
