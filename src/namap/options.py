"""Options that several verbs of the command line share."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from .errors import UsageError

RUNNING, FOREIGN = "Running", "Foreign generators and feature networks"  # panels of --help, below a verb's own options


def refuse_uri(outdir: Path) -> Path:
    """A directory as it is; of a URI, a path keeps one of the two slashes, and would lie in a folder called `s3:`.

    Raises:
        UsageError: it is a URI.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(outdir)):
        raise UsageError(f"--outdir {outdir}: is a URI, to which only translate --engine ray writes; name a directory")
    return outdir


Out = Annotated[
    Path,
    typer.Option("--outdir", callback=refuse_uri, help="Directory of the run; the same command goes on there."),
]
Source = Annotated[
    str,
    typer.Option("--data", metavar="SRC", help="Folder, file.npz:key, torchvision:NAME/SPLIT or embedded:NAME/SPLIT."),
]
QueriesOfFit = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SRC",
        help="Folder, file.npz:key, torchvision:NAME/SPLIT or embedded:NAME/SPLIT; as a stream of shards: "
        "webdataset:PATTERN or datasets:PATH[:SPLIT].",
    ),
]
Model = Annotated[Path, typer.Argument(help="Directory of `namap fit`, or owner/name on the hub.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated.")]
Refine = Annotated[
    int | None, typer.Option("--refine", min=0, help="Iterations of code optimisation (Eq. 6) after the first codes.")
]
SEED = typer.Option("--seed", min=0, max=2**63 - 1, help="Decides initialisation, data order and noise.")
SeedOfFit = Annotated[int | None, SEED]  # None: that of the settings
SeedOfTranslation = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Decides the noise and the starts of the translation.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda[:n].", rich_help_panel=RUNNING)]
Precision = Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.", rich_help_panel=RUNNING)]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.", rich_help_panel=RUNNING)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=RUNNING)]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=RUNNING)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what an earlier run left in --outdir.")]
Images = Annotated[
    int | None, typer.Option("--images", min=1, help="Training images to see in all; default: the recipe's.")
]
Spec = Annotated[
    str,
    typer.Option(
        "--generator",
        metavar="SPEC",
        help="Directory of `namap train-generator`, TorchScript or torch.export file, diffusers:DIRECTORY, "
        "hub:REPO:NAME (whose code is run), or simulator:face.",
    ),
]
GivenSpec = Annotated[
    str | None,
    typer.Option(
        "--generator", metavar="SPEC", help="A foreign generator that has moved, or of torch.hub; as for `namap fit`."
    ),
]
LatentDim = Annotated[
    int | None,
    typer.Option(min=1, help="Foreign generator: d, size of a code. Default: found out.", rich_help_panel=FOREIGN),
]
ImageRange = Annotated[
    str,
    typer.Option(
        metavar="LOW,HIGH", help="Foreign generator: range of its images, e.g. 0,1 or 0,255.", rich_help_panel=FOREIGN
    ),
]
Spatial = Annotated[
    bool | None,
    typer.Option(
        "--spatial", help="Foreign generator: wants codes [b d 1 1]. Default: found out.", rich_help_panel=FOREIGN
    ),
]
Stage = Annotated[
    int | None,
    typer.Option(
        help="Foreign generator that gives several images: which one; -1 for the last.", rich_help_panel=FOREIGN
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Load the --generator even if it is a pickle: it runs whatever code it holds.",
        rich_help_panel=FOREIGN,
    ),
]
VGGWeights = Annotated[
    Path | None,
    typer.Option(
        envvar="NAMAP_VGG_WEIGHTS",
        help="Local VGG-16 weights (safetensors) for --loss perceptual.",
        rich_help_panel=FOREIGN,
    ),
]
VGGInput = Annotated[
    Literal["torchvision", "caffe"],
    typer.Option(
        envvar="NAMAP_VGG_INPUT", help="What these weights expect: torchvision or caffe.", rich_help_panel=FOREIGN
    ),
]

PANELS = {  # of `namap --help`: the verbs in the order in which one meets them
    "Start": ("demo", "doctor"),
    "Make a mapping": ("train-generator", "check-generator", "check-data", "fit", "translate"),
    "Look and judge": ("app", "report", "explore", "evaluate"),
    "Go on": ("distil", "train-mapper", "ground", "match"),
    "Hand on": ("export", "push"),
    "Measure": ("bench",),
}


def arrange(app: typer.Typer) -> None:
    """Put the verbs into the order and the panels of `PANELS`; one that is in none comes last."""
    panels = {verb: panel for panel, verbs in PANELS.items() for verb in verbs}
    order = [*panels]
    for command in app.registered_commands:
        command.name = command.name or str(getattr(command.callback, "__name__", ""))
        command.rich_help_panel = panels.get(command.name, "Further")
    app.registered_commands.sort(key=lambda c: order.index(c.name) if c.name in panels else len(order))


def example(text: str) -> str:
    """The line under a verb's options."""
    return f"Example: `{text}`"
