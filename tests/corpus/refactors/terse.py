import time, torch, numpy as np
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def create_spiral_dataset(n_points=1000, n_classes=4, noise=0.2):
    """Noisy spiral arms, shuffled, 80/20 split."""
    np.random.seed(42)
    xs, ys = [], []
    for arm in range(n_classes):
        radius = np.linspace(0.0, 1.0, n_points)
        angle = np.linspace(arm * 4, (arm + 1) * 4, n_points) + noise * np.random.randn(n_points)
        xs.append(np.column_stack([radius * np.sin(angle), radius * np.cos(angle)]))
        ys.append(np.full(n_points, arm))
    X = np.concatenate(xs).astype(np.float32)
    y = np.concatenate(ys).astype(np.int64)
    order = np.random.permutation(len(X))
    X, y = X[order], y[order]
    split = int(0.8 * len(X))
    return (torch.from_numpy(X[:split]), torch.from_numpy(y[:split]),
            torch.from_numpy(X[split:]), torch.from_numpy(y[split:]))


class SpiralNet(nn.Sequential):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        block = lambda i, o: (nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU(), nn.Dropout(.2))
        super().__init__(*block(input_dim, hidden_dim), *block(hidden_dim, hidden_dim), nn.Linear(hidden_dim, num_classes))


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    L, A, N = 0., 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        l = criterion(o := model(x), y)
        optimizer.zero_grad(); l.backward(); optimizer.step()
        L += l.item(); A += (o.argmax(1) == y).sum().item(); N += len(y)
    return L / len(dataloader), A / N


@torch.no_grad()
def validate(model, dataloader, criterion, device):
    model.eval()
    L, A, N = 0., 0, 0
    for x, y in dataloader:
        x, y = x.to(device), y.to(device)
        o = model(x)
        L += criterion(o, y).item(); A += (o.argmax(1) == y).sum().item(); N += len(y)
    return L / len(dataloader), A / N


def main():
    dev = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    X, y, Xv, yv = create_spiral_dataset()
    tl, vl = DataLoader(TensorDataset(X, y), 32, True), DataLoader(TensorDataset(Xv, yv), 256)
    m = SpiralNet().to(dev); c = nn.CrossEntropyLoss(); o = torch.optim.Adam(m.parameters(), 1e-3)
    h = {k: [] for k in "train_loss train_acc val_loss val_acc epoch_time".split()}
    for e in range(20):
        t = time.time()
        r = *train_one_epoch(m, tl, c, o, dev), *validate(m, vl, c, dev), time.time() - t
        [h[k].append(v) for k, v in zip(h, r)]
        print(e + 1, *(f"{v:.3f}" for v in r))
    return h


if __name__ == "__main__":
    main()
