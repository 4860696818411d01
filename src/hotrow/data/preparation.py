"""``prepare``: raw log → vocabularies → encoded shards; out of core, and resumable after a kill at any instant.

Stages, each feature by feature or chunk by chunk, with every finished piece in a journal (``OUT/.work/journal``):
parse (``parsing.py``), vocabularies (``building.py``), shards (``encoding.py``). The manifest is written last, so a
directory with a manifest is whole. The bytes of the output depend on the log and the options named in
``fingerprint`` only, not on memory, threads, or interruptions.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hotrow.config import to_dict
from hotrow.data.building import FeatureTask, VocabularyBuilder, feature_tasks
from hotrow.data.chunks import Chunk, Journal
from hotrow.data.encoding import Encoder, Layout
from hotrow.data.locking import LOCK_FILE, only_writer
from hotrow.data.manifest import MANIFEST_FILE, DatasetManifest, FeatureInfo, load_manifest
from hotrow.data.options import PrepareOptions
from hotrow.data.parsing import Parser
from hotrow.data.source import Source, SplitRule
from hotrow.data.splits import Codes, Splitter
from hotrow.data.vocabulary import Vocabulary
from hotrow.document import read_json
from hotrow.errors import ConfigError, DataError, FormatError, StorageError, why

WORK_DIRECTORY = ".work"
_PROCESS_BYTES = 400 << 20  # the interpreter, torch and Arrow
Progress = Callable[[str, int, int | None], None]
"""Called with the stage, how much of it is done, and of how much (None: not known)."""


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What a preparation did: the manifest and the lines it left out."""

    manifest: DatasetManifest
    num_read: int
    num_skipped: int


def prepare(
    source: Source,
    out: str | Path,
    options: PrepareOptions | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Prepare ``source`` into directory ``out`` and return what was done.

    A directory that holds the work of a killed run with the same source and options is gone on with; one that holds
    the finished dataset is left as it is. Raises ConfigError (options, another dataset in ``out``, another preparation
    at work there), DataError (the log: file, line, column, value), FormatError, StorageError (full disk: the path).
    """
    return _Preparation(source, Path(out), options or PrepareOptions(), progress or _no_progress).run()


def _no_progress(stage: str, done: int, total: int | None) -> None:
    """Show nothing."""


class _Preparation:
    def __init__(self, source: Source, out: Path, options: PrepareOptions, progress: Progress) -> None:
        self.source, self.out, self.options, self.progress = source, out, options, progress
        self.schema = source.schema
        self.rule = options.split or self.schema.split or SplitRule()
        self.tasks = feature_tasks(self.schema, options)
        self.old = None if options.extend is None else _OldDataset(Path(options.extend))
        self.settings = self._settings()
        self.fingerprint = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:32]
        self.work = out / WORK_DIRECTORY

    def _settings(self) -> dict[str, Any]:
        """Everything that decides the bytes of the output."""
        options = dataclasses.asdict(self.options)
        for name in ("memory_bytes", "resume", "overwrite", "num_threads", "extend", "split"):
            del options[name]
        return {
            "source": self.source.describe(),
            "schema": to_dict(dataclasses.replace(self.schema, split=self.rule)),
            **options,
            "extends": None if self.old is None else self.old.manifest.fingerprint,
        }

    def run(self) -> PrepareReport:
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"{self.out}: is a file; give a new or an empty directory as output")
        with only_writer(self.out):
            return self._run()

    def _run(self) -> PrepareReport:
        finished = self._finished()
        if finished is not None:
            return finished
        journal = self._open_journal()
        splitter = Splitter(self.rule)
        parser = Parser(self.source, self.options, splitter, self.work, journal)
        for num_rows in parser.run():
            self.progress("read", num_rows, self.source.num_rows)
        chunks = [
            Chunk(self.work / f"chunk-{i:06d}", entry) for i, entry in enumerate(journal.of_kind("chunk"))
        ]
        parsed = journal.of_kind("parsed")[0]
        split_codes = functools.partial(_split_codes, splitter, parsed["num_rows"])
        infos = self._build(journal, chunks, split_codes)
        manifest = self._encode(journal, chunks, split_codes, infos, parsed)
        manifest.save(self.out / MANIFEST_FILE)
        shutil.rmtree(self.work, ignore_errors=True)
        return PrepareReport(
            manifest=manifest, num_read=parsed["num_rows"], num_skipped=parsed["num_skipped"]
        )

    def _finished(self) -> PrepareReport | None:
        """The report of a dataset that is there already. Raises ConfigError if it is another one."""
        if self.options.overwrite:
            _remove_dataset(self.out)
        if not (self.out / MANIFEST_FILE).exists():
            return None
        manifest = load_manifest(self.out)
        if manifest.fingerprint != self.fingerprint:
            raise ConfigError(
                f"{self.out}: holds a dataset made otherwise; give --overwrite or another --out"
            )
        shutil.rmtree(self.work, ignore_errors=True)
        source = manifest.source
        return PrepareReport(
            manifest=manifest, num_read=source["num_read"], num_skipped=source["num_skipped"]
        )

    def _open_journal(self) -> Journal:
        if not self.options.resume:
            shutil.rmtree(self.work, ignore_errors=True)
        if not self.work.exists() and any(path.name != LOCK_FILE for path in self.out.iterdir()):
            raise ConfigError(f"{self.out}: is not empty and no dataset; give an empty or a new directory")
        _remove_torn_files(self.out)
        journal = Journal(self.work / "journal")
        begun = journal.of_kind("begin")
        if not begun:
            journal.append({"kind": "begin", "fingerprint": self.fingerprint})
        elif begun[0]["fingerprint"] != self.fingerprint:
            raise ConfigError(
                f"{self.out}: holds the unfinished work of another source or other options; "
                "give the same ones, --overwrite, or another --out"
            )
        return journal

    def _build(
        self, journal: Journal, chunks: list[Chunk], split_codes: Callable[[Chunk], Codes]
    ) -> dict[str, FeatureInfo]:
        infos = {
            entry["name"]: FeatureInfo.from_json(entry["info"], str(journal.path))
            for entry in journal.of_kind("vocabulary")
        }
        num_threads = self.options.num_threads
        budget = max(self.options.memory_bytes - _PROCESS_BYTES, 64 << 20)
        builder = VocabularyBuilder(chunks, split_codes, self.work, self.out, budget // num_threads)
        try:
            (self.out / "vocabularies").mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.out / 'vocabularies'}: cannot create: {why(error)}") from error
        todo = [task for task in self.tasks if task.name not in infos]
        self.progress("vocabularies", len(infos), len(self.tasks))

        def work(task: FeatureTask) -> FeatureInfo:
            return builder.build(task, None if self.old is None else self.old.feature(task))

        for task, info in _in_threads(num_threads, todo, work):
            journal.append({"kind": "vocabulary", "name": task.name, "info": info.to_json()})
            infos[task.name] = info
            self.progress("vocabularies", len(infos), len(self.tasks))
        return infos

    def _encode(
        self,
        journal: Journal,
        chunks: list[Chunk],
        split_codes: Callable[[Chunk], Codes],
        infos: dict[str, FeatureInfo],
        parsed: dict[str, Any],
    ) -> DatasetManifest:
        multi_valued = [task.name for task in self.tasks if task.is_multi_valued]
        layout = Layout(chunks, split_codes, self.options.shard_rows, multi_valued)
        if not any(plan.split == "train" for plan in layout.shards):
            raise DataError(f"{self.out}: no sample is in the training split; widen train in {self.rule}")
        manifest = DatasetManifest(
            features=tuple(infos[task.name] for task in self.tasks),
            dense_names=tuple(column.column for column in self.schema.dense),
            label_names=self.schema.label,
            has_weights=self.schema.weight is not None,
            splits={},
            source={
                **self.source.describe(),
                **{k: parsed[k] for k in ("num_skipped",)},
                "num_read": parsed["num_rows"],
            },
            options={key: value for key, value in self.settings.items() if key != "source"},
            fingerprint=self.fingerprint,
        )
        encoder = Encoder(layout, manifest, self.out, self.options.unknown)
        done = journal.of_kind("encoded")
        for entry in done:
            encoder.restore(entry["checksums"])
        done_names = {entry["name"] for entry in done}
        todo: list[FeatureTask | None] = [
            t for t in [None, *self.tasks] if (t.name if t else "") not in done_names
        ]
        total = len(self.tasks) + 1
        self.progress("shards", total - len(todo), total)

        def work(task: FeatureTask | None) -> dict[str, list[str]]:
            return encoder.encode_others() if task is None else encoder.encode_feature(task, infos[task.name])

        num_done = len(done)
        for task, checksums in _in_threads(self.options.num_threads, todo, work):
            journal.append({"kind": "encoded", "name": task.name if task else "", "checksums": checksums})
            num_done += 1
            self.progress("shards", num_done, total)
        return dataclasses.replace(manifest, splits=encoder.finish())


class _OldDataset:
    """The dataset that is extended."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.manifest = load_manifest(directory)

    def feature(self, task: FeatureTask) -> tuple[FeatureInfo, Vocabulary]:
        info = self.manifest.feature(task.name)
        if info.is_multi_valued != task.is_multi_valued or (info.vocabulary is None) != (
            task.hash_rows is not None
        ):
            raise ConfigError(
                f"{self.directory}: feature {task.name!r} is not of the same kind there; use the same schema"
            )
        if info.vocabulary is None:
            none = np.empty(0, np.int64)
            return info, Vocabulary(none, none, none.astype(np.int32), "int")
        vocabulary = Vocabulary.load(self.directory / info.vocabulary)
        if vocabulary.vocabulary_id() != info.vocabulary_id:
            raise FormatError(
                f"{self.directory / info.vocabulary}: not the vocabulary that the manifest names; altered"
            )
        return info, vocabulary


def _split_codes(splitter: Splitter, total: int, chunk: Chunk) -> Codes:
    if splitter.by_order:
        return splitter.codes_by_order(chunk.first_row, chunk.num_samples, total)
    return chunk.read("split")


def _in_threads(num_threads: int, items: list[Any], work: Callable[[Any], Any]) -> Iterable[tuple[Any, Any]]:
    """``(item, work(item))`` as they finish; the first error stops what has not begun."""
    with ThreadPoolExecutor(num_threads) as pool:
        futures = {pool.submit(work, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()


def _remove_torn_files(out: Path) -> None:
    """Remove what a killed process left of files that it was about to rename."""
    for directory in (out, out / "vocabularies"):
        for path in directory.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _holds_dataset(out: Path) -> bool:
    """Whether ``out`` has a dataset's manifest, whole or of any version, or the journal of an unfinished one."""
    if (out / WORK_DIRECTORY / "journal").exists():
        return True
    try:
        return bool(read_json(out / MANIFEST_FILE).get("format") == DatasetManifest.FORMAT)
    except (FormatError, StorageError):
        return False


def _remove_dataset(out: Path) -> None:
    """Remove what a preparation wrote; a directory that holds neither a dataset nor a begun one is left as it is."""
    if not _holds_dataset(out):
        return
    try:
        (out / MANIFEST_FILE).unlink(missing_ok=True)
        for name in (WORK_DIRECTORY, "vocabularies", "shards"):
            shutil.rmtree(out / name, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{out}: cannot remove the old dataset: {why(error)}") from error
