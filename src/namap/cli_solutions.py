"""The verbs that go on from a fitted mapping: `namap explore` and `namap train-mapper`."""

from pathlib import Path
from typing import Annotated

import typer

from .console import keep_apart, keep_model, read_settings, say
from .errors import StorageError, UsageError
from .options import (
    AsJson,
    Debug,
    Device,
    GivenSpec,
    Images,
    Model,
    Out,
    Overwrite,
    Precision,
    Quiet,
    SeedOfFit,
    SeedOfTranslation,
    Settings,
    Source,
    TrustPickle,
    VGGInput,
    VGGWeights,
)


def explore(
    model: Model,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A picture, or a source of many with --index.")],
    outdir: Out,
    index: Annotated[int, typer.Option(min=0, help="Which image of QUERY.")] = 0,
    solutions: Annotated[int, typer.Option(min=2, help="Samples (vae) or starts (nam).")] = 8,
    directions: Annotated[int, typer.Option(min=1, help="Directions of largest spread to walk along.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="Factor on the noise of the solutions.")] = 1.0,
    generator: GivenSpec = None,
    trust_pickle: TrustPickle = False,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    seed: SeedOfTranslation = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Walk through the solutions of one query: explore.png (solutions, directions, a segment) and explore.json.

    Diversity is measured by VGG features where --vgg-weights are given, else in pixels.
    """
    from .data import load_domain
    from .exploring import explore as walk
    from .exploring import one_query, save_exploration
    from .mapping import Mapping
    from .networks import VGGFeatures
    from .tensors import place

    keep_apart(outdir, query)
    claim_exploration(outdir)
    options = {"vgg_weights": vgg_weights, "vgg_input": vgg_input, "device": device, "precision": precision}
    mapping = Mapping.from_pretrained(model, generator, trust_pickle, **options)
    domain = load_domain(query, mapping.image_size, mapping.channels, quiet)
    features = None if vgg_weights is None else place(VGGFeatures(vgg_weights, 3, vgg_input), mapping.device)
    found = walk(mapping, one_query(domain, index), solutions, directions, seed, temperature, features, quiet)
    save_exploration(found, outdir)
    say(
        {"outdir": str(outdir), **found.summary()},
        as_json,
        f"{solutions} solutions: diversity {found.diversity:.3f} ({found.distance}), mean loss {found.fidelity:.3f}; "
        f"{outdir}/explore.png",
    )


def claim_exploration(folder: Path) -> None:
    """Leave alone what `explore` did not write.

    Raises:
        UsageError: `folder` has an explore.json of something else, or an explore.png without these numbers.
    """
    from .checkpoint import read_json

    numbers = folder / "explore.json"
    try:
        ours = numbers.is_file() and {"diversity", "fidelity", "segment_losses"} <= read_json(numbers).keys()
    except StorageError:
        ours = False
    foreign = [path for path in (numbers, folder / "explore.png") if path.exists() or path.is_symlink()]
    if foreign and not ours:
        raise UsageError(f"{foreign[0]}: is no exploration of namap, and would be lost; use another --outdir")


def train_mapper(
    model: Model,
    data: Source,
    outdir: Out,
    images: Images = None,
    filters: Annotated[int | None, typer.Option(min=1, help="F of the CRN: 4F, 3F, 2F, F filters.")] = None,
    mapper_skip: Annotated[bool | None, typer.Option(help="T adds G(z) to the CRN's output. Default: yes.")] = None,
    set_: Settings = None,
    generator: GivenSpec = None,
    trust_pickle: TrustPickle = False,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    seed: SeedOfFit = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a strong T on the pairs (G(z_y), y) of a mapping, with VGG features where --vgg-weights are given."""
    from .mapping import Mapping
    from .networks import VGGFeatures
    from .runs import precision_of
    from .strong import train_mapper as train

    keep_apart(outdir, data)
    keep_model(outdir, model)
    options = {"vgg_weights": vgg_weights, "vgg_input": vgg_input, "device": device}
    options["precision"] = precision_of(outdir, precision, overwrite)
    mapping = Mapping.from_pretrained(model, generator, trust_pickle, **options)
    features = None if vgg_weights is None else VGGFeatures(vgg_weights, 3, vgg_input)
    settings = read_settings(None, set_ or [], images=images, filters=filters, skip=mapper_skip, seed=seed)
    _, errors = train(mapping, data, outdir, features, quiet, overwrite, **settings)
    say(
        {"mapper": str(outdir), "mean_absolute_error_of_255": errors},
        as_json,
        f"held-out X to Y, mean absolute error of 255: strong {errors['strong']:.1f}, small {errors['small']:.1f} "
        f"({errors['small_in_colours_of_query']:.1f} given each query's colours); mapper in {outdir}/final",
    )


def ground(
    origin: Annotated[Path, typer.Argument(metavar="FROM", help="Directory of `namap fit`: the domain of SRC.")],
    to: Annotated[Path, typer.Argument(metavar="TO", help="Another one, fitted to the same generator.")],
    src: Annotated[str, typer.Argument(metavar="SRC", help="Queries: folder, file.npz:key, …")],
    outdir: Out,
    mapper: Annotated[
        Path | None, typer.Option(help="Directory of `namap train-mapper` for TO, in place of its small T.")
    ] = None,
    refine: Annotated[int | None, typer.Option(min=0, help="Iterations of Eq. 6 after the first codes.")] = None,
    npz: Annotated[bool, typer.Option(help="One analogies.npz in place of PNGs.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other answers that are there.")] = False,
    generator: GivenSpec = None,
    trust_pickle: TrustPickle = False,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Translate one query domain into another through the X of their generator, with no further training."""
    from .checkpoint import digest
    from .data import load_domain
    from .grounding import Grounding
    from .mapping import Mapping
    from .strong import StrongMapper
    from .translating import claim, identity

    keep_apart(outdir, src)
    options = {"vgg_weights": vgg_weights, "vgg_input": vgg_input, "device": device, "precision": precision}
    first, second = (Mapping.from_pretrained(path, generator, trust_pickle, **options) for path in (origin, to))
    strong = None if mapper is None else StrongMapper.from_pretrained(mapper).to(second.device)
    grounding = Grounding().add("from", first).add("to", second, strong)
    grounding.arrival("to")  # before anything makes room
    domain = load_domain(src, first.image_size, first.channels, quiet)
    onto = {"onto": identity(second, "", {}), "mapper": strong and digest(strong.state_dict())}
    first.check_search(refine=refine)
    claim(outdir, identity(first, domain.fingerprint, {"refine": refine, "npz": npz, **onto}), overwrite)
    found = grounding.translate(domain, "from", "to", refine, quiet)
    written = found.save_npz(outdir) if npz else found.save_pngs(outdir)
    say(
        {"outdir": str(outdir), "queries": len(domain), "files": written},
        as_json,
        f"{len(domain)} queries, {written} files in {outdir}",
    )
