"""A small DLRM, its tables on hotrow: one nn.EmbeddingBag per categorical column, dot interaction, its own loop."""

import torch
from torch import nn

import hotrow as hr

SEED, BATCH, STEPS, LR = 7, 256, 40, 0.05
CARDINALITIES = [5000, 800, 12000, 40, 300]
DIM, NUM_DENSE = 16, 6


class DLRM(nn.Module):
    def __init__(self):
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(NUM_DENSE, 32), nn.ReLU(), nn.Linear(32, DIM), nn.ReLU())
        self.bags = nn.ModuleList(nn.EmbeddingBag(n, DIM, mode="sum", sparse=True) for n in CARDINALITIES)
        for bag in self.bags:
            nn.init.uniform_(bag.weight, -0.05, 0.05)
        num_vectors = len(CARDINALITIES) + 1
        num_pairs = num_vectors * (num_vectors - 1) // 2
        self.top = nn.Sequential(nn.Linear(DIM + num_pairs, 64), nn.ReLU(), nn.Linear(64, 1))
        self.register_buffer("pairs", torch.tril_indices(num_vectors, num_vectors, -1), persistent=False)

    def forward(self, dense, ids, offsets):
        bottom = self.bottom(dense)
        pooled = [bag(i, o) for bag, i, o in zip(self.bags, ids, offsets)]
        vectors = torch.stack([bottom, *pooled], dim=1)
        dots = torch.bmm(vectors, vectors.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([bottom, dots], dim=1)).squeeze(1)


def make_batch(generator):
    dense = torch.rand(BATCH, NUM_DENSE, generator=generator)
    ids, offsets, heat = [], [], torch.zeros(BATCH)
    for cardinality in CARDINALITIES:
        lengths = torch.randint(1, 4, (BATCH,), generator=generator)
        skewed = torch.rand(int(lengths.sum()), generator=generator) ** 4
        ids.append((skewed * cardinality).long())
        offsets.append(torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)[:-1]]))
        heat += (ids[-1][offsets[-1]] % 7 < 3).float() - 0.5
    labels = torch.bernoulli(torch.sigmoid(heat + dense.sum(1) - 3), generator=generator)
    return dense, ids, offsets, labels


def batches(first):
    """The batches of the steps from ``first`` on."""
    for step in range(first, STEPS + 1):
        yield make_batch(torch.Generator().manual_seed(SEED + step))


def main():
    torch.manual_seed(SEED)
    model = DLRM()
    hr.replace_embeddings(model, optimizer=hr.optim.Adagrad(lr=LR))
    optimizer = torch.optim.Adagrad(model.parameters(), lr=LR)
    loss_function = nn.BCEWithLogitsLoss()
    *held_out, clicks = make_batch(torch.Generator().manual_seed(SEED))
    for step, (dense, ids, offsets, labels) in enumerate(batches(1), 1):
        loss = loss_function(model(dense, ids, offsets), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step:3d}  loss {loss.item():.9g}", flush=True)
        if step % 10 == 0:
            with torch.no_grad():
                loss = loss_function(model(*held_out), clicks)
            print(f"step {step:3d}  held out {loss.item():.9g}", flush=True)


if __name__ == "__main__":
    main()
