"""Train 792 MB of tables and optimizer state in 64 MiB: rows on SSD, look-ahead, commits, reopening.

    python examples/larger_than_memory.py rows/ --dram 64MiB

Run it again with the same directory and the tables go on where their last commit was.
"""

import argparse
from itertools import islice

import torch

import hotrow as hr

TABLES = [
    hr.EmbeddingBagConfig(2_000_000, 32, name, feature_names=[name]) for name in ("user", "item", "shop")
]
OPTIMIZER = hr.optim.RowWiseAdagrad(lr=0.02)


def batches(first_step):
    """Endless made-up clicks, 1,024 a batch: a few ids are drawn often, most seldom."""
    for step in range(first_step, 1 << 30):
        generator = torch.Generator().manual_seed(step)
        hot = torch.rand(3 * 1024, generator=generator) ** 8
        ids = (hot * 2_000_000).long()
        labels = ((ids.view(3, -1) % 7).sum(0) > 9).float()
        lengths = torch.ones(3 * 1024, dtype=torch.int64)
        yield hr.KeyedJaggedTensor(["user", "item", "shop"], ids, lengths=lengths), labels


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--dram", default="64MiB", help="what the tables may take of memory")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.manual_seed(0)
    head = torch.nn.Linear(3 * 32, 1)
    dense = torch.optim.SGD(head.parameters(), lr=0.05)
    plan = hr.Plan.within(TABLES, options.dram, OPTIMIZER)
    where = {"plan": plan, "storage_dir": options.directory}
    with hr.EmbeddingBagCollection(TABLES, optimizer=OPTIMIZER, **where) as ebc:
        source = ((ebc.prefetch(features), labels) for features, labels in batches(ebc.step))
        for ticket, labels in islice(hr.look_ahead(source, window=4), options.steps):
            logits = head(ebc(ticket).values()).squeeze(1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
            dense.zero_grad()
            loss.backward()  # updates the rows, too
            dense.step()
            if ebc.step % 100 == 0:
                ebc.commit(f"step-{ebc.step}")
                print(f"step {ebc.step}: loss {loss.item():.4f}, committed")


if __name__ == "__main__":
    main()
