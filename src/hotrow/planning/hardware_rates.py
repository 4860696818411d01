"""Seconds of single operations, interpolated from what was measured of a machine.

Between measured points rates are bilinear in the logarithms of arguments and value. Below the least argument the value
there holds. Above the largest row a rate goes on by its last slope; above the largest arena it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hotrow.errors import ConfigError
from hotrow.measurements import Hardware, Measurement
from hotrow.planning.probe_disk import STORE_BUFFERS
from hotrow.storage import Buffers, gap_bytes_of

Values = NDArray[np.float64]
PAGE_BYTES = 4096
"""Of the smallest page, which most rows are in."""
_LEAST = 1e-15  # seconds: what logarithms are taken of
_NOISE = 0.02
"""Differences of two measurements are at least this share of the larger: disturbances may make them negative."""


@dataclass(frozen=True, eq=False)
class Surface:
    """z over a grid of x (ascending) and y (ascending): values ``[len(xs), len(ys)]``."""

    xs: Values
    ys: Values
    values: Values
    grows: bool = True  # whether z goes on by its slope above the largest x

    @classmethod
    def of(cls, points: Mapping[tuple[float, float], float], what: str, *, grows: bool = True) -> Surface:
        """From points that fill a grid. Raises ConfigError naming the first that is missing."""
        xs, ys = sorted({x for x, _ in points}), sorted({y for _, y in points})
        missing = [(x, y) for x in xs for y in ys if (x, y) not in points]
        if missing or not points:
            at = f" at {missing[0][0]:g} and {missing[0][1]:g}" if missing else ""
            raise ConfigError(f"hardware: {what} was not measured{at}; run `hotrow probe` again")
        values = [[max(points[x, y], _LEAST) for y in ys] for x in xs]
        return cls(np.log(np.array(xs)), np.log(np.array(ys)), np.log(np.array(values)), grows)

    def __call__(self, x: ArrayLike, y: ArrayLike = 1.0) -> Values:
        """z, of the shape that x and y have together."""
        i, s = _position(self.xs, x, self.grows)
        j, t = _position(self.ys, y, False)
        k, m = np.minimum(i + 1, len(self.xs) - 1), np.minimum(j + 1, len(self.ys) - 1)
        low = self.values[i, j] * (1 - t) + self.values[i, m] * t
        high = self.values[k, j] * (1 - t) + self.values[k, m] * t
        found: Values = np.exp(low * (1 - s) + high * s)
        return found

    def rising(self, axis: int) -> Surface:
        """The highest that is nowhere above this one and does not fall along x (axis 0) or y (1)."""
        values = np.flip(np.minimum.accumulate(np.flip(self.values, axis), axis), axis)
        return replace(self, values=values)


def _position(grid: Values, value: ArrayLike, grows: bool) -> tuple[NDArray[np.int64], Values]:
    """Index of the cell and the share of it that lies below, above 1 where the last one goes on."""
    at = np.log(np.maximum(np.asarray(value, dtype=np.float64), 1e-9))
    if len(grid) == 1:
        return np.zeros(at.shape, dtype=np.int64), np.zeros(at.shape)
    index = np.clip(np.searchsorted(grid, at, side="right") - 1, 0, len(grid) - 2)
    share = (at - grid[index]) / (grid[index + 1] - grid[index])
    return index, np.clip(share, 0.0, None if grows else 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class HardwareRates:
    """What operations take on one machine, in seconds. ``of`` makes it from a Hardware file.

    Foreground (all threads): forward_lookup and update_lookup, update_row by (bytes of a row, bytes that accesses
    are spread over); forward_bag by bytes of a pooled row. Background (one thread): translate_lookup, translate_row
    by slots, and miss, of a row that another has to go for; arrive by bytes of a record (a row that was read goes
    into its slot) and pack (one that is given to the write buffer). Disk: read_byte, and read_request of each read,
    of many at a time; read_beside: what a byte of a record that is written adds behind the usual buffers; waits:
    for writers, a byte of such a record, by write buffer over rows; bursts: of so many reads together, a read.
    Writer: write_row, compaction included. Of the seconds of reading and of writing read_cpu_share and
    write_cpu_share are a core's. Dense: flop by samples of a batch; operation: of one layer in torch, forward,
    backward and update. contention: seconds that the foreground loses for one that another thread takes of a core;
    read_contention: for one in which rows are read and others written out, by samples of a batch. Of a plan
    (``behind``): read_slower and write_slower, than with the buffers that were measured; wait_byte, of waits;
    arenas_bytes, of all tables together. gap_bytes: between two pages that are read together. Between ranks:
    send_call, of one exchange whatever it sends; send_byte, of a byte that a rank sends or receives; reduce_byte,
    of one of a message that is summed over ranks; exchange_ranks, between which they were measured (0: they were
    not, and are taken as free).
    """

    num_cores: int
    num_threads: int
    forward_lookup: Surface
    forward_bag: Surface
    update_lookup: Surface
    update_row: Surface
    translate_lookup: Surface
    translate_row: Surface
    miss: Surface
    arrive: Surface
    pack: Surface
    read_byte: float
    read_request: float
    bursts: Surface
    read_beside: float
    waits: Surface
    read_cpu_share: float
    write_row: Surface
    write_cpu_share: float
    flop: Surface
    operation: float
    step_calls: float
    tiered_calls: float
    contention: float
    read_contention: Surface
    send_call: float = 0.0
    send_byte: float = 0.0
    reduce_byte: float = 0.0
    exchange_ranks: int = 0
    gap_bytes: int = 0
    read_slower: float = 1.0
    arenas_bytes: float = 0.0
    write_share: float = 1.0
    write_exponent: float = 0.0
    write_slower: float = 1.0
    wait_byte: float = 0.0

    @classmethod
    def of(
        cls, hardware: Hardware, num_threads: int | None = None, num_ranks: int | None = None
    ) -> HardwareRates:
        """num_threads: of kernels and torch; those that the machine was measured with unless given. num_ranks: that
        exchange rows; of those measured the nearest number counts, the largest if not given.

        Raises ConfigError naming the measurement that is missing, or there twice, and the command that makes it.
        """
        threads = _measured_threads(hardware, num_threads)
        cores = _cores(hardware)
        lookup, bag = _forward(hardware, threads)
        per_lookup, per_row = _per_lookup_and_row(
            hardware, "update", ("row_bytes", "arena_bytes"), threads=threads
        )
        flop = Surface.of(
            {(argument_of(m, "batch"), 1.0): 1 / m.value for m in select(hardware, "dense", threads=threads)},
            "dense",
            grows=False,
        )
        slot_lookup, slot_row = _per_lookup_and_row(hardware, "translate", ("num_slots",))
        read_bytes, requests = _reads(hardware)
        between = _exchange(hardware, num_ranks)
        rates = cls(
            num_cores=cores,
            num_threads=threads,
            forward_lookup=lookup,
            forward_bag=bag,
            update_lookup=per_lookup,
            update_row=per_row,
            translate_lookup=slot_lookup,
            translate_row=slot_row,
            miss=_curve(hardware, "miss", "num_slots", 1e-9),
            arrive=_curve(hardware, "arrive", "record_bytes", 1e-9),
            pack=_curve(hardware, "pack", "record_bytes", 1e-9),
            read_byte=read_bytes,
            read_request=requests,
            bursts=_bursts(hardware),
            gap_bytes=gap_bytes_of(hardware),
            send_call=between[0],
            send_byte=between[1],
            reduce_byte=between[2],
            exchange_ranks=between[3],
            read_beside=_read_beside(hardware),
            waits=_waits(hardware),
            read_cpu_share=_share(_by_record(hardware, "read cpu"), _read_walls(hardware)),
            write_row=_curve(hardware, "write wall", "record_bytes", 1e-9),
            write_cpu_share=_share(_by_record(hardware, "write out"), _by_record(hardware, "write wall")),
            write_share=_write_power(hardware)[0],
            write_exponent=_write_power(hardware)[1],
            flop=flop,
            operation=select(hardware, "operation", threads=threads)[0].value * 1e-6,
            step_calls=0.0,
            tiered_calls=select(hardware, "tiered calls")[0].value * 1e-6,
            # A second of one core costs all threads that much of it at least, and no more if they wait for each other.
            contention=float(np.clip(select(hardware, "contention")[0].value, 1 / cores, 1.0)),
            read_contention=_read_contention(hardware),
        )
        _refuse_twice(hardware)
        return replace(rates, step_calls=_step_calls(hardware, rates))

    def behind(
        self,
        cache_bytes: float,
        whole_bytes: float,
        arenas_bytes: float | None = None,
        pinned_bytes: float = 0.0,
    ) -> HardwareRates:
        """With so many bytes of caches, of the ``whole_bytes`` that all rows take.

        They give the buffers (as a run has it: ``Buffers.of`` of its plan's caches). arenas_bytes: of all tables
        together, caches and rows that are in DRAM for ever; the caches' if not given. pinned_bytes: of those rows,
        which give buffers where caches are small beside them.

        A step goes through all tables, so what the shared cache still holds of one depends on all of them.
        Pages are read by as many as the staging buffer holds, and the disk has nothing to do between them. The smaller
        the write buffer is beside the rows, the smaller are runs and the more is merged: by a power that two measured
        sizes give.
        """
        buffers = Buffers.of(int(cache_bytes), int(pinned_bytes))
        share = buffers.write_buffer_bytes / max(whole_bytes, 1.0)
        slower = (self.write_share / share) ** self.write_exponent
        return replace(
            self,
            read_slower=self._burst_read(buffers.staging_bytes)
            / self._burst_read(STORE_BUFFERS.staging_bytes),
            arenas_bytes=float(cache_bytes if arenas_bytes is None else arenas_bytes),
            write_slower=float(slower),
            wait_byte=float(self.waits(share)),
        )

    def _burst_read(self, staging_bytes: int) -> float:
        """Seconds of one read among as many as the buffer holds."""
        return float(self.bursts(max(1, staging_bytes // PAGE_BYTES)))

    def never_falling(self) -> HardwareRates:
        """Rates that are nowhere above these, and nowhere lower for larger arenas: what noise made fall is flat.

        With them the smallest arenas that a plan may have give seconds that it does not go below.
        """
        return replace(
            self,
            forward_lookup=self.forward_lookup.rising(1),
            forward_bag=self.forward_bag.rising(1),
            update_lookup=self.update_lookup.rising(1),
            update_row=self.update_row.rising(1),
            translate_lookup=self.translate_lookup.rising(0),
            translate_row=self.translate_row.rising(0),
            miss=self.miss.rising(0),
        )


def select(hardware: Hardware, what: str, **arguments: Any) -> list[Measurement]:
    """The measurements of one quantity with these arguments. Raises ConfigError if there is none."""
    found = [
        m
        for m in hardware.measurements
        if m.what == what and all(m.arguments.get(name) == value for name, value in arguments.items())
    ]
    if not found:
        given = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise ConfigError(
            f"hardware: {what!r}{f' with {given}' if given else ''} was not measured; run `hotrow probe`"
        )
    return found


def argument_of(m: Measurement, name: str) -> float:
    """At what it was measured. Raises ConfigError where an older probe did not say."""
    if name not in m.arguments:
        raise ConfigError(
            f"hardware: {m.what!r} was measured without {name}, by an older probe; run `hotrow probe` again"
        )
    return float(m.arguments[name])


def _refuse_twice(hardware: Hardware) -> None:
    """Else the last one would decide in silence."""
    seen = list[Any]()
    for m in hardware.measurements:
        if (m.what, m.arguments) in seen:
            raise ConfigError(
                f"hardware: {m.what!r} is there twice at {dict(m.arguments)}; keep one of them, or run `hotrow probe` "
                "again"
            )
        seen.append((m.what, m.arguments))


def _measured_threads(hardware: Hardware, wanted: int | None) -> int:
    measured = sorted({int(argument_of(m, "threads")) for m in select(hardware, "forward")})
    if wanted is None:
        return measured[-1]
    if wanted not in measured:
        raise ConfigError(
            f"hardware: {wanted} threads were not measured, {', '.join(map(str, measured))} were; "
            f"run `hotrow probe` with that number of threads"
        )
    return wanted


def _cores(hardware: Hardware) -> int:
    if "cores" not in hardware.fingerprint:
        raise ConfigError("hardware: the fingerprint has no 'cores'; run `hotrow probe` again")
    return int(hardware.fingerprint["cores"])


def _step_calls(hardware: Hardware, rates: HardwareRates) -> float:
    """Of a small step what its rows and the layers of its dense part do not take by their own rates."""
    found = select(hardware, "step calls")[0]
    names = ("row_bytes", "arena_bytes", "lookups", "bags", "layers", "flop", "batch")
    of = {name: argument_of(found, name) for name in names}
    at = of["row_bytes"], of["arena_bytes"]
    rows = rates.forward_lookup(*at) + rates.update_lookup(*at) + rates.update_row(*at)
    known = of["lookups"] * float(rows) + of["bags"] * float(rates.forward_bag(*at))
    known += of["layers"] * rates.operation + of["flop"] * float(rates.flop(of["batch"]))
    return max(0.0, found.value * 1e-6 - known)


def _by_record(hardware: Hardware, what: str) -> dict[float, float]:
    return {argument_of(m, "record_bytes"): m.value for m in select(hardware, what)}


def _share(parts: Mapping[float, float], wholes: Mapping[float, float]) -> float:
    """In the mean over record sizes."""
    return float(np.mean([parts[size] / wholes[size] for size in parts if size in wholes]))


def _bursts(hardware: Hardware) -> Surface:
    """Seconds of one read of a burst, by the reads of the burst: no longer in a larger one."""
    points = {
        (argument_of(m, "reads"), 1.0): m.value * 1e-6 / argument_of(m, "reads")
        for m in select(hardware, "burst")
    }
    found = Surface.of(points, "burst", grows=False)
    return replace(found, values=np.minimum.accumulate(found.values, axis=0))


def _read_contention(hardware: Hardware) -> Surface:
    """By samples of a batch, and no more than all of the time."""
    found = select(hardware, "read contention")
    points = {(argument_of(m, "batch"), 1.0): float(np.clip(m.value, 0.01, 1.0)) for m in found}
    return Surface.of(points, "read contention", grows=False)


def _reads(hardware: Hardware) -> tuple[float, float]:
    """Seconds of a byte that is read and of a read, as all sizes of records together have it, by least squares.

    Many rows at a time, where neighbours are read together, and few tell them apart. Of a read of one page a tenth of
    its time at least is either's: what noise says beyond that is none.
    """
    found = select(hardware, "read wall")
    seconds = np.array([m.value * 1e-9 for m in found])
    pages = np.array([argument_of(m, "bytes_per_row") for m in found]) / PAGE_BYTES
    reads = np.array([argument_of(m, "reads_per_row") for m in found])
    of_pages, of_reads = np.linalg.lstsq(
        np.stack((pages, reads), 1) / seconds[:, None], seconds / seconds, rcond=None
    )[0]
    part = float(np.clip(of_pages / max(of_pages + of_reads, _LEAST), 0.1, 0.9))
    whole = float(np.median(seconds / (pages * part + reads * (1 - part))))
    return whole * part / PAGE_BYTES, whole * (1 - part)


def _exchange(hardware: Hardware, num_ranks: int | None) -> tuple[float, float, float, int]:
    """``send_call``, ``send_byte``, ``reduce_byte``, ``exchange_ranks``; 0 where ranks were not measured.

    Of a message of n bytes between R ranks n (R - 1) / R leave a rank and as many arrive, which are counted both; the
    rest stays where it is. A sum over ranks that was not measured is taken as an exchange there and one back.
    """
    found = [m for m in hardware.measurements if m.what in ("all-to-all", "all-reduce")]
    ranks = {int(argument_of(m, "ranks")) for m in found if m.what == "all-to-all"} - {0, 1}
    if not ranks:
        return 0.0, 0.0, 0.0, 0
    nearest = max(ranks) if num_ranks is None else min(ranks, key=lambda n: (abs(n - num_ranks), n))
    of = [m for m in found if int(argument_of(m, "ranks")) == nearest]
    call, each = _call_and_byte([m for m in of if m.what == "all-to-all"])
    sums = [m for m in of if m.what == "all-reduce"]
    return call, each * nearest / (2 * (nearest - 1)), _call_and_byte(sums)[1] if sums else 2 * each, nearest


def _call_and_byte(found: list[Measurement]) -> tuple[float, float]:
    """Of bytes a second by the bytes of a message: seconds of one message, and of each byte of it.

    All sizes together, by least squares of what each is missed by in proportion; a single size tells of bytes alone.
    """
    sizes = np.array([argument_of(m, "bytes") for m in found])
    seconds = np.maximum(sizes / np.array([m.value for m in found]), _LEAST)
    if len(np.unique(sizes)) > 1:
        terms = np.stack((np.ones_like(sizes), sizes), 1) / seconds[:, None]
        call, each = np.linalg.lstsq(terms, np.ones_like(sizes), rcond=None)[0]
        if call > 0 and each > 0:
            return float(call), float(each)
    return 0.0, float(np.median(seconds / sizes))


def _read_beside(hardware: Hardware) -> float:
    """Seconds that reads take longer for a byte of a record that is written meanwhile, with the usual buffers.

    It is measured with small ones, where more is merged: as much more as writing then takes.
    """
    small, (share, power) = select(hardware, "exchange")[0], _write_power(hardware)
    slower = (share / argument_of(small, "buffer_share")) ** power
    return float(max(0.0, small.value * 1e-9 / argument_of(small, "record_bytes") / slower))


def _waits(hardware: Hardware) -> Surface:
    """Seconds that a byte of a record which is written waits for writers: no longer behind a larger buffer."""
    found = select(hardware, "writer wait")
    if len({argument_of(m, "buffer_share") for m in found}) < 2:
        raise ConfigError(
            "hardware: 'writer wait' was measured with one buffer_share, of two; run `hotrow probe` again"
        )
    worst = max(m.value for m in found)
    points = {
        (argument_of(m, "buffer_share"), 1.0): max(m.value, _NOISE * worst)
        * 1e-9
        / argument_of(m, "record_bytes")
        for m in found
    }
    surface = Surface.of(points, "writer wait")
    return replace(surface, values=np.minimum.accumulate(surface.values, axis=0))


def _read_walls(hardware: Hardware) -> dict[float, float]:
    """By bytes of a record, of most rows at a time."""
    found = select(hardware, "read wall")
    most = max(argument_of(m, "rows") for m in found)
    return {argument_of(m, "record_bytes"): m.value for m in found if argument_of(m, "rows") == most}


def _write_power(hardware: Hardware) -> tuple[float, float]:
    """Write buffer over rows that ``write wall`` was measured with, and the power by which less of it is slower."""
    small = select(hardware, "write wall, small buffer")[0]
    size = argument_of(small, "record_bytes")
    usual = min(select(hardware, "write wall"), key=lambda m: abs(argument_of(m, "record_bytes") - size))
    share = argument_of(usual, "buffer_share")
    if not argument_of(small, "buffer_share") < share:
        raise ConfigError(
            f"hardware: {small.what!r} was measured with buffer_share={small.arguments['buffer_share']}, 'write wall' "
            f"with {share:g}; the first must be smaller, run `hotrow probe` again"
        )
    power = np.log(small.value / usual.value) / np.log(share / argument_of(small, "buffer_share"))
    return share, float(np.clip(power, 0.0, 1.0))


def _curve(hardware: Hardware, what: str, argument: str, unit: float) -> Surface:
    points = {(argument_of(m, argument), 1.0): m.value * unit for m in select(hardware, what)}
    return Surface.of(points, what)


def _forward(hardware: Hardware, threads: int) -> tuple[Surface, Surface]:
    """Seconds a lookup and seconds a bag, from bags of one id and of many."""
    found = select(hardware, "forward", data_type="FP32", threads=threads)
    return _separate(found, "forward", ("row_bytes", "arena_bytes"), "ids_per_bag")


def _per_lookup_and_row(
    hardware: Hardware, what: str, axes: tuple[str, ...], **arguments: Any
) -> tuple[Surface, Surface]:
    return _separate(select(hardware, what, **arguments), what, axes, "lookups_per_row")


def _separate(
    found: list[Measurement], what: str, axes: tuple[str, ...], number: str
) -> tuple[Surface, Surface]:
    """Of ns a lookup = a + b / number, the seconds a and b over the axes."""
    few, many = min(argument_of(m, number) for m in found), max(argument_of(m, number) for m in found)
    if few == many:
        raise ConfigError(f"hardware: {what!r} was measured with {number}={few} only; run `hotrow probe`")
    values: dict[float, dict[tuple[float, float], float]] = {few: {}, many: {}}
    for m in found:
        at = tuple(argument_of(m, axis) for axis in axes)
        values.setdefault(argument_of(m, number), {})[at[0], at[1] if len(at) > 1 else 1.0] = m.value * 1e-9
    missing = values[few].keys() ^ values[many].keys()
    if missing:
        raise ConfigError(f"hardware: {what!r} was not measured at {sorted(missing)[0]}; run `hotrow probe`")
    each = {
        at: max((values[few][at] - values[many][at]) / (1 / few - 1 / many), _NOISE * values[few][at])
        for at in values[few]
    }
    base = {at: max(values[many][at] - each[at] / many, _NOISE * values[many][at]) for at in each}
    return Surface.of(base, what), Surface.of(each, what)
