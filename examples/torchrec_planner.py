"""TorchRec's planner, told how every table is accessed: which table gets how much of the GPU's memory as a cache."""

import torch
import torchrec
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.proposers import EmbeddingOffloadScaleupProposer

import hotrow as hr
from hotrow.interop.torchrec import planner_stats, torchrec_tables

ROWS, BATCH, KEYS = 200_000, 1024, ["user", "item"]
configs = [
    torchrec.EmbeddingBagConfig(num_embeddings=ROWS, embedding_dim=64, name=k, feature_names=[k])
    for k in KEYS
]
model = torchrec.EmbeddingBagCollection(tables=configs, device=torch.device("meta"))


def batches():  # users come again seldom, items often
    for seed in range(500):
        user, item = torch.rand((2, BATCH), generator=torch.Generator().manual_seed(seed))
        ids = (torch.cat([user, item**8]) * ROWS).long()
        yield torchrec.KeyedJaggedTensor(KEYS, ids, lengths=torch.ones(2 * BATCH, dtype=torch.int64))


profile = hr.profile(batches(), tables=torchrec_tables(model))
stats = planner_stats(profile)  # stats.save("stats.json"): PlannerStats.load reads it on another machine
planner = EmbeddingShardingPlanner(
    topology=Topology(world_size=1, compute_device="cuda", hbm_cap=80 << 20),  # planned for, not needed here
    batch_size=BATCH,
    constraints=stats.constraints(sharding_types=["table_wise"], compute_kernels=["fused_uvm_caching"]),
    proposer=[EmbeddingOffloadScaleupProposer()],
)
for name, table in planner.plan(model, [EmbeddingBagCollectionSharder()]).plan[""].items():
    share = table.cache_params.load_factor or 1.0
    print(
        f"{name}: {table.compute_kernel}, cache {share:.3f}, miss rate {stats.tables[name].miss_rate(share):.3f}"
    )
