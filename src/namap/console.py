"""What the verbs of the command line share: settings, output, clearing."""

import json
import shutil
from pathlib import Path
from typing import Any

import typer

from .errors import UsageError


def read_settings(config: Path | None, pairs: list[str], **flags: Any) -> dict[str, Any]:
    """Settings of a fit: a YAML file, overridden by --set, overridden by flags that were given."""
    import yaml

    settings: dict[str, Any] = {}
    if config is not None:
        try:
            settings = yaml.safe_load(config.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"--config {config}: not readable YAML ({str(error).splitlines()[0]})") from None
        if not isinstance(settings, dict):
            raise UsageError(f"--config {config}: expected `key: value` lines")
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: expected KEY=VALUE")
        settings[key.replace("-", "_")] = yaml.safe_load(value)
    defaults = {"method": "vae", "loss": "appearance", "seed": 0, "images": None}
    chosen = {k: v for k, v in flags.items() if v != defaults[k]}
    return {"method": "vae", **settings, **chosen}


def clear(outdir: Path, overwrite: bool) -> None:
    """Delete an earlier run, where that is asked for, and only what a run leaves."""
    if not overwrite or not outdir.exists():
        return
    if any(outdir.iterdir()) and not any((outdir / n).exists() for n in ("run.json", "metrics.json", "final")):
        raise UsageError(f"--overwrite: {outdir} does not look like a run of namap; delete it yourself")
    shutil.rmtree(outdir)


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as a list."""
    parts = text.split(",")
    if not all(p.strip().isdecimal() for p in parts):
        raise UsageError(f"--seeds {text}: expected whole numbers, e.g. 0,1,2")
    return [int(p) for p in parts]


def say(result: dict[str, Any], as_json: bool = True, text: str = "") -> None:
    """Print a result, for people or for programs."""
    typer.echo(json.dumps(result, indent=2, default=str) if as_json else text)
