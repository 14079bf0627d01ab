"""The verbs that hand a mapping on: `namap push`, `namap export`, `namap distil`; and `namap doctor`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import keep_apart, keep_model, read_settings, say
from .errors import UsageError, warn
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
    Settings,
    Source,
    TrustPickle,
    VGGInput,
    VGGWeights,
)


def push(
    model: Model,
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of the hub; made where it is not.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="SRC", help="Queries for the card's picture; they are published with it."),
    ] = None,
    private: Annotated[bool | None, typer.Option("--private", help="A private repository.")] = None,
    license_: Annotated[str, typer.Option("--license", help="E.g. apache-2.0, cc-by-4.0.")] = "unknown",
    x: Annotated[str, typer.Option("--x-name", help="The card's name of X, e.g. 'typeset digits'.")] = "",
    y: Annotated[str, typer.Option("--y-name", help="The card's name of Y, e.g. 'handwriting'.")] = "",
    card_only: Annotated[
        Path | None,
        typer.Option("--card-only", metavar="DIR", help="Write README.md and its picture there; no network."),
    ] = None,
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
    """Publish a mapping on the Hugging Face hub, with a model card. Log in with `hf auth login`, or set HF_TOKEN."""
    from huggingface_hub.utils import disable_progress_bars

    from .card import claim_card, write_card
    from .hub import REPO_ID
    from .mapping import Mapping

    if not REPO_ID.fullmatch(repo_id):
        raise UsageError(f"{repo_id}: not a repository of the hub; write owner/name")
    if card_only is not None:
        claim_card(card_only)
        keep_apart(card_only, data, option="--card-only")
    mapping = Mapping.from_pretrained(
        model, generator, trust_pickle, vgg_weights=vgg_weights, vgg_input=vgg_input, device=device, precision=precision
    )
    names = {key: name for key, name in (("x", x), ("y", y)) if name}
    card = {"license": license_, "run": model, **names}
    if card_only is not None:
        write_card(mapping, card_only, repo_id, data, **card)
        return say({"card": str(card_only / "README.md")}, as_json, f"card in {card_only}/README.md")
    if quiet:
        disable_progress_bars()
    address = mapping.push_to_hub(repo_id, data, private=private, **card)
    say({"model": address}, as_json, f"published: {address}")


def export(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file: .onnx or .pt2.")],
    format_: Annotated[
        Literal["onnx", "pt2"] | None, typer.Option("--format", help="Default: as the file's suffix says.")
    ] = None,
    part: Annotated[
        Literal["analogy", "mapper"] | None,
        typer.Option(help="analogy: queries to analogies, G(E(y)); mapper: T, X to Y, all that a NAM has."),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Run the file on two batch sizes, and compare with PyTorch.")] = True,
    generator: GivenSpec = None,
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write one file that runs without namap: float [b c h w] in [-1, 1] to the same, in fp32, for any batch."""
    from .export import export_mapping
    from .mapping import Mapping

    mapping = Mapping.from_pretrained(model, generator, trust_pickle, device="cpu", precision="fp32")
    found = export_mapping(mapping, output, part, format_, verify)
    if part is None and found["part"] == "mapper":
        warn(f"NAM has no encoder, so this is T, from X to Y; for analogies: namap distil {model} --data … --outdir …")
    checked = f"; differs from PyTorch by at most {found['difference']:.0e}" if verify else "; not verified"
    shape = f"{found['channels']}x{found['size']}x{found['size']}"
    say(found, as_json, f"{found['part']} in {output}, of images {shape}{checked}")


def distil(
    model: Model,
    data: Source,
    outdir: Out,
    images: Images = None,
    seed: SeedOfFit = None,
    set_: Settings = None,
    generator: GivenSpec = None,
    trust_pickle: TrustPickle = False,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train an encoder on the codes that a NAM found for its queries (--data of its fit): an AE-NAM, of one pass."""
    from .distilling import distil as train
    from .mapping import Mapping
    from .runs import precision_of

    keep_apart(outdir, data)
    keep_model(outdir, model)
    settings = read_settings(None, set_ or [], images=images, seed=seed)
    options = {"vgg_weights": vgg_weights, "vgg_input": vgg_input, "device": device}
    options["precision"] = precision_of(outdir, precision, overwrite)
    mapping = Mapping.from_pretrained(model, generator, trust_pickle, **options)
    _, losses = train(mapping, data, outdir, quiet, overwrite, **settings)
    say(
        {"model": str(outdir), "losses": losses},
        as_json,
        f"ae mapping in {outdir}/final; loss of held-out queries {losses['encoder']:.4f} in one pass, "
        f"{losses['table']:.4f} with the codes of NAM, {losses['chance']:.4f} with random codes; "
        f"next: namap translate {outdir} {data} --outdir {outdir}/analogies",
    )


def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Versions, devices, precision, threads, caches, disk of this machine: what is wrong, and how to mend it."""
    from .doctor import as_dict, as_text, examine

    findings = examine()
    say(as_dict(findings), as_json, as_text(findings))
    raise typer.Exit(next((f.code for f in findings if f.code), 0))
