"""``replace_embeddings``: swap a model's embedding modules for hotrow's, in place, keeping their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hotrow.core import DataType, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from hotrow.embedding.bags import DEFAULT_OPTIMIZER, EmbeddingBagCollection
from hotrow.embedding.collection import check_seed
from hotrow.embedding.foreign import collection_tables, is_torchrec_collection
from hotrow.embedding.module import TableModule
from hotrow.embedding.opening import make_store
from hotrow.embedding.sequences import EmbeddingCollection
from hotrow.embedding.shared import cut
from hotrow.embedding.single import GatheredTable, PooledTable
from hotrow.embedding.store import TableStore
from hotrow.embedding.tables import check_plan, check_tables, store_rows
from hotrow.embedding.tiered import TieredStore
from hotrow.errors import ConfigError, HotrowError
from hotrow.optim import Optimizer
from hotrow.plans import Plan

DATA_TYPES = {torch.float32: DataType.FP32, torch.bfloat16: DataType.BF16}


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """One module that was replaced: every path it has in the model, what it was, what it is, its tables' names."""

    paths: tuple[str, ...]
    was: str
    module: TableModule
    tables: tuple[str, ...]


class Replacements(list[Replacement]):
    """What ``replace_embeddings`` did, module by module. With a ``storage_dir`` the modules' tables share it.

    Then ``commit`` makes all of them durable together, and ``close`` (or leaving a ``with``) lets the directory go.
    """

    def __init__(self, replaced: Sequence[Replacement], shared: TieredStore | None) -> None:
        super().__init__(replaced)
        self._shared = shared

    @property
    def step(self) -> int:
        """Updates of the module that has made the most; those before a commit that was opened count."""
        return max((item.module.step for item in self), default=0)

    def commit(self, name: str) -> Path:
        """Make rows, optimizer state and steps of all modules durable under ``name``, whole or not at all.

        Returns the directory. Raises as ``EmbeddingBagCollection.commit``.
        """
        if self._shared is None:
            raise ConfigError(
                f"commit {name!r}: these tables are in memory; give replace_embeddings a storage_dir, or save "
                "state_dict() and the modules' optimizer_state()"
            )
        self._shared.step = self.step
        self._shared.part_steps = tuple(item.module.step for item in self)
        return self._shared.commit(name)

    def close(self) -> None:
        """Let the rows go. Every later use of the modules raises ConfigError."""
        for item in self:
            item.module.close()
        if self._shared is not None:
            self._shared.close()

    def __enter__(self) -> Replacements:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class _Found:
    """An embedding module of the model, checked: where it is and what its tables are."""

    module: nn.Module
    paths: list[str]
    tables: list[EmbeddingConfig]
    weights: list[Tensor]


def replace_embeddings(
    model: nn.Module,
    plan: Plan | None = None,
    optimizer: Optimizer | None = DEFAULT_OPTIMIZER,
    *,
    storage_dir: str | Path | None = None,
    seed: int = 0,
) -> Replacements:
    """Swap every ``nn.EmbeddingBag``, ``nn.Embedding`` and TorchRec collection inside ``model`` for hotrow's.

    Weights are kept, calls stay the same, ``state_dict`` keys stay the same. A module that the model uses in several
    places stays shared. Replaced rows are trained by ``optimizer`` in the backward and are no longer in
    ``parameters()``, so call this before the model's own optimizer is built; with ``optimizer=None`` they stay
    parameters with sparse gradients. A table of an ``nn`` module is named by its path in the model. Frozen weights
    stay frozen. A replaced ``weight`` may be read, but a gradient that reaches it other than through the module's own
    call (a weight tied by ``F.linear(x, embedding.weight)``, a penalty on the weight) is a ConfigError in the
    backward; the tables of a replaced TorchRec collection have no such guard, and give no gradient there.

    plan: where rows live; ``embedding_tables(model)`` are the tables to make one for. storage_dir: where rows on ssd
    and commits live. A new one takes the model's weights; one that has commits is opened at the last, and the
    model's weights are not looked at.

    Raises ConfigError, before anything is changed, naming the path and the feature that has no exact counterpart:
    max_norm, scale_grad_by_freq, mode 'max', weights tied to another module, hooks, subclasses with their own
    forward, precisions other than fp32 and bf16, devices other than the CPU; and if there is nothing to replace.
    """
    check_seed(seed)
    found = _find(model)
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no nn.EmbeddingBag, nn.Embedding or TorchRec collection to replace"
        )
    check_plan([table for item in found for table in item.tables], plan, storage_dir)
    _refuse_tied_weights(model, found)
    shared = None if storage_dir is None else _open_shared(found, plan, optimizer, storage_dir, seed)
    stores = [None] * len(found) if shared is None else cut(shared, [len(item.tables) for item in found])
    try:  # whatever is refused is refused here
        twins = [_build(item, optimizer, seed, store) for item, store in zip(found, stores)]
    except ConfigError:
        if shared is not None:
            shared.close()
        raise
    replacements = []
    for item, twin in zip(found, twins):
        twin.train(item.module.training)
        for path in item.paths:
            parent, _, name = path.rpartition(".")
            model.get_submodule(parent).add_module(name, twin)
        replacements.append(
            Replacement(
                paths=tuple(item.paths),
                was=f"{type(item.module).__module__}.{type(item.module).__name__}",
                module=twin,
                tables=tuple(table.name for table in item.tables),
            )
        )
    return Replacements(replacements, shared)


def embedding_tables(model: nn.Module) -> list[EmbeddingConfig]:
    """The tables that ``replace_embeddings`` would make of ``model``: what a plan for it is made of. Raises as it."""
    return [table for item in _find(model) for table in item.tables]


def _open_shared(
    found: Sequence[_Found],
    plan: Plan | None,
    optimizer: Optimizer | None,
    storage_dir: str | Path,
    seed: int,
) -> TieredStore:
    """One store for all tables: as last committed, or new with the modules' weights."""
    tables = [table for item in found for table in item.tables]
    names = [table.name for table in tables]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"storage_dir={str(storage_dir)!r}: several collections of the model have tables {twice}; give each its "
            "own names"
        )
    store = make_store(tables, optimizer, seed, plan, storage_dir)
    assert isinstance(store, TieredStore)
    try:
        if store.directory.last() is None:
            for index, weight in enumerate(w for item in found for w in item.weights):
                store.write_table(index, {"weight": weight.detach()})
    except HotrowError:
        store.close()
        raise
    return store


def _find(model: nn.Module) -> list[_Found]:
    found: dict[int, _Found] = {}
    inside: set[int] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) in inside:
            continue
        is_collection = is_torchrec_collection(module)
        if not is_collection and not isinstance(module, (nn.EmbeddingBag, nn.Embedding)):
            continue
        if not path:
            raise ConfigError(
                f"the model itself is a {type(module).__name__}, which cannot be replaced in place; "
                "give the module that holds it"
            )
        if id(module) in found:
            found[id(module)].paths.append(path)
            continue
        if is_collection:
            inside.update(id(child) for child in module.modules() if child is not module)
            tables, weights = collection_tables(module)
            check_tables(tables)
        else:
            tables, weights = [_table_of(path, module)], [cast(Tensor, module.weight)]
        for table, weight in zip(tables, weights):
            _check_weight(f"{path} (table {table.name!r})", weight)
        _refuse_hooks(path, module)
        found[id(module)] = _Found(module, [path], tables, weights)
    return list(found.values())


def _table_of(path: str, module: nn.EmbeddingBag | nn.Embedding) -> EmbeddingBagConfig:
    """The table of an ``nn`` module; raises ConfigError for an option without an exact counterpart."""
    kind = nn.EmbeddingBag if isinstance(module, nn.EmbeddingBag) else nn.Embedding
    if type(module).forward is not kind.forward:
        raise ConfigError(f"{path}: {type(module).__name__} has a forward of its own; replace it by hand")
    if module.max_norm is not None:
        raise ConfigError(
            f"{path}: max_norm={module.max_norm} changes rows in the forward and is not supported"
        )
    if module.scale_grad_by_freq:
        raise ConfigError(f"{path}: scale_grad_by_freq=True is not supported")
    pooling = PoolingType.SUM
    if isinstance(module, nn.EmbeddingBag):
        if module.mode not in ("sum", "mean"):
            raise ConfigError(f"{path}: mode {module.mode!r} is not supported; 'sum' and 'mean' are")
        pooling = PoolingType[module.mode.upper()]
    weight = module.weight
    _check_weight(path, weight)
    return EmbeddingBagConfig(
        num_embeddings=module.num_embeddings,
        embedding_dim=module.embedding_dim,
        name=path,
        data_type=DATA_TYPES[weight.dtype],
        feature_names=[path],
        pooling=pooling,
    )


def _check_weight(where: str, weight: Tensor) -> None:
    if weight.dtype not in DATA_TYPES:
        raise ConfigError(
            f"{where}: rows are {weight.dtype}; fp32 and bf16 are supported, convert them before"
        )
    if weight.device.type != "cpu":
        raise ConfigError(
            f"{where}: rows are on {weight.device}; move the model to the CPU before, tables live there"
        )


def _refuse_hooks(path: str, module: nn.Module) -> None:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for name in hooks) or hasattr(module, "parametrizations"):
        raise ConfigError(
            f"{path}: it has hooks or parametrizations, which would be lost; remove them before"
        )


def _refuse_tied_weights(model: nn.Module, found: Sequence[_Found]) -> None:
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append(f"{path}.{name}" if path else name)
    for item in found:
        for table, weight in zip(item.tables, item.weights):
            if len(owners.get(id(weight), ())) > 1:
                raise ConfigError(
                    f"table {table.name!r}: its weight is tied ({', '.join(owners[id(weight)])}); untie it"
                )


def _build(item: _Found, optimizer: Optimizer | None, seed: int, store: TieredStore | None) -> TableModule:
    """The replacement over ``store``, or with a copy of the weights in arenas of its own."""
    module, rows = item.module, list[Tensor]()
    if store is None:
        rows = [store_rows(weight, table) for table, weight in zip(item.tables, item.weights)]
    if not isinstance(module, (nn.EmbeddingBag, nn.Embedding)):
        return _build_collection(item, store or TableStore(item.tables, optimizer, seed, rows))
    options: dict[str, Any] = {
        "padding_idx": module.padding_idx,
        "is_frozen": not item.weights[0].requires_grad,
    }
    table = cast(EmbeddingBagConfig, item.tables[0])
    source = store or rows[0]
    if isinstance(module, nn.Embedding):
        return GatheredTable(table, source, optimizer, seed, **options)
    return PooledTable(
        table, source, optimizer, seed, include_last_offset=bool(module.include_last_offset), **options
    )


def _build_collection(item: _Found, store: TableStore) -> TableModule:
    frozen = [table.name for table, weight in zip(item.tables, item.weights) if not weight.requires_grad]
    if frozen and len(frozen) < len(item.tables):
        raise ConfigError(
            f"{item.paths[0]}: tables {frozen} are frozen and the others are not; freeze all or none"
        )
    module: Any = item.module
    twin: TableModule
    if hasattr(module, "embedding_bag_configs"):
        twin = EmbeddingBagCollection._from_store(
            cast(Sequence[EmbeddingBagConfig], item.tables), module.is_weighted(), store
        )
    else:
        twin = EmbeddingCollection._from_store(item.tables, module.need_indices(), store)
    if frozen:
        twin.freeze()
    return twin
