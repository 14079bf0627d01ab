"""Generators in diffusers' directories: decoders of auto-encoders, and consistency models in one step.

Weights are read from safetensors only, and nothing is fetched.
"""

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import read_json
from ..errors import StorageError, UsageError, first_line
from ..tensors import Codes, Images

DECODERS = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
PARTS = ("", "vae", "vqvae", "movq", "unet")  # where a pipeline's directory holds its models


class LatentDecoder(nn.Module):
    """The decoder of an auto-encoder whose latents, times `scaling_factor`, have about unit variance.

    Args:
        model: with `decode(latents).sample` in about [-1, 1].
        side: of its latents.
    """

    def __init__(self, model: Any, side: int):
        super().__init__()
        config = model.config
        self.model = model
        self.shape = (config.get("vq_embed_dim") or config.latent_channels, side, side)
        self.latent_dim = math.prod(self.shape)
        self.scale, self.shift = config.scaling_factor, config.get("shift_factor") or 0.0

    def forward(self, z: Codes) -> Images:
        """Decode codes as the model's own pipeline decodes latents."""
        latents = z.view(z.shape[0], *self.shape) / self.scale + self.shift
        return self.model.decode(latents).sample.clamp(-1, 1)


class ConsistencyStep(nn.Module):
    """One step of a consistency model from pure noise (Song et al. 2023): f(z sigma_max, sigma_max).

    Args:
        unet: a UNet2DModel, unconditional.
        scheduler: its CMStochasticIterativeScheduler.
    """

    def __init__(self, unet: Any, scheduler: Any):
        super().__init__()
        settings = scheduler.config
        self.unet = unet
        self.shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        self.latent_dim = math.prod(self.shape)
        self.sigma = settings.sigma_max
        self.scale = math.sqrt(self.sigma**2 + settings.sigma_data**2)
        self.time = float(scheduler.sigma_to_t(self.sigma))
        self.c_skip, self.c_out = scheduler.get_scalings_for_boundary_condition(self.sigma)

    def forward(self, z: Codes) -> Images:
        """c_skip x + c_out F(x / scale, t)."""
        x = self.sigma * z.view(z.shape[0], *self.shape)
        t = torch.full((z.shape[0],), self.time, device=z.device)
        return (self.c_skip * x + self.c_out * self.unet(x / self.scale, t).sample).clamp(-1, 1)


def open_diffusers(root: Path, latent_dim: int | None = None) -> LatentDecoder | ConsistencyStep:
    """The generator in a diffusers directory: of one model, or of a pipeline.

    Args:
        root: the directory.
        latent_dim: of a decoder: c s s for latents of side s other than those it was trained with.

    Raises:
        UsageError: diffusers is not installed, nothing usable is there, or it is damaged.
    """
    try:
        import diffusers
    except ImportError:
        raise UsageError(f"diffusers:{root}: needs diffusers; pip install 'namap[diffusers]'") from None
    folder, config = find_part(root)
    kind = config["_class_name"]
    if kind not in (*DECODERS, "UNet2DModel"):
        known = ", ".join(DECODERS)
        raise UsageError(f"{folder}: is a {kind}; use {known}, or a UNet2DModel that is a consistency model")
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
    try:
        model = getattr(diffusers, kind).from_pretrained(folder, **options).float()
        if kind in DECODERS:
            return LatentDecoder(model, _latent_side(model, folder, latent_dim))
        return _consistency_step(model, folder)
    except UsageError:
        raise
    except Exception as error:  # diffusers raises anything on a damaged directory
        raise UsageError(f"{folder}: damaged, or not a diffusers model ({first_line(error)})") from error


def find_part(root: Path) -> tuple[Path, dict[str, Any]]:
    """The model in a diffusers directory, its decoder first where it is a pipeline: (its folder, its configuration).

    Raises:
        UsageError: there is none, or its weights are pickles.
    """
    for folder in (root / part for part in PARTS):
        if not (folder / "config.json").is_file():
            continue
        try:
            config = read_json(folder / "config.json")
        except StorageError as error:
            raise UsageError(str(error)) from None
        if not isinstance(config.get("_class_name"), str):
            raise UsageError(f"{folder}: its config.json names no model of diffusers")
        if not any(folder.glob("*.safetensors")):
            raise UsageError(f"{folder}: no safetensors there; save it with safe_serialization=True, pickles stay shut")
        return folder, config
    raise UsageError(f"{root}: not a diffusers directory (no config.json)")


def model_files(root: Path) -> dict[str, Path]:
    """What the generator of a diffusers directory is loaded from, by name.

    Raises:
        UsageError: there is none.
    """
    folder, _ = find_part(root)
    files = [*folder.glob("*.json"), *folder.glob("*.safetensors"), *scheduler_files(folder)]
    return {os.path.relpath(path, root): path for path in sorted(files)}


def scheduler_files(folder: Path) -> list[Path]:
    """What says how the UNet in `folder` is sampled: a file of its pipeline, if it is in one."""
    path = folder.parent / "scheduler" / "scheduler_config.json"
    return [path] if folder.name == "unet" and path.is_file() else []


def _latent_side(model: Any, folder: Path, latent_dim: int | None) -> int:
    """Side of the latents: of `latent_dim`, or of the images that the model was trained with."""
    config = model.config
    channels = config.get("vq_embed_dim") or config.latent_channels
    if latent_dim is not None:
        side = math.isqrt(latent_dim // channels)
        if channels * side**2 != latent_dim or not side:
            raise UsageError(
                f"{folder}: its latents have {channels} channels; latent_dim {latent_dim} is not {channels}·s·s"
            )
        return side
    size, blocks = (
        config.get("sample_size"),
        config.get("block_out_channels") or config.get("decoder_block_out_channels"),
    )
    if not isinstance(size, int):
        raise UsageError(f"{folder}: names no size of its images; give --latent-dim (latent_dim=), {channels}·s·s")
    return size // 2 ** (len(blocks) - 1)


def _consistency_step(unet: Any, folder: Path) -> ConsistencyStep:
    from diffusers.schedulers.scheduling_consistency_models import CMStochasticIterativeScheduler

    if unet.config.get("num_class_embeds") or unet.config.get("class_embed_type"):
        raise UsageError(
            f"{folder}: wants a class beside its noise; put it into a module that gives one, and wrap that"
        )
    found = scheduler_files(folder)
    if not found:
        return ConsistencyStep(unet, CMStochasticIterativeScheduler())
    config = read_json(found[0])
    if config.get("_class_name") != CMStochasticIterativeScheduler.__name__:
        raise UsageError(f"{folder}: is sampled with {config.get('_class_name')}, in many steps; namap needs one step")
    return ConsistencyStep(unet, CMStochasticIterativeScheduler.from_config(config))
