"""Curves and bars, several runs in one panel."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ..errors import one_line
from ..runs import Row
from .page import INK, Chart, drawing

COLOURS = ("#3b82c4", "#d9772f", "#3f9d6b", "#9b6dd6", "#cf5c92", "#8a949e", "#b59b2a", "#3aa6a6")
POINTS = 300  # of a curve; a longer log is averaged
AXIS = ("step", "images", "seconds")
PLAIN = {
    "reconstruction": "reconstruction loss",
    "kl": "KL, nats",
    "kl_of_dimensions": "nats in each dimension",
    "code_spread": "spread of the codes",
    "diversity": "diversity of the images",
    "dissent": "dissent from the vote",
}


def colour(i: int) -> str:
    """Of run number i."""
    return COLOURS[i % len(COLOURS)]


def curves(logs: Sequence[tuple[str, Sequence[Row]]]) -> Chart | None:
    """Every logged number over images seen, a panel each; None where nothing was logged.

    A number that never changed, such as 12 of 12 informative dimensions, is said in words.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    keys = list(dict.fromkeys(key for _, log in logs for key in (log[-1] if log else {})))
    seen = {key: [row[key] for _, log in logs for row in log if key in row] for key in keys}
    plain = [key for key in keys if not isinstance(seen[key][0], list)]
    still = [key for key in plain if len(seen[key]) > 1 and len(set(seen[key])) == 1]
    keys = [key for key in keys if key not in (*AXIS, *still)]
    words = ", ".join(f"{PLAIN.get(key, key.replace('_', ' '))} {seen[key][0]:g}" for key in still if key not in AXIS)
    if not keys:
        return None
    figure, panels = _panels(len(keys))
    for key, axis in zip(keys, panels, strict=True):
        lowest, highest = math.inf, 0.0
        for i, (_, log) in enumerate(logs):
            points = [(row["images"] / 1000, *np.atleast_1d(row[key])) for row in log if key in row]
            if not points:
                continue
            x, *y = _thin(np.array(points)).T
            for line in y:  # a list of numbers, such as the KL of each dimension, has a line for each
                axis.plot(x, line, "." if len(x) == 1 else "-", lw=1.4 if len(y) == 1 else 0.6, color=colour(i))
            lowest, highest = min(lowest, np.min(y)), max(highest, np.max(y))
        if lowest > 0 and highest > 10 * lowest:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 1000 * lowest else (1,)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_locator(NullLocator())
        else:
            axis.yaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_title(PLAIN.get(key, key.replace("_", " ")))
        axis.set_xlabel("thousand images seen")
    return Chart(drawing(figure), _legend([name for name, _ in logs]), f"The same all along: {words}." if words else "")


def bars(title: str, unit: str, runs: Sequence[tuple[str, Float[np.ndarray, " _"]]], caption: str) -> Chart:
    """Numbers of each dimension in falling order, a panel for each run."""
    from matplotlib.ticker import MaxNLocator

    figure, panels = _panels(len(runs))
    highest = max(float(values.max()) for _, values in runs)
    for i, ((name, values), axis) in enumerate(zip(runs, panels, strict=True)):
        falling = np.sort(values)[::-1]
        if len(falling) <= 64:
            axis.bar(np.arange(1, len(falling) + 1), falling, color=colour(i), width=0.8)
        else:
            axis.stairs(falling, np.arange(len(falling) + 1) + 0.5, fill=True, color=colour(i))
        axis.set_title(f"{title}, {one_line(name)}" if len(runs) > 1 else title)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.set_xlabel("dimensions of the code, in falling order")
        axis.set_ylabel(unit)
        axis.set_ylim(0, 1.05 * highest or 1)
    return Chart(drawing(figure), (), caption)


def _panels(count: int):
    """A figure with `count` panels in the style of the page, three in a row."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 8, "axes.titlesize": 9, "text.parse_math": False, "path.simplify_threshold": 0.5,
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "text.color": INK,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.6,
        "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    }  # fmt: skip
    columns = min(3, count)
    rows = math.ceil(count / columns)
    with rc_context(style):
        figure = Figure(figsize=(10.2 / 3 * columns, 2.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.get_layout_engine().set(h_pad=0.1, w_pad=0.1)  # pyright: ignore
    for axis in axes.flat[count:]:
        axis.axis("off")
    return figure, axes.flat[:count]


def _thin(points: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "m k"]:
    """At most `POINTS` points, each the mean of its neighbours."""
    return np.array([part.mean(0) for part in np.array_split(points, min(POINTS, len(points)))])


def _legend(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, colour(i)) for i, name in enumerate(names)] if len(names) > 1 else []
