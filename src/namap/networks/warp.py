"""The spatial transformer between a high-resolution generator and low-resolution queries (NAM §4)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..tensors import Images

POSE = ("shift_x", "shift_y", "log_scale", "angle")
# One standard deviation of the prior of each: shifts as shares of the side, natural logarithm, degrees.
SPREAD = (0.06, 0.06, 0.12, 8.0)
REACH = 3.0  # deviations: an image that has left its frame has no gradient by which to come back


def pose_of(theta: Float[Tensor, "b 4"]) -> dict[str, Float[Tensor, "b"]]:
    """Parameters from N(0, I) as shifts (shares of the side, right and down), scale (a ratio) and angle (degrees).

    None goes further than three deviations: deviation * 3 tanh(theta / 3).
    """
    bounded = REACH * (theta.float() / REACH).tanh()
    values = dict(zip(POSE, (bounded * torch.tensor(SPREAD, device=theta.device)).T, strict=True))
    return {
        "shift_x": values["shift_x"],
        "shift_y": values["shift_y"],
        "scale": values["log_scale"].exp(),
        "angle": values["angle"],
    }


def warp(images: Images, theta: Float[Tensor, "b 4"], size: int) -> Float[Tensor, "b c s s"]:
    """Move, scale and turn each image about its centre, then reduce it to `size` pixels a side by area.

    Args:
        images: `[b c h w]`.
        theta: see `pose_of`; zero leaves an image where it is.
        size: side of the result.
    """
    pose = pose_of(theta)
    angle = torch.deg2rad(pose["angle"])
    cos, sin = angle.cos() / pose["scale"], angle.sin() / pose["scale"]
    # grid_sample asks where an output pixel comes from: the inverse of "scale, turn, then shift".
    x, y = -2 * pose["shift_x"], -2 * pose["shift_y"]
    rows = [torch.stack([cos, sin, cos * x + sin * y], 1), torch.stack([-sin, cos, -sin * x + cos * y], 1)]
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 has no sub-pixel positions
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return F.interpolate(moved, size=(size, size), mode="area")
