"""Options that several verbs of the command line share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Out = Annotated[Path, typer.Option("--outdir", help="Directory of the run; the same command goes on there.")]
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
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides initialisation, data order and noise.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda[:n].")]
Precision = Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
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
LatentDim = Annotated[int | None, typer.Option(min=1, help="Foreign generator: d, size of a code. Default: found out.")]
ImageRange = Annotated[
    str, typer.Option(metavar="LOW,HIGH", help="Foreign generator: range of its images, e.g. 0,1 or 0,255.")
]
Spatial = Annotated[
    bool | None, typer.Option("--spatial", help="Foreign generator: wants codes [b d 1 1]. Default: found out.")
]
Stage = Annotated[
    int | None, typer.Option(help="Foreign generator that gives several images: which one; -1 for the last.")
]
TrustPickle = Annotated[
    bool,
    typer.Option("--trust-pickle", help="Load the --generator even if it is a pickle: it runs whatever code it holds."),
]
VGGWeights = Annotated[
    Path | None,
    typer.Option(envvar="NAMAP_VGG_WEIGHTS", help="Local VGG-16 weights (safetensors) for --loss perceptual."),
]
VGGInput = Annotated[
    Literal["torchvision", "caffe"],
    typer.Option(envvar="NAMAP_VGG_INPUT", help="What these weights expect: torchvision or caffe."),
]


def example(text: str) -> str:
    """The line under a verb's options."""
    return f"Example: `{text}`"
