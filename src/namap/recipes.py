"""Every number of a fit, as one frozen record; recipes are functions that return one."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from .errors import StorageError, UsageError
from .settings import MAX_SEED, make_settings

Method = Literal["nam", "ae", "vae", "wae"]
Loss = Literal["appearance", "l1", "l2", "perceptual", "gram"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """How a mapping is fitted.

    Attributes:
        method: how z_y is obtained: `nam` (code table), `ae`, `vae` or `wae` (encoder).
        loss: reconstruction: `appearance`, `l1`, `l2`, `perceptual` (VGG blocks and L1 of pixels), or `gram` (inner
            products of the channels of VGG blocks).
        images: training images to see in all.
        batch_size: images of one step.
        seed: of the initialisation, the order of the data and the noise.
        beta: weight of the KL term (for `nam` and `ae`, of 1/2 ||z||^2; for `wae`, of the distance to the prior).
        warmup: share of the run with a KL weight of a thousandth of beta.
        mapper: `earned` (identity first, freed later) or `crn` (as published).
        filters: F of the CRN: 4F, 3F, 2F, F filters at its scales.
        skip: T adds G(z) to the CRN's output (an `earned` mapper always does).
        freedom: share of the run after which an `earned` mapper's CRN is freed.
        rate: Adam's learning rate of E, and of T's local part.
        free_rate: of the CRN in an `earned` mapper.
        code_rate: of NAM's code table, and of codes that are optimised at inference.
        refine_noise: share of sigma(y) that stays as noise on a code while it is optimised at inference. 1: what E was
            trained under, which keeps the meaning of an answer; 0: none, where its contours matter most.
        encoder_width: channels of E's first convolution.
        queries: how many training queries are drawn at random and fitted (0: all).
        blocks: VGG blocks of the perceptual loss.
        feature_cache_gb: budget for the cached phi(y) of all queries; recomputed each step where it does not fit.
        warp: a spatial transformer between G and T, with a shift, scale and rotation of each query's own.
        query_size: side of the queries under `warp`, where G's images are larger (0: the same).
        query_scale: queries are shrunk about their centre by this factor before anything else.
        kinds: kinds of images of X, found without labels, that the queries vote on after a first part of the run; the
            rest of it is told the outcome (`namap.kinds`). For domains of distinct things in equal proportions; so
            many that no kind mixes things. 0: no vote.
        vote_at: share of the run after which they vote.
        vote_weight: of the outcome in the loss.
    """

    method: Method = "vae"
    loss: Loss = "appearance"
    images: int = Field(default=256_000, ge=1)
    batch_size: int = Field(default=128, ge=2)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    beta: float = Field(default=1e-3, ge=0)
    warmup: float = Field(default=0.13, ge=0, le=1)
    mapper: Literal["earned", "crn"] = "earned"
    filters: int = Field(default=8, ge=1, le=512)
    skip: bool = False
    freedom: float = Field(default=0.6, ge=0, le=1)
    rate: float = Field(default=3e-3, gt=0)
    free_rate: float = Field(default=3e-4, gt=0)
    code_rate: float = Field(default=0.03, gt=0)
    refine_noise: float = Field(default=1.0, ge=0, le=1)
    encoder_width: int = Field(default=64, ge=1, le=2048)
    queries: int = Field(default=0, ge=0)
    blocks: int = Field(default=3, ge=1, le=5)
    feature_cache_gb: float = Field(default=2.0, ge=0)
    warp: bool = False
    query_size: int = Field(default=0, ge=0, le=4096)
    query_scale: float = Field(default=1.0, gt=0.1, le=1)
    kinds: int = Field(default=0, ge=0, le=1000)
    vote_at: float = Field(default=0.6, gt=0, lt=1)
    vote_weight: float = Field(default=0.1, ge=0)


def default_recipe(
    method: Method = "vae", loss: Loss = "appearance", image_size: int = 32, warp: bool = False
) -> Recipe:
    """The recipe that `namap fit` uses unless told otherwise.

    Under the appearance-invariant loss T earns its freedom; under the papers' losses T is the papers' CRN. F is 8
    for 32 pixels and 32 above; NAM learns 2000 queries, T at 1e-3 and codes at 0.03 (NAM §3.6).
    """
    nam = {"rate": 1e-3, "queries": 2000, "beta": 0.0} if method == "nam" else {}
    # A place has no meaning without a prior: an encoder would push images out of their frame and lose the gradient.
    ae = {"ae": {"beta": 1e-2 if warp else 0.0}, "wae": {"beta": 0.1}}.get(method, {})
    paper = {} if loss == "appearance" else {"mapper": "crn", "skip": loss == "gram"}
    size = {"filters": 8, "blocks": 3, "encoder_width": 32} if image_size <= 32 else {"filters": 32, "blocks": 4}
    return make_recipe({"method": method, "loss": loss, **paper, **nam, **ae, **size})


def make_recipe(values: dict[str, Any]) -> Recipe:
    """A checked recipe.

    Raises:
        UsageError: an unknown key (the nearest one is named) or a value out of bounds.

    >>> make_recipe({"batch_sise": 4})
    Traceback (most recent call last):
    namap.errors.UsageError: unknown setting 'batch_sise'; did you mean 'batch_size'?
    """
    return make_settings(Recipe, values)


def complete_recipe(method: Method, loss: str, image_size: int, settings: dict[str, Any]) -> Recipe:
    """The recipe of a mapping: the defaults of its method, loss and size, and then the settings.

    Raises:
        UsageError: an unknown key, a value out of bounds, or settings that do not go together.
    """
    if settings.get("method", method) != method:
        raise UsageError(f"setting method {settings['method']}: this class is method {method}")
    loss = make_recipe({"loss": loss}).loss
    defaults = default_recipe(method, loss, image_size, bool(settings.get("warp")))
    recipe = make_recipe({**asdict(defaults), **settings})
    if recipe.query_size and not recipe.warp:
        raise UsageError("setting query_size: only with warp=true, which reduces the generator's images to it")
    if recipe.query_size and (recipe.query_size % 8 or recipe.query_size < 16):
        raise UsageError(f"setting query_size {recipe.query_size}: T needs a multiple of 8, 16 or more")
    return recipe


def saved_recipe(config: dict[str, Any], source: Path) -> Recipe:
    """The recipe of a saved mapping, whose configuration is checked: it may come from a stranger."""
    if not isinstance(config.get("recipe"), dict) or not isinstance(config.get("generator"), dict):
        raise StorageError(f"{source}: holds no configuration of a recipe and a generator")
    if type(config.get("channels")) is not int or config["channels"] not in (1, 3):
        raise StorageError(f"{source}: channels {config.get('channels')!r} is not 1 or 3")
    try:
        return make_recipe(config["recipe"])
    except UsageError as error:
        raise StorageError(f"{source}: {error}") from None
