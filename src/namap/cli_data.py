"""The verb `namap check-data`. `cli` puts it on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import keep_apart, say
from .errors import DataError, UsageError, one_line
from .options import AsJson, Debug, Quiet

if TYPE_CHECKING:
    from .data import ImageDomain


def check_data(
    src: Annotated[str, typer.Argument(metavar="SRC", help="Folder, file.npz:key, …")],
    size: Annotated[int | None, typer.Option(min=8, help="Side of the images.")] = None,
    kinds: Annotated[
        int | None, typer.Option(min=2, help="Also find so many kinds of images, as a vote of `namap fit` would.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="With --kinds: draw some images of each, a row a kind.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Read a data source: what is in it, what is wrong with it, and how to mend that."""
    from .data import load_domain
    from .data.coverage import measure_coverage
    from .data.inspection import inspect_domain

    check_sheet(kinds, sheet)
    if sheet is not None:
        keep_apart(sheet.parent, src, option="--sheet")
    try:
        domain = load_domain(src, size, quiet=quiet, tell=False)
    except DataError as error:
        for path, reason in error.skipped:
            typer.echo(one_line(f"unreadable {path}: {reason}"), err=as_json)
        raise
    shares = draw_sheet(domain, kinds, sheet) if kinds and sheet else []
    advice = inspect_domain(domain)
    extent, cover, _ = measure_coverage(domain.images)
    classes = None if domain.labels is None else sorted(set(domain.labels.tolist()))
    say(
        {
            "images": len(domain),
            "size": domain.size,
            "channels": domain.channels,
            "classes": classes,
            "extent": extent,
            "coverage": cover,
            "skipped": domain.skipped,
            "fingerprint": domain.fingerprint,
            "kinds": shares,
            "advice": [a._asdict() for a in advice],
        },
        as_json,
        "\n".join(
            [
                f"{len(domain)} images of {domain.size}x{domain.size}, {domain.channels} channel(s)",
                f"labels: {'none' if classes is None else classes}",
                f"content: extent {extent:.2f} of the side, covers {cover:.0%} of an image",
                *([f"kinds: {', '.join(f'{share:.1%}' for share in shares)} of the images"] if shares else []),
                *(one_line(f"skipped {path}: {reason}") for path, reason in domain.skipped),
                *(f"! {what}\n  → {remedy}" for what, remedy in advice),
                "" if advice else "nothing to mend",
            ]
        ),
    )


def check_sheet(count: int | None, sheet: Path | None) -> None:
    """Refuse --kinds without --sheet, and a file that is there."""
    if (count is None) != (sheet is None):
        raise UsageError("--kinds and --sheet go together, e.g. --kinds 10 --sheet kinds.png")
    if sheet is not None and sheet.exists():
        raise UsageError(f"--sheet {sheet}: is there already; say another name")


def draw_sheet(domain: "ImageDomain", count: int, sheet: Path) -> list[float]:
    """Draw `count` kinds of images; returns the share of each, the commonest first."""
    from .kinds import MOST, draw_kinds, find_kinds
    from .pictures import write_picture

    images = domain.some(MOST)
    found = find_kinds(images, count)
    write_picture(sheet, draw_kinds(images, found))
    return sorted(found.prior.tolist(), reverse=True)
