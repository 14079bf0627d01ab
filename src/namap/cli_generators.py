"""The verbs of generators: train one, try one. `cli` puts them on the command line."""

from typing import Annotated

import typer

from .console import keep_apart, parse_range, read_settings, say
from .options import (
    AsJson,
    Debug,
    Device,
    DryRun,
    ImageRange,
    Images,
    LatentDim,
    Out,
    Overwrite,
    Precision,
    Quiet,
    SeedOfFit,
    Settings,
    Source,
    Spatial,
    Stage,
    TrustPickle,
)


def train_generator(
    data: Source,
    outdir: Out,
    latent_dim: Annotated[int | None, typer.Option(min=1, help="d, size of a code. Default: 64.")] = None,
    images: Images = None,
    seed: SeedOfFit = None,
    size: Annotated[
        int | None,
        typer.Option(min=8, help="Side of the images: 32, 64, …; default: the data's, 32 for folders."),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, max=3, help="1 (grey) or 3 (RGB); default: the data's.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=4, help="Channels of the finest scale; doubled at each coarser one.")
    ] = None,
    arch: Annotated[str, typer.Option(help="dcgan, vae, glo, progressive or stack.")] = "dcgan",
    rate: Annotated[float | None, typer.Option(min=0, help="Adam's learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images of a step.")] = None,
    spectral_norm: Annotated[
        bool | None, typer.Option("--spectral-norm", help="dcgan: spectral normalisation of the discriminator.")
    ] = None,
    augment: Annotated[
        bool | None, typer.Option("--augment", help="dcgan, progressive, stack: differentiable augmentation.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(min=0, help="dcgan, progressive, stack: deviation of the noise on what the discriminator sees."),
    ] = None,
    beta: Annotated[float | None, typer.Option(min=0, help="vae: weight of the KL term.")] = None,
    set_: Settings = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a generator of the domain X."""
    from .data import load_domain
    from .data.inspection import FEW, warn_of_few
    from .generators import find_family, train_generator
    from .settings import make_settings

    keep_apart(outdir, data)
    settings = read_settings(
        None,
        set_ or [],
        latent_dim=latent_dim,
        images=images,
        seed=seed,
        width=width,
        rate=rate,
        batch_size=batch_size,
        spectral_norm=spectral_norm,
        augment=augment,
        noise=noise,
        beta=beta,
    )
    recipe = make_settings(find_family(arch), settings, arch)
    domain = load_domain(data, size, channels, quiet)
    if dry_run:
        return say(
            {
                "arch": arch,
                "outdir": str(outdir),
                "data": data,
                "size": domain.size,
                "channels": domain.channels,
                **vars(recipe),
            }
        )
    if not (outdir / "run.json").exists():  # it begins
        warn_of_few(domain, "generator", 10 * FEW)
    train_generator(domain, recipe, outdir, device, precision, quiet, overwrite=overwrite)
    say(
        {"generator": str(outdir), "samples": str(outdir / "samples.png")},
        as_json,
        f"generator in {outdir}/final; its samples in {outdir}/samples.png",
    )


def check_generator(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="Directory, file, diffusers:DIRECTORY or hub:REPO:NAME; as for fit.")
    ],
    latent_dim: LatentDim = None,
    image_range: ImageRange = "-1,1",
    spatial: Spatial = None,
    stage: Stage = None,
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Try a generator: latent size, shape, range, gradient, noise; and how to mend what is wrong."""
    from .generators import check_generator, inspect_generator, load_generator

    span = parse_range(image_range)
    options = {"latent_dim": latent_dim, "image_range": span, "spatial": spatial, "stage": stage}
    generator = load_generator(spec, trust_pickle=trust_pickle, **options)
    channels, size = check_generator(generator, generator.latent_dim)
    advice = inspect_generator(generator)
    lines = [f"! {what}\n  → {remedy}" for what, remedy in advice]
    say(
        {
            "latent_dim": generator.latent_dim,
            "channels": channels,
            "size": size,
            "advice": [a._asdict() for a in advice],
        },
        as_json,
        "\n".join(
            [f"sound: codes of {generator.latent_dim} to {channels}x{size}x{size} in [-1, 1], differentiable", *lines]
        ),
    )
