"""What a mapping computes with: a frozen generator G, a mapper T and a source of codes, on one device."""

import math
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from . import checkpoint, fitting
from .codes import CodeSource, QueryTable, draw_starts
from .errors import UsageError
from .generators import WarpedGenerator, freeze, sample, sample_uint8
from .kinds import Dissent, KindNetwork
from .losses import Reconstruction
from .networks.crn import match_channels
from .networks.vgg import Convention
from .recipes import Method, Recipe, complete_recipe
from .solving import CodeSearch, scored_at_once
from .tensors import (
    Codes,
    Images,
    PerSample,
    XImages,
    autocast,
    from_numpy,
    pick_device,
    pick_precision,
    place,
    random_stream,
    to_uint8,
)

M = TypeVar("M", bound="Model")


class Model:
    """G, T and the source of codes of a method, the loss of its recipe, and what is computed with them.

    `Mapping`, which says what the arguments are, adds what is done with a model: fit, translate, save and load.
    """

    method: ClassVar[Method]

    def __init__(
        self,
        generator: nn.Module,
        *,
        loss: str = "appearance",
        features: nn.Module | None = None,
        vgg_weights: str | Path | None = None,
        vgg_input: Convention = "torchvision",
        device: str = "auto",
        precision: str = "auto",
        **settings: Any,
    ):
        self.device = pick_device(device)
        self.wanted, self.precision = precision, pick_precision(precision, self.device)
        generator = fitting.take_generator(generator, self.device)
        self.recipe: Recipe = complete_recipe(self.method, loss, generator.image_size, settings)
        if self.recipe.warp:
            generator = WarpedGenerator(generator, self.recipe.query_size or generator.image_size)
        fitting.check_side(generator.image_size)
        self.generator = place(freeze(generator), self.device)
        self.features = None if features is None else freeze(features)
        self.fitted_features: str | None = None  # digest of the feature network of the fit
        self.vgg = (None if vgg_weights is None else Path(vgg_weights), vgg_input)
        self.channels = 0  # of Y; known after a fit
        self.mapper: nn.Module = nn.Identity()
        self.codes: CodeSource | None = None
        self.kinds: KindNetwork | None = None  # of a fit that held a vote

    def build(self, channels: int, count: int) -> None:
        """Make T and the source of codes, untrained, for `count` queries of `channels` channels."""
        self.channels = channels
        self.mapper, self.codes = fitting.make_networks(self.recipe, self.generator, channels, count)
        self.kinds = None

    def to(self: M, device: str | torch.device) -> M:
        """Move everything to `auto`, `cpu` or `cuda[:n]`; a precision of `auto` is chosen anew."""
        self.device = pick_device(str(device))
        self.precision = pick_precision(self.wanted, self.device)
        self.generator = place(fitting.take_generator(self.generator, self.device), self.device)
        if self.features is not None:
            self.features = place(self.features, self.device)
        if self.codes is not None:
            self.place()
        return self

    def place(self) -> None:
        """Move T and the source of codes to the device, channels last."""
        place(self.mapper, self.device)
        place(self.fitted_codes, self.device)
        if self.kinds is not None:
            place(self.kinds, self.device)

    def make_reconstruction(self) -> Reconstruction:
        """The loss of the recipe, with its feature network where it has one."""
        reconstruction = fitting.place_reconstruction(self.recipe, self.features, self.vgg, self.device)
        self.features = reconstruction.features or self.features
        expected, self.fitted_features = self.fitted_features, None  # checked once: a digest of all weights takes time
        if expected is not None and expected != fitting.features_digest(reconstruction):
            self.fitted_features = expected
            raise UsageError("this mapping was fitted with other perceptual features; give the same --vgg-weights")
        return reconstruction

    def eval(self) -> None:
        """Inference mode: T and the codes are fixed, and an answer never depends on its batch-mates."""
        freeze(self.mapper)
        freeze(self.fitted_codes)

    def restore(self, tensors: dict[str, torch.Tensor], source: Path) -> None:
        """Load T and the codes of a saved mapping into this one, which has been built."""
        checkpoint.load_weights(self.mapper, checkpoint.without_prefix("mapper", tensors), source)
        checkpoint.load_weights(self.fitted_codes, checkpoint.without_prefix("codes", tensors), source)
        if kinds := checkpoint.without_prefix("kinds", tensors):
            with torch.device("meta"):
                self.kinds = KindNetwork(self.generator.channels, self.image_size, self.recipe.kinds)
            checkpoint.load_weights(self.kinds, kinds, source)
            freeze(self.kinds)
        self.place()
        self.eval()

    def solve(
        self,
        queries: UInt8[np.ndarray, "b c h w"],
        solutions: int = 1,
        refine: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        quiet: bool = True,
        tolerance: float = 1e-3,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Analogies of one batch of prepared queries: uint8 `[b k c h w]`, codes `[b k d]`, losses `[b k]`."""

        def shown(z: Codes, x: XImages) -> UInt8[Tensor, "b c s s"]:  # under a warp of another side than x
            return to_uint8(self.generator.picture(z) if self.recipe.warp else x)

        with torch.inference_mode(False):  # Eq. 6 needs gradients
            search = self.search(from_numpy(queries, self.device), solutions, refine, seed, temperature, tolerance)
            with autocast(self.device, self.precision):
                z, losses, x = search.run(quiet, shown)
        return x.cpu().numpy(), z.cpu().numpy(), losses.cpu().numpy()

    def check_search(
        self, solutions: int = 1, refine: int | None = None, temperature: float = 1.0, tolerance: float = 1e-3
    ) -> None:
        """Make sure that `search` can begin.

        Args:
            solutions: of each query; as in `search`, and so are the others.
            refine: iterations of Eq. 6.
            temperature: factor on the noise of the starts.
            tolerance: when a path ends.

        Raises:
            UsageError: not fitted yet, a number out of its bounds, or several solutions of a method that has one.
        """
        whole = isinstance(solutions, Integral) and isinstance(refine, Integral | None)
        if not whole or solutions < 1 or (refine is not None and refine < 0):
            raise UsageError(f"solutions={solutions}, refine={refine}: use whole numbers, of 1 or more and 0 or more")
        if not (0 <= temperature < math.inf and 0 <= tolerance < math.inf):
            raise UsageError(f"temperature={temperature}, tolerance={tolerance}: use numbers of 0 or more")
        if solutions > 1 and not self.fitted_codes.several:
            raise UsageError(f"this method gives one solution per query, not {solutions}; use vae or nam for several")

    def search(
        self,
        y: Images,
        solutions: int = 1,
        refine: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        tolerance: float = 1e-3,
    ) -> CodeSearch:
        """The search for the codes of queries (NAM Eq. 6), not yet begun: `translate` in steps of one's own.

        Args:
            y: queries as `prepare_queries` gives them, `[b c h w]` in [-1, 1], on the device of the mapping.
            solutions: k starts of each query.
            refine: iterations of Eq. 6; None: 0 with an encoder, 200 for NAM.
            seed: of the samples and starts.
            temperature: factor on their noise.
            tolerance: a path ends when ten iterations lower its objective by less than this share; 0: never early.

        Raises:
            UsageError: not fitted yet, a number out of its bounds, or several solutions of a method that has one.
        """
        self.check_search(solutions, refine, temperature, tolerance)
        recipe, source = self.recipe, self.fitted_codes
        freeze(self.generator)  # the module inside may have been put into training since
        steps = source.refine if refine is None else refine
        with autocast(self.device, self.precision), torch.no_grad():
            starts = source.starts(y, temperature * draw_starts(solutions, self.latent_dim, seed, self.device))
            return CodeSearch(
                self.generator,
                self.mapper,
                self.make_reconstruction(),
                y,
                starts,
                steps,
                rate=recipe.code_rate,
                prior_weight=recipe.beta * source.norm_weight,
                spread=self.refine_spread(y) if steps else None,
                dissent=self.keep_kinds(starts) if steps else None,
                tolerance=tolerance,
            )

    def keep_kinds(self, starts: Float[Tensor, "b k d"]) -> Callable[[Tensor, XImages], PerSample] | None:
        """After a vote, what holds each path of a search to the kind of image that E has learnt to start it from.

        Reconstruction alone would undo a part of what the vote has mended. None without a vote, and where codes start
        from the prior: such a start says nothing of its query.

        Args:
            starts: k codes of each query.
        """
        if self.kinds is None or isinstance(self.codes, QueryTable):
            return None
        parts = starts.flatten(0, 1).split(scored_at_once(self.generator))
        wanted = torch.cat([self.kinds(self.generator(part)).argmax(1) for part in parts])
        dissent, weight = Dissent(self.kinds, wanted), self.recipe.vote_weight
        return lambda path, x: weight * dissent(path, x)

    def refine_spread(self, y: Images) -> Float[Tensor, "b d"] | None:
        """Standard deviation of the noise under which the codes of y are optimised, `[b d]`; None: without noise."""
        spread = self.fitted_codes.spread(y) if self.recipe.refine_noise else None
        return None if spread is None else self.recipe.refine_noise * spread

    @torch.no_grad()
    def map_forward(self, x: XImages, like: Float[Tensor, "b l h w"] | None = None) -> Images:
        """T: map X images to Y images `[b c h w]` in [-1, 1], as NAM Eq. 3 learns it; weak: see `train_mapper`.

        Args:
            x: `[b c h w]` in [-1, 1], e.g. analogies.
            like: images whose colours the result takes, by an affine map of T's output fitted to each; only under the
                appearance-invariant loss, whose T has no colours of its own. None: x itself.

        Raises:
            UsageError: not fitted yet, or images that are not of G's shape (under `warp`: as `sample_x` has them).
        """
        _ = self.fitted_codes  # refuses a mapping that is not fitted
        wanted = (self.generator.channels, self.image_size, self.image_size)
        if x.shape[1:] != wanted:
            raise UsageError(f"map_forward: images of {tuple(x.shape[1:])}; T maps those of G, of {wanted}")
        like = None if like is None else match_channels(like.to(self.device), self.channels)
        with autocast(self.device, self.precision):
            return fitting.map_x(self.mapper, x.to(self.device), self.channels, self.recipe, like)

    @torch.no_grad()
    def sample_x(self, count: int) -> Images:
        """G(z) of `count` codes from N(0, I), `[count c h w]` in [-1, 1], the same at every call; as T sees them."""
        with autocast(self.device, self.precision):
            return sample(self.generator, count, random_stream(0, device=self.device))

    @torch.no_grad()
    def sample_x_uint8(self, count: int) -> UInt8[np.ndarray, "count c h w"]:
        """The same images as bytes 0..255, a quarter of the memory."""
        with autocast(self.device, self.precision):
            return sample_uint8(self.generator, count, random_stream(0, device=self.device))

    @property
    def image_size(self) -> int:
        """Side of the queries, and of the images that T sees, in pixels; under `warp` analogies may be larger."""
        return self.generator.image_size

    @property
    def latent_dim(self) -> int:
        """d, numbers in a code."""
        return self.generator.latent_dim

    @property
    def fitted_codes(self) -> CodeSource:
        """The source of codes.

        Raises:
            UsageError: not fitted yet.
        """
        if self.codes is None:
            raise UsageError("this mapping is not fitted; call fit() or from_pretrained()")
        return self.codes
