"""A shop's click model on TorchRec's EmbeddingBagCollection: pooled histories, a small MLP, its own loop."""

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

SEED, BATCH, STEPS, LR = 11, 128, 40, 0.1
FEATURES = {"viewed": "product", "bought": "product", "store": "store", "query_words": "word"}
SIZES = {"product": 20000, "store": 60, "word": 7000}
DIM = 8


def start(weight):
    """The same start in every run, whatever else has drawn random numbers before."""
    with torch.no_grad():
        weight.uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(SEED))


def make_tables():
    return [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=size,
            embedding_dim=DIM,
            feature_names=[feature for feature, table in FEATURES.items() if table == name],
            pooling=PoolingType.MEAN if name == "word" else PoolingType.SUM,
            init_fn=start,
        )
        for name, size in SIZES.items()
    ]


class ClickModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.over = nn.Sequential(nn.Linear(DIM * len(FEATURES), 32), nn.ReLU(), nn.Linear(32, 1))
        self.embeddings = EmbeddingBagCollection(tables=make_tables(), device=torch.device("cpu"))

    def forward(self, features):
        pooled = self.embeddings(features)
        alike = (pooled["viewed"] * pooled["bought"]).sum(1)
        return self.over(pooled.values()).squeeze(1) + alike


def make_batch(generator):
    values, lengths, heat = [], [], torch.zeros(BATCH)
    for feature, table in FEATURES.items():
        length = torch.randint(0 if feature == "bought" else 1, 6, (BATCH,), generator=generator)
        ids = (torch.rand(int(length.sum()), generator=generator) ** 5 * SIZES[table]).long()
        owner = torch.arange(BATCH).repeat_interleave(length)
        heat.index_add_(0, owner, (ids % 5 < 2).float() - 0.4)
        values.append(ids)
        lengths.append(length)
    features = KeyedJaggedTensor.from_lengths_sync(list(FEATURES), torch.cat(values), torch.cat(lengths))
    return features, torch.bernoulli(torch.sigmoid(heat), generator=generator)


def batches(first):
    """The batches of the steps from ``first`` on."""
    for step in range(first, STEPS + 1):
        yield make_batch(torch.Generator().manual_seed(SEED + step))


def main():
    torch.manual_seed(SEED)
    model = ClickModel()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=LR)
    loss_function = nn.BCEWithLogitsLoss()
    held_out, clicks = make_batch(torch.Generator().manual_seed(SEED))
    for step, (features, labels) in enumerate(batches(1), 1):
        loss = loss_function(model(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step:3d}  loss {loss.item():.9g}", flush=True)
        if step % 10 == 0:
            with torch.no_grad():
                loss = loss_function(model(held_out), clicks)
            print(f"step {step:3d}  held out {loss.item():.9g}", flush=True)


if __name__ == "__main__":
    main()
