"""What a checkpoint is: ``manifest.json`` names the model, the data, the position and the files. Values only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hotrow.checkpoint.arrays import FileInfo
from hotrow.config import flatten
from hotrow.core import DataType, EmbeddingConfig
from hotrow.document import Document, take
from hotrow.errors import FormatError
from hotrow.plans import Plan

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class TableEntry:
    """One table as saved; its order says in which order of places the rows lie in the file."""

    name: str
    num_embeddings: int
    embedding_dim: int
    data_type: DataType
    feature_names: tuple[str, ...]
    order_id: str

    @classmethod
    def of(cls, config: EmbeddingConfig, order_id: str) -> TableEntry:
        return cls(
            name=config.name,
            num_embeddings=config.num_embeddings,
            embedding_dim=config.embedding_dim,
            data_type=config.data_type,
            feature_names=tuple(config.feature_names),
            order_id=order_id,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "data_type": self.data_type.value,
            "feature_names": list(self.feature_names),
            "order_id": self.order_id,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> TableEntry:
        return cls(
            name=take(value, "name", str, where),
            num_embeddings=take(value, "num_embeddings", int, where),
            embedding_dim=take(value, "embedding_dim", int, where),
            data_type=take(value, "data_type", DataType, where),
            feature_names=tuple(take(value, "feature_names", list, where)),
            order_id=take(value, "order_id", str, where),
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest(Document):
    """Everything about a checkpoint but the numbers themselves.

    step, num_samples: updates made and samples seen. config: the run's configuration as JSON. dataset: fingerprint
    of the prepared data and its columns. plan: None for tables wholly in memory. position: the loader's state.
    random: where the state of each random generator in use lies. state: what else the trainer needs to go on.
    metrics: of the last evaluation, by split and label. files: every other file of the directory.
    """

    FORMAT: ClassVar[str] = "hotrow-checkpoint"
    FORMAT_VERSION: ClassVar[int] = 1

    step: int
    num_samples: int
    config: Mapping[str, Any]
    dataset: Mapping[str, Any]
    tables: tuple[TableEntry, ...]
    files: tuple[FileInfo, ...]
    plan: Plan | None = None
    position: Mapping[str, Any] = field(default_factory=dict)
    random: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Digest of what fixes the shapes and meaning of every number: model, tables, columns."""
        what = {
            "model": self.config.get("model"),
            "tables": [table.to_json() for table in self.tables],
            "columns": {k: v for k, v in self.dataset.items() if k != "fingerprint"},
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def body(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "num_samples": self.num_samples,
            "fingerprint": self.fingerprint,
            "config": dict(self.config),
            "dataset": dict(self.dataset),
            "tables": [table.to_json() for table in self.tables],
            "plan": self.plan.to_json() if self.plan else None,
            "files": [info.to_json() for info in self.files],
            "position": dict(self.position),
            "random": dict(self.random),
            "state": dict(self.state),
            "metrics": dict(self.metrics),
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> CheckpointManifest:
        tables, files = take(body, "tables", list, where), take(body, "files", list, where)
        plan = take(body, "plan", (dict, type(None)), where)
        manifest = cls(
            step=take(body, "step", int, where),
            num_samples=take(body, "num_samples", int, where),
            config=take(body, "config", dict, where),
            dataset=take(body, "dataset", dict, where),
            tables=tuple(TableEntry.from_json(t, f"{where}: tables[{i}]") for i, t in enumerate(tables)),
            files=tuple(FileInfo.from_json(f, f"{where}: files[{i}]") for i, f in enumerate(files)),
            plan=None if plan is None else Plan.from_json(plan, f"{where}: plan"),
            position=take(body, "position", dict, where),
            random=take(body, "random", dict, where),
            state=take(body, "state", dict, where),
            metrics=take(body, "metrics", dict, where),
        )
        found = take(body, "fingerprint", str, where)
        if found != manifest.fingerprint:
            raise FormatError(
                f"{where}: fingerprint {found} does not fit the fields ({manifest.fingerprint}); the file was altered"
            )
        return manifest


def differences(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], *, ignore: Iterable[str] = ()
) -> list[str]:
    """Where two nested mappings differ, as ``key: saved → wanted``; keys beginning with one of ``ignore`` are free."""
    old, new = flatten(_plain(saved)), flatten(_plain(wanted))
    prefixes = tuple(ignore)
    return [
        f"{key}: {_show(old, key)} → {_show(new, key)}"
        for key in (*old, *(k for k in new if k not in old))
        if _show(old, key) != _show(new, key) and not (prefixes and key.startswith(prefixes))
    ]


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def _show(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key]) if key in values else "absent"
