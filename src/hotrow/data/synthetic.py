"""Synthetic click logs that imitate what is known of real ones: heat, correlation, drift, planted labels.

A log is a function of its spec: chunk k depends on (spec, k) alone, so a log of any size is made without being held,
in any order. What is imitated, and how, is told in ``docs/synthetic.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotrow.data.heat import Heat, Scramble, make_heat
from hotrow.data.planted import Bags, BayesAuc, PlantedModel, sigmoid
from hotrow.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GROUPS = ("user", "item", "")
NUM_BANDS = 4
"""Bands of equal mass a heat law is cut into: samples share a band (how popular), clusters a cell inside it."""

CALIBRATION_CHUNK = -1


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(f"synthetic: {message}")


@dataclass(frozen=True, kw_only=True)
class BagLengths:
    """How many ids a bag has: ``fixed`` (mean), ``uniform`` on 0…2·mean, ``poisson`` or ``geometric`` (both from 0).

    Lengths above ``max_length`` are cut to it.
    """

    kind: str = "fixed"
    mean: float = 1.0
    max_length: int = 1000

    def __post_init__(self) -> None:
        kinds = ("fixed", "uniform", "poisson", "geometric")
        _check(self.kind in kinds, f"bag lengths {self.kind!r} are not one of {', '.join(kinds)}")
        _check(
            0 <= self.mean <= self.max_length,
            f"bag lengths: mean={self.mean} is not in [0, {self.max_length}]",
        )
        _check(
            self.kind != "fixed" or float(self.mean).is_integer(),
            f"bag lengths: mean={self.mean} of fixed bags must be whole",
        )

    @property
    def is_single(self) -> bool:
        return self.kind == "fixed" and self.mean == 1

    def draw(self, rng: np.random.Generator, num_bags: int) -> Ints:
        if self.kind == "fixed":
            return np.full(num_bags, int(self.mean), dtype=np.int64)
        if self.kind == "uniform":
            lengths = rng.integers(0, int(2 * self.mean) + 1, num_bags)
        elif self.kind == "poisson":
            lengths = rng.poisson(self.mean, num_bags)
        else:
            lengths = rng.geometric(1.0 / (1.0 + self.mean), num_bags) - 1
        return np.minimum(lengths, self.max_length)


@dataclass(frozen=True, kw_only=True)
class SyntheticFeature:
    """One sparse feature and its table.

    law: ``mixture`` (production-like), ``zipf`` with ``alpha``, or ``uniform``. group: ``user`` and ``item`` features
    follow the latent clusters of their group; "" is independent. missing: share of empty bags. sweep: every row
    occurs at least once where the log is long enough (see ``docs/synthetic.md``); for single-valued features.
    """

    name: str
    num_rows: int
    law: str = "mixture"
    alpha: float = 1.05
    group: str = ""
    lengths: BagLengths = field(default_factory=BagLengths)
    missing: float = 0.0
    sweep: bool = False

    def __post_init__(self) -> None:
        _check(self.num_rows >= 1, f"feature {self.name!r}: num_rows={self.num_rows} must be >= 1")
        _check(
            self.group in GROUPS, f"feature {self.name!r}: group {self.group!r} is not 'user', 'item' or ''"
        )
        _check(0.0 <= self.missing < 1.0, f"feature {self.name!r}: missing={self.missing} is not in [0, 1)")
        _check(
            not self.sweep or self.lengths.is_single,
            f"feature {self.name!r}: sweep is for single-valued features; set sweep=False or one id per bag",
        )


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """A synthetic log. Equal specs give equal logs.

    order: ``heat`` (id = place at the beginning of the log) or ``scrambled`` (a fixed permutation of it).
    correlation: share of lookups that follow their sample's cluster. heat_correlation: share that follow its
    popularity. drift: share of rows that have changed places with cold ones by the end of the log.
    dense_kind: ``normal``, or ``counts`` (whole numbers with a heavy tail, as Criteo's I1…I13).
    base_rate, logit_std, signal_rows: the planted model's label mean, logit spread and rows with an effect.
    sweep_part: the first part of the log, in which every row of swept features occurs. weighted: draw sample weights,
    Gamma(4)/4.
    """

    features: tuple[SyntheticFeature, ...]
    num_samples: int
    seed: int = 0
    num_dense: int = 13
    dense_kind: str = "normal"
    dense_missing: float = 0.0
    num_labels: int = 1
    weighted: bool = False
    order: str = "heat"
    num_clusters: int = 64
    correlation: float = 0.5
    heat_correlation: float = 0.25
    drift: float = 0.0
    base_rate: float = 0.25
    logit_std: float = 1.2
    signal_rows: int = 4096
    sweep_part: float = 1.0
    chunk_samples: int = 65536

    def __post_init__(self) -> None:
        names = [f.name for f in self.features]
        _check(len(set(names)) == len(names), f"feature names {names} have a name twice; give each once")
        for name in ("num_samples", "chunk_samples", "num_labels", "num_clusters", "signal_rows"):
            _check(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be >= 1")
        _check(self.num_dense >= 0, f"num_dense={self.num_dense} must be >= 0")
        _check(0.0 <= self.logit_std < 100.0, f"logit_std={self.logit_std} is not in [0, 100)")
        _check(self.order in ("heat", "scrambled"), f"order {self.order!r} is not 'heat' or 'scrambled'")
        _check(
            self.dense_kind in ("normal", "counts"),
            f"dense_kind {self.dense_kind!r} is not 'normal' or 'counts'",
        )
        for name in ("correlation", "heat_correlation", "drift", "dense_missing", "sweep_part"):
            _check(0.0 <= getattr(self, name) <= 1.0, f"{name}={getattr(self, name)} is not in [0, 1]")
        _check(0.0 < self.base_rate < 1.0, f"base_rate={self.base_rate} is not in (0, 1)")

    @property
    def num_chunks(self) -> int:
        return -(-self.num_samples // self.chunk_samples)


@dataclass(frozen=True)
class SyntheticChunk:
    """n consecutive samples. dense [n, num_dense] fp32 (NaN: missing), bags per feature (ids), labels [n, num_labels]
    fp32, logits [n, num_labels] fp64 (the true ones), weights [n] fp32 or None; ``begin`` is the first sample."""

    begin: int
    dense: NDArray[np.float32]
    bags: tuple[Bags, ...]
    labels: NDArray[np.float32]
    logits: Floats
    weights: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.labels)


class SyntheticLog:
    """The log of a spec, chunk by chunk. Iterating yields every chunk in order."""

    def __init__(self, spec: SyntheticSpec) -> None:
        self.spec = spec
        self._draws = [_FeatureDraw(spec, index) for index in range(len(spec.features))]
        users = [i for i, f in enumerate(spec.features) if f.group == "user"]
        items = [i for i, f in enumerate(spec.features) if f.group == "item"]
        self._model = PlantedModel(
            seed=spec.seed,
            num_rows=[f.num_rows for f in spec.features],
            num_dense=spec.num_dense,
            pairs=list(zip(users, items)),
            num_labels=spec.num_labels,
            signal_rows=spec.signal_rows,
        )
        times = (np.arange(spec.chunk_samples) + 0.5) / spec.chunk_samples
        samples = (times * spec.num_samples).astype(np.int64)
        dense, rows = self._inputs(CALIBRATION_CHUNK, samples)
        self._model.calibrate(_scaled(dense, spec), rows, logit_std=spec.logit_std, base_rate=spec.base_rate)

    def __len__(self) -> int:
        """Chunks."""
        return self.spec.num_chunks

    def __iter__(self) -> Iterator[SyntheticChunk]:
        return (self.chunk(index) for index in range(len(self)))

    def chunk(self, index: int) -> SyntheticChunk:
        """Chunk ``index``: samples from ``index * chunk_samples``. Raises ConfigError beyond the last."""
        spec = self.spec
        _check(0 <= index < len(self), f"chunk {index} is not in [0, {len(self)})")
        begin = index * spec.chunk_samples
        end = min(begin + spec.chunk_samples, spec.num_samples)
        dense, rows = self._inputs(index, np.arange(begin, end))
        logits = self._model.logits(_scaled(dense, spec), rows)
        rng = _generator(spec.seed, index, len(spec.features) + 1)
        labels = (rng.random(logits.shape) < sigmoid(logits)).astype(np.float32)
        weights = rng.gamma(4.0, 0.25, end - begin).astype(np.float32) if spec.weighted else None
        bags = tuple(Bags(draw.ids(b.rows), b.lengths) for draw, b in zip(self._draws, rows))
        return SyntheticChunk(begin, dense, bags, labels, logits, weights)

    def bayes_auc(self, chunks: Sequence[int] | None = None, label: int = 0) -> BayesAuc:
        """The best AUC on the given chunks (all of them if None), for one label."""
        indices = range(len(self)) if chunks is None else chunks
        made = (self.chunk(index) for index in indices)
        return BayesAuc.of_chunks([(c.logits[:, label], c.labels[:, label]) for c in made])

    def _inputs(self, index: int, samples: Ints) -> tuple[NDArray[np.float32], list[Bags]]:
        """Dense values and rows (in heat order of the beginning) of the given samples."""
        rng = _generator(self.spec.seed, index, 0)
        latents = _Latents.draw(rng, len(samples), self.spec.num_clusters)
        dense = _draw_dense(rng, len(samples), self.spec)
        return dense, [draw.rows(index, samples, latents) for draw in self._draws]


@dataclass(frozen=True)
class _Latents:
    """Who and what a sample is about: cluster and popularity band of its user (0) and its item (1), each [n]."""

    clusters: tuple[Ints, Ints]
    bands: tuple[Ints, Ints]

    @classmethod
    def draw(cls, rng: np.random.Generator, num_samples: int, num_clusters: int) -> _Latents:
        clusters = rng.integers(0, num_clusters, (2, num_samples))
        bands = rng.integers(0, NUM_BANDS, (2, num_samples))
        return cls((clusters[0], clusters[1]), (bands[0], bands[1]))


class _FeatureDraw:
    """Draws the rows of one feature.

    A lookup's uniform number is ``(band + (cell + noise) / num_clusters) / NUM_BANDS``. Band and cell are either
    fresh or a fixed bijection of the sample's popularity and cluster, so the number stays uniform and the heat law is
    met exactly whatever the correlation; features of one group are dependent through the shared latents.
    """

    def __init__(self, spec: SyntheticSpec, index: int) -> None:
        self._spec, self._index = spec, index
        self.feature = spec.features[index]
        self._heat: Heat = make_heat(self.feature.law, self.feature.num_rows, self.feature.alpha)
        rng = _generator(spec.seed, CALIBRATION_CHUNK - 1, index)
        self._cells = np.stack([rng.permutation(spec.num_clusters) for _ in range(NUM_BANDS)]).reshape(-1)
        self._scramble = (
            Scramble(self.feature.num_rows, spec.seed + index) if spec.order == "scrambled" else None
        )
        self._phases = (
            Scramble(max(self.feature.num_rows // 2, 1), spec.seed - index - 1) if spec.drift else None
        )
        self._num_swept = max(int(spec.sweep_part * spec.num_samples), 1)
        sweep_seed = spec.seed + (1 << 32) + index
        self._sweep = Scramble(self._num_swept, sweep_seed) if self.feature.sweep else None

    def ids(self, rows: Ints) -> Ints:
        return rows if self._scramble is None else self._scramble(rows)

    def rows(self, chunk: int, samples: Ints, latents: _Latents) -> Bags:
        """Rows of the given samples (their numbers in the log, which set the time)."""
        rng = _generator(self._spec.seed, chunk, self._index + 1)
        turns = None if self._sweep is None else self._turns(samples)
        lengths = None if self.feature.lengths.is_single else self.feature.lengths.draw(rng, len(samples))
        if self.feature.missing:
            base = np.ones(len(samples), np.int64) if lengths is None else lengths
            kept = rng.random(len(samples)) >= self.feature.missing
            lengths = base * (kept if turns is None else kept | (turns >= 0))
        rows = self._heat.places(self._uniforms(rng, latents, lengths))
        every = samples if lengths is None else np.repeat(samples, lengths)
        if self._spec.drift:
            rows = self._drifted(rows, every)
        if turns is not None:
            turns = turns if lengths is None else turns[lengths > 0]
            # The sweep goes from the coldest row up: the hot ones occur anyway.
            rows = np.where(turns >= 0, self.feature.num_rows - 1 - turns, rows)
        return Bags(rows, lengths)

    def _uniforms(self, rng: np.random.Generator, latents: _Latents, lengths: Ints | None) -> Floats:
        spec, group = self._spec, GROUPS.index(self.feature.group)
        num = len(latents.clusters[0]) if lengths is None else int(lengths.sum())
        noise = rng.random(num)
        if group == len(GROUPS) - 1:
            return noise
        clusters, bands = latents.clusters[group], latents.bands[group]
        if lengths is not None:
            clusters, bands = np.repeat(clusters, lengths), np.repeat(bands, lengths)
        keeps = rng.random((2, num), dtype=np.float32)
        fresh_bands = rng.integers(0, NUM_BANDS, num)
        fresh_clusters = rng.integers(0, spec.num_clusters, num)
        bands = np.where(keeps[0] < spec.heat_correlation, bands, fresh_bands)
        clusters = np.where(keeps[1] < spec.correlation, clusters, fresh_clusters)
        cells = self._cells[bands * spec.num_clusters + clusters]
        uniforms: Floats = (bands + (cells + noise) / spec.num_clusters) / NUM_BANDS
        return np.minimum(uniforms, np.nextafter(1.0, 0.0))

    def _drifted(self, places: Ints, samples: Ints) -> Ints:
        """Rows at the given places at the samples' times: place p and p + N/2 swap at a time of their own."""
        half = self.feature.num_rows // 2
        if half == 0:
            return places
        assert self._phases is not None
        pairs = places % half
        times = samples * (self._spec.drift / self._spec.num_samples)
        swapped = (self._phases(pairs) + 0.5) / half < times
        paired = places < 2 * half
        return np.where(swapped & paired, (places + half) % (2 * half), places)

    def _turns(self, samples: Ints) -> Ints:
        """Which row's turn it is in each sample: each row has one sample, most samples have none (-1)."""
        assert self._sweep is not None
        inside = samples < self._num_swept
        turns = self._sweep(np.where(inside, samples, 0))
        num_turns = min(self.feature.num_rows, int(SWEEP_SHARE * self._spec.num_samples))
        return np.where(inside & (turns < num_turns), turns, -1)


SWEEP_SHARE = 0.6
"""At most this share of a feature's lookups is spent on making every row occur."""


def _draw_dense(rng: np.random.Generator, num_samples: int, spec: SyntheticSpec) -> NDArray[np.float32]:
    values = rng.standard_normal((num_samples, spec.num_dense), dtype=np.float32)
    if spec.dense_kind == "counts":
        values = np.minimum(np.floor(np.exp(1.2 * values + 1.5)), 60000.0).astype(np.float32)
    if spec.dense_missing:
        values[rng.random(values.shape, dtype=np.float32) < spec.dense_missing] = np.nan
    return values


def _scaled(dense: NDArray[np.float32], spec: SyntheticSpec) -> NDArray[np.float32]:
    """Dense values as the planted model sees them: about standard normal."""
    if spec.dense_kind == "normal":
        return dense
    scaled: NDArray[np.float32] = (np.log1p(dense) - np.float32(1.7)) / np.float32(1.05)
    return scaled


def _generator(seed: int, chunk: int, stream: int) -> np.random.Generator:
    """An independent generator for each (seed, chunk, stream); any signs."""
    words: list[Any] = [seed & 0xFFFFFFFFFFFFFFFF, chunk & 0xFFFFFFFFFFFFFFFF, stream]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(words)))
