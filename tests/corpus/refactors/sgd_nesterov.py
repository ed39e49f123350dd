import time
import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
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


class SpiralNet(nn.Module):
    def __init__(self, input_dim=2, hidden_dim=128, num_classes=4):
        super(SpiralNet, self).__init__()
        self.layer1 = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU())
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(hidden_dim, num_classes)

    def forward(self, x):
        for layer in (self.layer1, self.layer2, self.layer3):
            x = self.dropout(layer(x))
        return self.fc(x)   # logits


def train_one_epoch(model, dataloader, criterion, optimizer, device):
    model.train()
    epoch_loss = 0.0
    corrects = 0
    total = 0
    for i, data in enumerate(dataloader, 0):
        inputs, labels = data[0].to(device), data[1].to(device)

        # forget the gradients of the previous batch
        optimizer.zero_grad()

        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()

        epoch_loss += loss.item()
        _, predicted = torch.max(outputs.data, 1)
        total += labels.size(0)
        corrects += (predicted == labels).sum().item()
    return epoch_loss / (i + 1), corrects / total


def validate(model, dataloader, criterion, device):
    model.eval()
    epoch_loss = 0.0
    corrects = 0
    total = 0
    with torch.no_grad():
        for i, data in enumerate(dataloader, 0):
            inputs, labels = data[0].to(device), data[1].to(device)
            outputs = model(inputs)
            epoch_loss += criterion(outputs, labels).item()
            _, predicted = torch.max(outputs, 1)
            total += labels.size(0)
            corrects += (predicted == labels).sum().item()
    return epoch_loss / (i + 1), corrects / total


def main():
    EPOCHS = 20
    device = torch.device('cuda' if torch.cuda.is_available()
                          else 'mps' if torch.backends.mps.is_available() else 'cpu')

    X_train, y_train, X_val, y_val = create_spiral_dataset()
    trainloader = DataLoader(TensorDataset(X_train, y_train), batch_size=16, shuffle=True)
    valloader = DataLoader(TensorDataset(X_val, y_val), batch_size=100, shuffle=False)

    net = SpiralNet()
    net = net.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)

    history = {'train_loss': [], 'train_acc': [], 'val_loss': [], 'val_acc': [], 'epoch_time': []}
    for epoch in range(EPOCHS):
        since = time.time()
        train_loss, train_acc = train_one_epoch(net, trainloader, criterion, optimizer, device)
        val_loss, val_acc = validate(net, valloader, criterion, device)
        history['train_loss'].append(train_loss)
        history['train_acc'].append(train_acc)
        history['val_loss'].append(val_loss)
        history['val_acc'].append(val_acc)
        history['epoch_time'].append(time.time() - since)
        print('[%d/%d] loss: %.3f acc: %.3f val_loss: %.3f val_acc: %.3f'
              % (epoch + 1, EPOCHS, train_loss, train_acc, val_loss, val_acc))
    print('Finished Training')
    return history


if __name__ == '__main__':
    main()
