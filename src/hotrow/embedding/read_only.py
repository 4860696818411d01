"""The tables of a commit that are only read: for serving, and for evaluation. Any number of threads may look up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from hotrow.core import EmbeddingConfig
from hotrow.embedding.arenas import array_specs
from hotrow.embedding.store import TableStore
from hotrow.embedding.tiered import TieredStore
from hotrow.errors import ConfigError
from hotrow.storage import CommitManifest, ReadOnlyRows


class ReadOnlyStore(TieredStore):
    """Rows of a commit, without their optimizer state. Whatever would change them raises ConfigError.

    tiers: the arenas and what is behind them. path: of the commit.
    """

    is_read_only = True
    closed_text = "this collection is closed; open the commit again"

    def __init__(
        self, tables: Sequence[EmbeddingConfig], tiers: ReadOnlyRows, path: Path, manifest: CommitManifest
    ) -> None:
        TableStore.__init__(self, tables, None, manifest.seed, tiers.group.rows, tiers.group.state)
        self.tiers = tiers  # type: ignore[assignment]  # the calls of TieredRows, but for those that write
        self.path, self.step = path, manifest.step
        self._group, self._is_stale = tiers.group, False
        self._specs = [array_specs(table, None) for table in tables]

    def rows_read(self) -> dict[str, int]:
        """Not counted by table: ``storage_stats`` has the sum."""
        return {}

    def check_writable(self, what: str) -> None:
        self._refuse(what)

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"{what}: this collection is read-only; give {self.path} as from_commit= with a storage_dir= and without "
            "read_only to change its rows"
        )

    def set_lr(self, lr: float) -> None:
        self._refuse("lr")

    def write_table(self, index: int, arrays: Mapping[str, Tensor]) -> None:
        self._refuse("load rows")

    def write_rows(self, index: int, first: int, arrays: Mapping[str, Tensor]) -> None:
        self._refuse("write_rows")

    def commit(self, name: str) -> Path:
        self._refuse(f"commit {name!r}")

    def commit_into(self, directory: Path) -> None:
        self._refuse(f"commit into {directory}")

    def close(self) -> None:
        self.tiers.close()
        TableStore.close(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise ConfigError(
            f"a read-only collection cannot be copied; open {self.path} again: it may be open any number of times"
        )
