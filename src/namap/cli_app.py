"""The verb `namap app`: the explorer in a browser. `cli` puts it on the command line."""

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from .errors import UsageError, warn
from .options import Debug, Device, GivenSpec, Precision, TrustPickle, VGGInput, VGGWeights

LAST = 10  # seconds that a computation has, at the end, to reach a place where it can be left


def serve(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL…", help="Directories of `namap fit`.")],
    data: Annotated[
        str | None, typer.Option("--data", metavar="SRC", help="Queries to pick from: folder, file.npz:key, …")
    ] = None,
    x: Annotated[
        str | None, typer.Option("--x", metavar="SRC", help="Images of X, to see whether the generator copies them.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    generator: GivenSpec = None,
    trust_pickle: TrustPickle = False,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    device: Device = "auto",
    precision: Precision = "auto",
    debug: Debug = False,
) -> None:
    """Explore mappings on a page: drop a query, watch its analogy, walk through its solutions, compare models."""
    with tempfile.TemporaryDirectory(prefix="namap-app-") as place:  # of uploads and answers: gone with the page
        os.environ["GRADIO_TEMP_DIR"] = place
        try:
            from .app.looks import CSS
            from .app.page import build_page
            from .app.server import start
        except ModuleNotFoundError as error:
            raise UsageError(f"namap app needs {error.name}; pip install 'namap[app]'") from error
        from .app.views import open_explorer

        options = {"vgg_weights": vgg_weights, "vgg_input": vgg_input, "device": device, "precision": precision}
        options |= {"trust_pickle": trust_pickle}
        explorer = open_explorer(models, data, x, generator, **options)
        page = build_page(explorer)
        url = start(page, host, port, CSS)
        if host not in ("127.0.0.1", "localhost"):
            warn(f"--host {host}: everyone who reaches this machine can use the page; it asks for no password")
        typer.echo(f"explorer at {url} (Ctrl-C ends it)")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            typer.echo("ended")
        finally:
            page.close(verbose=False)
            explorer.lock.acquire(timeout=LAST)  # kept: an interpreter that ends under a computation aborts
