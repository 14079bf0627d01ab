"""NAM, AE-NAM and VAE-NAM: fit, translate, map_forward, save, load. One equation, three sources of codes.

loss = reconstruction(T(G(z)), y) + beta * KL(q(z|y) || N(0, I))
"""

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8

from . import checkpoint, fitting, processes
from .analogies import Analogies, counted
from .data import ImageDomain, Source, load_domain
from .data.coverage import shrink
from .data.feeding import ImageStream
from .errors import DataError, UsageError
from .generators import Generator, freeze
from .hub import local_model, push
from .model import Model
from .runs import load_result, occupied, precision_of
from .saving import mapping_state, read_mapping, without_names
from .tensors import as_seed, pick_precision
from .training import identity, train
from .voting import drop_checkpoints, hold_vote, load_x, part_of

M = TypeVar("M", bound="Mapping")
Domain = ImageDomain | ImageStream


class Mapping(Model):
    """A mapper T and a source of codes, fitted to a frozen generator G of the domain X.

        loss = reconstruction(T(G(z)), y) + beta * KL(q(z|y) || N(0, I))                        (VAE-NAM Eq. 5)

    Use `NAM`, `AENAM`, `VAENAM` or `WAENAM`: they differ in where z comes from, and share all that is below.

    Args:
        generator: G, from `load_generator` or `wrap_generator`; moved to the device, put into eval mode and frozen.
            Codes `[b d]` to images `[b c s s]` in [-1, 1], with s a multiple of 8 and at least 16.
        loss: `appearance`, `l1`, `l2`, `perceptual` (NAM Eq. 4) or `gram`.
        features: network of the perceptual losses, images in [-1, 1] to a list of `[b c h w]`; None: VGG-16.
        vgg_weights: a safetensors file of VGG-16; None: torchvision's ImageNet weights.
        vgg_input: what these weights expect, `torchvision` or `caffe`.
        device: `auto`, `cpu` or `cuda[:n]`.
        precision: `auto`, `fp32` or `bf16`.
        settings: any field of `Recipe`, e.g. `beta=1e-3, seed=0, images=100_000`.

    Raises:
        UsageError: an unknown setting, a generator that T cannot follow, or a device that is not there.
    """

    data: str | None = None  # fingerprint of the queries of the fit

    def fit(
        self: M,
        data: Source,
        outdir: Path | str | None = None,
        quiet: bool = False,
        x: Source | None = None,
        overwrite: bool = False,
    ) -> M:
        """Learn T and the codes (or E) from queries alone; returns the mapping itself.

        Args:
            data: whatever `load_domain` reads, or, but for NAM, a stream of shards; resized to the generator's side.
            outdir: where checkpoints, `metrics.jsonl` and the result (`final/`) go; the same call again goes on,
                or loads the result. None: only checkpoints, in the directory for temporary files, for its duration.
            quiet: no progress bar.
            x: images of X, among which the setting `kinds` finds what the queries vote on; None: samples of G.
            overwrite: an earlier run in `outdir` makes room, once it is known that this one can begin.

        Raises:
            DataError: no usable images.
            DivergedError: the loss became NaN and stayed so.
            Interrupted: Ctrl-C or SIGTERM, after a checkpoint.
            StorageError: `outdir` cannot be written, is full, or is another process's now.
            UsageError: `outdir` holds another run, or the loss has no use for the feature network that was given.
        """
        fresh = copy(self)  # a fit that fails leaves what an earlier one has learnt
        fresh.channels, fresh.fitted_features = 0, None
        fresh.learn(data, None if outdir is None else Path(outdir), quiet, x, overwrite)
        self.__dict__.update(fresh.__dict__)
        return self

    def learn(self, data: Source, home: Path | None, quiet: bool, x: Source | None, overwrite: bool) -> None:
        """What `fit` does: everything between the queries and a fitted mapping in `home`."""
        recipe = self.recipe
        if self.features is not None and recipe.loss not in ("perceptual", "gram"):
            raise UsageError(f"features: loss={recipe.loss} has no use for a feature network; use perceptual or gram")
        freeze(self.generator)  # the module inside may have been put into training since
        if self.wanted == "auto":
            self.precision = pick_precision(precision_of(home, self.wanted, overwrite), self.device)
        stream = fitting.stream_queries(data, recipe, self.image_size, self.channels or None)
        domain = stream or fitting.draw_queries(self.prepare_queries(data), recipe)
        self.data = domain.fingerprint
        fitting.warn_of_coverage(self.sample_x_uint8(256), domain)
        self.build(domain.channels, len(domain.head))
        self.place()
        task = self.make_task(domain, load_x(x, recipe, domain, self.sample_x_uint8))
        run = fitting.make_run(recipe, self.generator, self.device, self.precision, quiet)
        with occupied(home, identity(task, domain, part_of(run, task)), overwrite) as finished:
            if finished and home is not None:
                self.restore(load_result(home), home / "final")
                return
            if task.x is not None:
                task.dissent = hold_vote(task.before_vote(), task.x, run, home)
            train(task, domain, part_of(run, task), home)
            self.kinds = None if task.dissent is None else task.dissent.network
            self.eval()
            if home is not None and processes.is_main():
                domain.write_skipped(home)
                self.save_pretrained(home / "final")
                drop_checkpoints(home)

    def make_task(self, domain: Domain, x: ImageDomain | None = None) -> fitting.MappingTask:
        """What is trained: T and the codes, on `domain`, which is prepared; with images of X, what follows the vote."""
        how = (self.recipe.feature_cache_gb, self.device, self.precision)
        cache = fitting.FeatureCache(self.make_reconstruction(), domain, *how)
        return fitting.MappingTask(self.generator, self.mapper, self.fitted_codes, cache, self.recipe, x)

    def translate(
        self,
        data: Source,
        solutions: int = 1,
        refine: int | None = None,
        seed: int | torch.Generator = 0,
        batch_size: int = 256,
        temperature: float = 1.0,
        quiet: bool = True,
        tolerance: float = 1e-3,
    ) -> Analogies:
        """Find the analogies G(z_y) of n queries: NAM Eq. 6, or one pass of E (VAE-NAM Eq. 7-9).

        Args:
            data: queries: whatever `load_domain` reads.
            solutions: k answers for each query; with `vae`, the first is of the mean and the others are samples.
            refine: iterations of Eq. 6 that follow the first codes; None: 0 with an encoder (one pass), 200 for NAM.
            seed: of the samples and starts: a number, or a torch.Generator, of which one number is drawn, so that the
                next call gives others (diffusers' argument `generator`, which here means G).
            batch_size: queries at a time, 1 or more; changes nothing but memory and speed.
            temperature: factor on the noise of the samples and starts: more is more varied, and more often not y.
            quiet: no progress bar.
            tolerance: a query is done when ten iterations lower its objective by less than this share; 0: never early.

        Returns:
            `Analogies`: `x` uint8 `[n k c h w]`, `codes` `[n k d]`, `losses` `[n k]`, in the order of the input.

        Raises:
            DataError: no usable images.
            UsageError: not fitted yet, or several solutions from AE-NAM or WAE-NAM, which have one.
        """
        domain = load_domain(data, self.image_size, self.channels or None)
        asked = {"refine": refine, "temperature": temperature, "quiet": quiet, "tolerance": tolerance}
        parts = self.translate_batches(domain.batches(batch_size), solutions, seed, **asked)
        return Analogies.joined(counted(parts, len(domain), quiet))

    def translate_batches(
        self,
        batches: Iterable[tuple[list[str], UInt8[np.ndarray, "b c h w"]]],
        solutions: int = 1,
        seed: int | torch.Generator = 0,
        **asked: Any,
    ) -> Iterator[Analogies]:
        """Translate batches of queries one by one, however many there are: `translate` in constant memory.

        Args:
            batches: (names, images) each: uint8 of any side, 1 or 3 channels. `open_queries` reads folders this way.
            solutions: as in `translate`, and so is `seed`.
            **asked: `refine`, `temperature`, `quiet` and `tolerance`, as in `translate`.

        Yields:
            `Analogies` of each batch, in the order of the input.

        Raises:
            DataError: images that are not such, or not as many as names.
        """
        seed = as_seed(seed)
        for names, images in batches:
            queries = self.prepare_queries(ImageDomain.from_array(images)).images
            if len(names) != len(queries):
                raise DataError(f"a batch of {len(queries)} images has {len(names)} names")
            yield Analogies(*self.solve(queries, solutions, seed=seed, **asked), names)

    def prepare_queries(self, data: Source) -> ImageDomain:
        """Queries at the generator's size, with Y's channels once these are known."""
        domain = load_domain(data, self.image_size, self.channels or None)
        return replace(domain, images=shrink(domain.images, self.recipe.query_scale))

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What is saved: tensors and configuration."""
        features = fitting.features_digest(self.make_reconstruction())
        known = {"channels": self.channels, "features": features, "data": self.data}
        return mapping_state(self.mapper, self.fitted_codes, self.kinds, self.generator, self.recipe, **known)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its answers, wherever its generator lies."""
        tensors, config = self.state()
        return {**without_names(config), "weights": checkpoint.digest(tensors), "precision": self.precision}

    def save_pretrained(self, path: str | Path) -> None:
        """Save everything that translating needs, as safetensors and JSON, atomically.

        Raises:
            StorageError: `path` cannot be written, or is full.
            UsageError: not fitted yet.
        """
        checkpoint.save_directory(Path(path), *self.state())

    def push_to_hub(self, repo_id: str, data: Source | None = None, **options: Any) -> str:
        """Publish this mapping with a model card: see `namap.hub.push`, which takes the options."""
        return push(self, repo_id, data, **options)

    @classmethod
    def from_pretrained(
        cls: type[M],
        path: str | Path,
        generator: Generator | str | Path | None = None,
        trust_pickle: bool = False,
        *,
        revision: str | None = None,
        token: str | None = None,
        **options: Any,
    ) -> M:
        """Load a saved mapping: with `Mapping` of any method, with `VAENAM` and so on of that one.

        Args:
            path: its directory, or the output directory of `namap fit`, or `owner/name` on the hub.
            generator: the one of the fit, or what `load_generator` takes; needed where that was a wrapped module, a
                hub repository, a pickle, or files that have moved.
            trust_pickle: load that generator even where it is a pickle, which runs whatever code it holds.
            revision: on the hub: a branch, tag or commit.
            token: on the hub: of a private repository; None: the one of `hf auth login`.
            **options: device, precision, features, vgg_weights, vgg_input, as in the constructor.

        Raises:
            UsageError: nothing there, another method than this class, or the generator is missing or another.
            StorageError: damaged files, or files of the generator that have changed since the fit.
        """
        saved = read_mapping(local_model(path, revision, token))
        kind = METHODS[saved.recipe.method]
        if fixed := [name for name in options if hasattr(saved.recipe, name)]:
            raise UsageError(f"{saved.source}: {fixed[0]} was decided by the fit; leave it out")
        if not issubclass(kind, cls):
            holds = f"holds a {kind.__name__}, not a {cls.__name__}"
            raise UsageError(f"{saved.source}: {holds}; load it with {kind.__name__}")
        mapping = kind(saved.generator(generator, trust_pickle), **options, **asdict(saved.recipe))
        with torch.device("meta"):
            mapping.build(saved.config["channels"], saved.count)
        mapping.fitted_features, mapping.data = saved.config.get("features"), saved.config.get("data")
        mapping.restore(saved.tensors, saved.source)
        return mapping


class NAM(Mapping):
    """One learnt code per query (NAM, ECCV 2018, Eq. 3 and 5); new queries are solved by Eq. 6."""

    method = "nam"


class AENAM(Mapping):
    """A deterministic encoder z = E(y) (VAE-NAM, NeurIPS 2018, Eq. 2): one solution per query."""

    method = "ae"


class VAENAM(Mapping):
    """A stochastic encoder q(z|y) = N(mu, sigma^2) (VAE-NAM, NeurIPS 2018, Eq. 3-5)."""

    method = "vae"


class WAENAM(Mapping):
    """A deterministic encoder whose codes match the prior as a whole, by sliced Wasserstein distance (VAE-NAM §5)."""

    method = "wae"


METHODS: dict[str, type[Mapping]] = {c.method: c for c in (NAM, AENAM, VAENAM, WAENAM)}
