"""Augmentation of digits: sheared, bent, thicker, thinner, softer, coarser, unevenly inked.

It works on the preprocessed 28x28 image, because the service preprocesses images before inference: an off-centre digit
is centred by then, but its pen, its blur and its specks are still there.
"""

import math

import torch
from torch.nn import functional

from network import SIDE


def uniform(count: int, low: float, high: float, *shape: int) -> torch.Tensor:
    return torch.empty(count, *(shape or (1, 1, 1))).uniform_(low, high)


def chosen(count: int, share: float) -> torch.Tensor:
    """1 for a random share of the images, 0 for the others."""
    return (torch.rand(count, 1, 1, 1) < share).float()


def bent(ink: torch.Tensor) -> torch.Tensor:
    """Turned by up to 15 degrees, sheared, stretched, moved by up to 2 pixels, and pulled about elastically."""
    count = len(ink)
    angle = uniform(count, -15, 15, 1)[:, 0] * math.pi / 180
    shear = uniform(count, -0.25, 0.25, 1)[:, 0]
    zoom_x = torch.exp(uniform(count, -0.14, 0.14, 1)[:, 0])
    zoom_y = torch.exp(uniform(count, -0.14, 0.14, 1)[:, 0])
    shift = uniform(count, -2, 2, 2) * 2 / SIDE
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = torch.stack(
        [
            torch.stack([zoom_x * cos, zoom_x * (shear * cos - sin), shift[:, 0]], dim=1),
            torch.stack([zoom_y * sin, zoom_y * (shear * sin + cos), shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(rows, [count, 1, SIDE, SIDE], align_corners=False)
    # A field of 5x5 random pulls, smoothly interpolated: strokes wobble, junctions stay (Simard et al. 2003).
    pulls = torch.randn(count, 2, 5, 5) * uniform(count, 0, 1.1) * 2 / SIDE
    field = functional.interpolate(pulls, size=(SIDE, SIDE), mode="bicubic", align_corners=True)
    return functional.grid_sample(ink, grid + field.permute(0, 2, 3, 1), mode="bilinear", align_corners=False)


def repenned(ink: torch.Tensor) -> torch.Tensor:
    """Another pen: up to about a pixel thicker or thinner on either side."""
    count = len(ink)
    thick = functional.max_pool2d(ink, 3, 1, 1)
    thin = -functional.max_pool2d(-ink, 3, 1, 1)
    step = uniform(count, -0.6, 0.85) * chosen(count, 0.6)
    drawn = ink + step.clamp(min=0) * (thick - ink) + step.clamp(max=0) * (ink - thin)
    # A line so thin that it faded is inked to full strength again, as the fit does.
    return (drawn / drawn.amax(dim=(1, 2, 3), keepdim=True).clamp(min=0.3)).clamp(0, 1)


def refocused(ink: torch.Tensor) -> torch.Tensor:
    """Softer (a blurred photograph, a big reduction) or harder (a screen's pencil without grey edges)."""
    count = len(ink)
    soft = functional.avg_pool2d(ink, 3, 1, 1)
    ink = ink + uniform(count, 0, 1) * chosen(count, 0.3) * (soft - ink)
    slope = torch.exp(uniform(count, 0, 1.6))
    hard = ((ink - 0.5) * slope + 0.5).clamp(0, 1)
    return ink + chosen(count, 0.4) * (hard - ink)


def dirtied(ink: torch.Tensor) -> torch.Tensor:
    """Uneven ink, grain on the paper and along the strokes, and now and then a patch that was wiped out."""
    count = len(ink)
    flow = functional.interpolate(uniform(count, -0.5, 0.15, 1, 4, 4), size=(SIDE, SIDE), mode="bilinear")
    ink = ink * (1 + flow * chosen(count, 0.3))
    grain = torch.randn_like(ink) * uniform(count, 0, 0.12) * chosen(count, 0.3)
    ink = ink + grain * (ink > 0.02).float() + (grain - 0.1).clamp(min=0)
    middle = uniform(count, 0, SIDE, 2, 1, 1)
    half = uniform(count, 1, 2.5)
    place = torch.arange(SIDE) + 0.5
    wiped = ((place.view(1, 1, -1, 1) - middle[:, :1]).abs() < half) & (
        (place.view(1, 1, 1, -1) - middle[:, 1:]).abs() < half
    )
    return (ink * (1 - wiped.float() * chosen(count, 0.1))).clamp(0, 1)


def augment(digits: torch.Tensor) -> torch.Tensor:
    """float32 (N, 1, 28, 28) in 0..1 -> the same shape, never the same twice."""
    as_it_was = chosen(len(digits), 0.15)
    return as_it_was * digits + (1 - as_it_was) * dirtied(refocused(repenned(bent(digits))))
