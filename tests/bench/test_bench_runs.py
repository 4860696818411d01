"""Tiny versions of every benchmark run to the end, and their documents keep their shape."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hotrow.bench import (
    CASES,
    Settings,
    bench_kernels,
    bench_train,
    lines,
    markdown,
    measure_pair,
    write_markdown,
)
from hotrow.bench.cases import RM2_DENSE, SHAPES, Draw
from hotrow.bench.harness import Spread, relative_error, require_equal
from hotrow.bench.plain import PlainDLRM, split_jagged
from hotrow.bench.quality import quality_verdicts, read_log
from hotrow.cli import run
from hotrow.errors import ConfigError, FormatError

TINY = Settings(num_samples=2, min_seconds=0.0, warm_up=0)
needs_fbgemm = pytest.mark.skipif(
    importlib.util.find_spec("fbgemm_gpu") is None, reason="needs fbgemm-gpu-cpu: pip install 'hotrow[bench]'"
)


def tiny(name):
    case = CASES[name]
    return replace(case, shape=replace(case.shape, num_rows=200, batch_size=8, num_batches=1, num_tables=2))


@needs_fbgemm
@pytest.mark.parametrize("name", list(CASES))
def test_every_case_runs_and_its_outputs_agree(name, tmp_path):
    ids = np.arange(3000, dtype=np.int32) % 200
    for trace in ("dlrm_reuse_low", "dlrm_reuse_medium"):
        np.savez(tmp_path / f"{trace}.npz", ids=ids)
    document = bench_kernels([tiny(name)], TINY, traces=tmp_path, tune_seconds=0.0)
    (case,) = document["cases"]
    names = [item["opponent"] for item in case["comparisons"]]
    assert "roofline" in names and any(item["judged"] for item in case["comparisons"])
    for item in case["comparisons"]:
        assert item["ratio"]["q1"] <= item["ratio"]["median"] <= item["ratio"]["q3"]
        assert (item["max_error"] is None) == (item["tolerance"] is None)
    check_document(document, "kernels")


def check_document(document, what):
    assert set(document) == {"format_version", "what", "machine", "cases", "bounds"}
    assert (document["format_version"], document["what"]) == (1, what)
    assert {"cpu", "cores", "caches", "kernel", "huge_pages", "torch", "cpu_level", "date"} <= set(
        document["machine"]
    )
    assert all(set(bound) == {"bound", "measured", "met"} for bound in document["bounds"])
    assert json.loads(json.dumps(document)) == document
    text = markdown(document)
    assert all(case["name"] in text for case in document["cases"])
    assert len(lines(document)) > len(document["bounds"])


def test_traces_are_skipped_with_the_reason():
    document = bench_kernels([CASES["meta-low.forward"]], TINY)
    assert document["cases"] == [
        {"name": "meta-low.forward", "skipped": "needs --traces with the recorded traces"}
    ]
    assert any("skipped" in line for line in lines(document))


def test_train_compares_losses_and_profiles_both_sides():
    shape = replace(
        SHAPES["rm2"],
        num_tables=3,
        num_rows=100,
        batch_size=8,
        ids_per_bag=4,
        num_batches=2,
        draw=Draw.UNIFORM,
    )
    document = bench_train(TINY, shape=shape, dense_shape=replace(RM2_DENSE, num_dense=5))
    (case,) = document["cases"]
    assert case["comparisons"][0]["max_error"] < 1e-4
    assert set(case["profile"]) == set(case["peer_profile"]) and case["profile"]["rows_update"] > 0
    check_document(document, "train")


def test_a_different_output_is_not_timed():
    a = torch.ones(3)
    assert require_equal("x", a, a * (1 + 1e-7), 1e-5) < 1e-5
    for other in (a * 1.1, torch.ones(4), torch.tensor([1.0, torch.nan, 1.0])):
        with pytest.raises(ConfigError, match="nothing was timed"):
            require_equal("x", a, other, 1e-5)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0.0


def test_pairs_are_interleaved_and_the_ratio_is_per_pair():
    calls = []
    pair = measure_pair(lambda: calls.append("a"), lambda: calls.append("b"), TINY)
    assert "".join(calls).endswith("abab") and pair.num_samples == 2
    with pytest.raises(ConfigError):
        Settings(num_samples=0)


def test_quartiles():
    assert Spread.of([3.0, 1.0, 2.0, 4.0, 5.0]) == Spread(median=3.0, q1=2.0, q3=4.0)
    assert Spread.of([2.0]).scaled(2) == Spread(median=4.0, q1=4.0, q3=4.0)


def test_a_result_file_is_never_overwritten(tmp_path):
    document = bench_kernels([CASES["meta-low.forward"]], TINY)
    first, second = write_markdown(document, tmp_path), write_markdown(document, tmp_path)
    assert first != second and first.read_text() == second.read_text()
    assert first.name == f"{document['machine']['date'][:10]}-kernels.md"


def test_plain_dlrm_sees_each_features_own_ids():
    values, offsets = torch.tensor([5, 6, 7, 8]), torch.tensor([0, 1, 1, 3, 4])
    ids, starts = split_jagged(values, offsets, 2)
    assert [i.tolist() for i in ids] == [[5], [6, 7, 8]] and [s.tolist() for s in starts] == [[0, 1], [0, 2]]
    bags = [torch.nn.EmbeddingBag(9, 4, mode="sum", sparse=True) for _ in range(2)]
    for num_dense, interaction in ((0, "dot"), (3, "dot"), (3, "cat")):
        model = PlainDLRM(bags, num_dense=num_dense, bottom=(4,), top=(5,), interaction=interaction)
        assert model(torch.zeros(2, num_dense), ids, starts).shape == (2,)


def test_quality_bounds_can_be_missed():
    good = quality_verdicts({"hotrow": [0.9062, 0.9064], "plain": [0.9066, 0.9066]})
    assert [v["met"] for v in good] == [True, True]
    bad = quality_verdicts({"hotrow": [0.9050], "plain": [0.9060]})
    assert [v["met"] for v in bad] == [False, False]
    assert [v["met"] for v in quality_verdicts({"hotrow": [0.91], "plain": []})] == [None, True]


def test_a_broken_log_names_its_line(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_log(path) == {}
    path.write_text('{"key": "a"}\n{"key": \n')
    with pytest.raises(FormatError, match=r"log.jsonl:2"):
        read_log(path)


def test_wrong_usage_exits_2(capsys):
    assert run(["bench", "kernels", "--case", "nothing"]) == 2
    assert "no case 'nothing'" in capsys.readouterr().err
    assert run(["bench", "kernels", "--samples", "0"]) == 2
    assert run(["bench", "loader", "/nonexistent"]) == 2


def test_json_is_the_only_thing_on_stdout(capsys):
    assert run(["bench", "kernels", "--case", "meta-low.forward", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"][0]["name"] == "meta-low.forward"
