"""The architectures in torch, written as their users would for hooks: every relu a module."""

from collections.abc import Sequence

import torch
from torch import nn


def mlp(inputs: int = 784, width: int = 512) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 10),
    )  # fmt: skip


def cnn(size: int = 28, features: Sequence[int] = (32, 64), hidden: int = 128) -> nn.Module:
    """The MNIST network of the DeepLIFT paper."""
    places = ((size - 2) // 2 - 2) // 2
    return nn.Sequential(
        nn.Conv2d(1, features[0], 4, 2), nn.ReLU(),
        nn.Conv2d(features[0], features[1], 4, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(features[1] * places**2, hidden), nn.ReLU(),
        nn.Linear(hidden, 10),
    )  # fmt: skip


class BPNet(nn.Module):
    def __init__(self, features: int = 64, layers: int = 8):
        super().__init__()
        self.stem = nn.Conv1d(4, features, 21, padding=10)
        self.relu = nn.ReLU()
        self.convs = nn.ModuleList(
            nn.Conv1d(features, features, 3, padding=2**i, dilation=2**i)
            for i in range(1, layers + 1)
        )
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(layers))
        self.count = nn.Linear(features, 1)

    def forward(self, x):
        x = self.relu(self.stem(x))
        for conv, relu in zip(self.convs, self.relus, strict=True):
            x = x + relu(conv(x))
        return self.count(x.mean(-1))


def vgg(features: Sequence[int] = (32, 64, 128)) -> nn.Module:
    """Pairs of convolutions between max pools, one of them overlapping."""
    first, second, third = features
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1), nn.ReLU(),
        nn.Conv2d(first, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2),
        nn.Conv2d(second, third, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(third, 10),
    )  # fmt: skip


class LSTM(nn.Module):
    def __init__(self, inputs: int = 64, hidden: int = 128):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.out(self.lstm(x)[0][:, -1])


class Transformer(nn.Module):
    """Torch's own encoder layers, pre-norm."""

    def __init__(self, width: int = 128, layers: int = 4, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )  # fmt: skip
        self.out = nn.Linear(width, 10)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.out(x.mean(1))


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
        self.norm1, self.relu1 = nn.BatchNorm2d(features), nn.ReLU()
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(features), nn.ReLU()
        self.shortcut = None
        if stride > 1 or inputs != features:
            self.shortcut = nn.Conv2d(inputs, features, 1, stride, bias=False)

    def forward(self, x):
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet18(nn.Module):
    def __init__(self, width: int = 64):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        sizes = [width, *(width * 2 ** (i // 2) for i in range(8))]
        self.blocks = nn.ModuleList(
            ResidualBlock(sizes[i], sizes[i + 1], 2 if i in (2, 4, 6) else 1) for i in range(8)
        )
        self.out = nn.Linear(8 * width, 10)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean((2, 3)))


def settled(module: nn.Module) -> nn.Module:
    """For inference, its batch norms as if trained on something."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()


def make(name: str, sizes: dict) -> nn.Module:
    torch.manual_seed(0)
    makers = {
        "mlp": mlp, "cnn": cnn, "bpnet": BPNet, "vgg": vgg, "lstm": LSTM,
        "transformer": Transformer, "resnet18": ResNet18,
    }  # fmt: skip
    return settled(makers[name](**sizes))
