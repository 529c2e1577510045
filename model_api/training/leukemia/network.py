"""What is exported: measurements, several small networks on them, probabilities."""

import torch
from torch import nn
from torch.nn import functional

from texture import measure

FAR = 4.0  # measurements are clipped at this many standard deviations from the training cells' mean


class Measurement(nn.Module):
    """float32 (N, 3, 450, 450), pixel / 255 -> (N, measurements)."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return measure(picture)


class Head(nn.Module):
    """(N, measurements) -> logits (N, 2): one hidden layer over standardised measurements."""

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor, hidden: int, dropout: float):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.hidden = nn.Linear(len(mean), hidden)
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(hidden, 2)

    def standardise(self, measurements: torch.Tensor) -> torch.Tensor:
        return ((measurements - self.mean) / self.deviation).clamp(-FAR, FAR)

    def decide(self, standardised: torch.Tensor) -> torch.Tensor:
        return self.logits(self.dropout(functional.relu(self.hidden(standardised))))

    def forward(self, measurements: torch.Tensor) -> torch.Tensor:
        return self.decide(self.standardise(measurements))


class Panel(nn.Module):
    """Several heads, trained from different beginnings, that answer with their mean logits."""

    def __init__(self, heads: list[Head]):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, measurements: torch.Tensor) -> torch.Tensor:
        return torch.stack([head(measurements) for head in self.heads]).mean(dim=0).softmax(dim=1)


class Classifier(nn.Module):
    """float32 (N, 3, 450, 450), pixel / 255 -> probabilities (N, 2): the whole of the exported graph."""

    def __init__(self, panel: Panel):
        super().__init__()
        self.measurement = Measurement()
        self.panel = panel

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.panel(self.measurement(picture))
