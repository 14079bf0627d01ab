"""What the site makes while it is built: the command line's pages, formulas as MathML, RESULTS.md as a page."""

import re
from pathlib import Path

import nbformat
import typer
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from tutorial_notebook import make_notebook
from typer.cli import get_docs_for_click

from namap.cli import app

ROOT = Path(__file__).resolve().parents[1]
PICTURES = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
DISPLAY = re.compile(r"^```math\n(.+?)\n```$", re.M | re.S)
INLINE = re.compile(r"\$`(.+?)`\$")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/, the tables of results and their pictures, and the tutorial as a notebook."""
    for name in ("RESULTS.md", *dict.fromkeys(PICTURES.findall((ROOT / "RESULTS.md").read_text()))):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "tutorial.ipynb", content=nbformat.writes(make_notebook())))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in the commands; turn GitHub's two spellings of a formula into MathML, which browsers draw themselves.

    RESULTS.md lies above docs/ in the checkout, beside its pages in the site.
    """
    markdown = markdown.replace("](../RESULTS.md", "](RESULTS.md")
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", commands())
    markdown = DISPLAY.sub(lambda found: f"\n<div>{mathml(found[1], 'block')}</div>\n", markdown)
    return INLINE.sub(lambda found: f"<span>{mathml(found[1], 'inline')}</span>", markdown)


def mathml(formula: str, display: str) -> str:
    """A formula of LaTeX for browsers; a command that the converter does not know would be printed as it stands."""
    found = convert(formula, display=display)
    if "\\" in found:
        raise PluginError(f"formula not understood: {formula}")
    return found


def commands() -> str:
    """Every verb with its arguments and options, as `--help` has them."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="namap")
    verbs = [group.get_command(context, name) for name in group.list_commands(context)]
    return "\n".join(get_docs_for_click(obj=verb, ctx=context, indent=1, call_prefix="namap") for verb in verbs)
