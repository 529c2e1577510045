"""The network, and the graph that is exported: pixels in, probabilities out."""

import torch
from torch import nn
from torch.nn import functional

SIDE = 28


def convolution(width_in: int, width: int, kernel: int, padding: int) -> nn.Sequential:
    """At export ONNX folds the norm into the convolution, so it costs nothing when served."""
    return nn.Sequential(nn.Conv2d(width_in, width, kernel, 1, padding, bias=False), nn.BatchNorm2d(width), nn.ReLU())


class Network(nn.Module):
    """(N, 1, 28, 28), ink = 1 -> logits (N, 10). 3 million multiplications, 76 thousand weights."""

    def __init__(self, dropout: float = 0.3):
        super().__init__()
        self.features = nn.Sequential(
            convolution(1, 16, 5, 2),
            nn.MaxPool2d(2),
            convolution(16, 32, 3, 1),
            nn.MaxPool2d(2),
            convolution(32, 64, 3, 1),
            convolution(64, 64, 3, 0),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(64 * 25, 10))

    def forward(self, ink: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(ink).flatten(1))


class Served(nn.Module):
    """The exported graph: (N, 28, 28, 1) -> probabilities (N, 10)."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # With one channel the two layouts hold the same bytes: a reshape does for the transpose.
        return functional.softmax(self.network(image.reshape(-1, 1, SIDE, SIDE)), dim=1)
