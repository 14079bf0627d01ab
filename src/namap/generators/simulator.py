"""A hand-made simulator as generator (NAM §3.3, VAE-NAM §5): a drawn face whose code is its parameters."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..tensors import Codes, Images
from .base import Generator

# Range of each parameter; lengths and places as shares of the side, from the middle; angles in degrees.
PARAMETERS: dict[str, tuple[float, float]] = {
    "head_width": (0.24, 0.40),
    "head_height": (0.30, 0.44),
    "eye_height": (-0.14, 0.0),
    "eye_distance": (0.09, 0.18),
    "eye_size": (0.025, 0.06),
    "pupil_x": (-0.5, 0.5),  # as a share of the eye
    "brow_height": (0.06, 0.11),  # above the eyes
    "brow_angle": (-30.0, 30.0),
    "nose_length": (0.05, 0.16),
    "mouth_height": (0.14, 0.24),
    "mouth_width": (0.06, 0.16),
    "smile": (-0.06, 0.06),  # half of how far the corners lie above the middle
}


class FaceSimulator(Generator):
    """A face of soft-edged strokes and ellipses, differentiable in twelve named parameters.

    A code is N(0, I) in each parameter, mapped to its range by the normal distribution function: so the prior is
    uniform over the ranges.

    Args:
        image_size: side of the images.
        channels: 1 or 3 (grey either way).
    """

    def __init__(self, image_size: int = 32, channels: int = 1):
        super().__init__()
        self.latent_dim, self.image_size, self.channels = len(PARAMETERS), image_size, channels
        self.config = {"kind": "simulator", "image_size": image_size, "channels": channels}
        low, high = torch.tensor(list(PARAMETERS.values())).T
        centres = (torch.arange(image_size) + 0.5) / image_size - 0.5
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("centres", centres)
        self.low: Tensor
        self.high: Tensor
        self.centres: Tensor

    def parameters_of(self, z: Codes) -> dict[str, Float[Tensor, "b"]]:
        """The named parameters of codes."""
        share = torch.special.ndtr(z.float())
        return dict(zip(PARAMETERS, (self.low + share * (self.high - self.low)).T, strict=True))

    def codes_of(self, parameters: dict[str, Float[Tensor, "b"]]) -> Codes:
        """The codes of named parameters, which lie inside their ranges."""
        values = torch.stack([parameters[name] for name in PARAMETERS], 1)
        share = (values - self.low) / (self.high - self.low)
        return torch.special.ndtri(share.clamp(1e-4, 1 - 1e-4))

    def forward(self, z: Codes) -> Images:
        """Draw codes as white lines on black, in [-1, 1]."""
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 has no sub-pixel positions
            p = {name: value[:, None, None] for name, value in self.parameters_of(z).items()}
            ink = self._draw(p)
        return (2 * ink - 1)[:, None].expand(-1, self.channels, -1, -1)

    def _draw(self, p: dict[str, Tensor]) -> Float[Tensor, "b h w"]:
        x, y = self.centres[None, None, :], self.centres[None, :, None]
        side = x.abs()  # the face is symmetric, its gaze is not
        eye_x, eye_y = side - p["eye_distance"], y - p["eye_height"]
        pupil_x = torch.where(x > 0, x - p["eye_distance"], x + p["eye_distance"]) - p["pupil_x"] * p["eye_size"]
        slope = torch.tan(p["brow_angle"] * (math.pi / 180))
        brow = eye_y + p["brow_height"] - slope * eye_x
        lips = y - p["mouth_height"] + p["smile"] * ((side / p["mouth_width"]).square() - 0.5) * 2
        parts = [
            self._line(self._ring(x, y - 0.02, p["head_width"], p["head_height"])),
            self._line(self._ring(eye_x, eye_y, p["eye_size"] * 1.4, p["eye_size"])),
            self._fill(torch.hypot(pupil_x, eye_y) - 0.5 * p["eye_size"]),
            self._line(brow) * self._fill(eye_x.abs() - p["eye_size"] * 1.4),
            self._line(x.expand_as(lips))
            * self._fill((y - p["eye_height"] - p["nose_length"]).abs() - p["nose_length"] / 2),
            self._line(lips) * self._fill(side - p["mouth_width"]),
        ]
        empty = torch.ones_like(lips)
        for part in parts:
            empty = empty * (1 - part)
        return 1 - empty

    def _ring(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        # Distance to an ellipse, to first order: its equation over the length of its gradient.
        level = (x / a).square() + (y / b).square()
        gradient = 2 * torch.hypot(x / a.square(), y / b.square()) + 1e-3
        return (level - 1) / gradient

    def _line(self, distance: Tensor) -> Tensor:
        return torch.exp(-(distance * self.image_size / 1.2).square())

    def _fill(self, distance: Tensor) -> Tensor:
        return torch.sigmoid(-distance * self.image_size * 2)
