"""What the documentation says is run, and what is public is documented."""

import doctest
import inspect
import pkgutil
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import typer
from nbclient import NotebookClient

import namap
from namap.cli import app

ROOT = Path(__file__).resolve().parents[1]
MODULES = [m.name for m in pkgutil.walk_packages(namap.__path__, "namap.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", [m for m in MODULES if ">>>" in Path(import_module(m).__file__ or "").read_text()])
def test_examples_of_docstrings(name):
    outcome = doctest.testmod(import_module(name))
    assert outcome.attempted
    assert not outcome.failed


def public_calls():
    """Every public function, class and method, by its name."""
    for name in namap.__all__:
        thing = getattr(namap, name)
        yield name, thing
        for label, method in inspect.getmembers(thing, inspect.isroutine) if inspect.isclass(thing) else ():
            if not label.startswith("_") and str(getattr(method, "__module__", "")).startswith("namap"):
                yield f"{name}.{label}", method


@pytest.mark.parametrize(("name", "call"), [*public_calls()])
def test_every_argument_of_a_public_call_is_described(name, call):
    text = inspect.getdoc(call) or ""
    assert text
    if issubclass(call, Exception) if inspect.isclass(call) else len(text.splitlines()) == 1:
        return  # a line that says it all
    home = next((c for c in getattr(call, "__mro__", (call,))[:-1] if "Args:" in (c.__doc__ or "")), call)
    described = set(re.findall(r"^    \*{0,2}(\w+):|`(\w+)`", inspect.getdoc(home) or "", re.M))
    described = {word for pair in described for word in pair}
    missing = set(inspect.signature(call).parameters) - described - {"self"}
    assert not missing


def test_every_public_name_has_its_place_on_the_page_of_python():
    page = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in namap.__all__ if f"::: namap.{name}\n" not in page] == []


@pytest.mark.slow
def test_the_tutorial_runs_as_a_notebook(monkeypatch, tmp_path):
    """Every cell, in a kernel of its own, on a five-hundredth of the training."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.setenv("NAMAP_TUTORIAL_SHARE", "0.002")
    from tutorial_notebook import make_notebook

    notebook = NotebookClient(make_notebook(), timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert "label kept" in "".join(output.get("text", "") for output in outputs)


def verbs():
    """Every verb of the command line, by its name."""
    group = typer.main.get_command(app)
    context = typer.Context(group, info_name="namap")
    return [(name, group.get_command(context, name)) for name in group.list_commands(context)]


@pytest.mark.parametrize(("name", "verb"), verbs())
def test_help_describes_every_option(name, verb):
    assert [option.opts for option in verb.params if not getattr(option, "help", None)] == []


SHELL = re.compile(r"^```sh\n(.+?)\n```$", re.M | re.S)
PAGES = [ROOT / "README.md", ROOT / "RESULTS.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_exist(page):
    """Every `namap …` line of a page is parsed by the command line, and every script that a page runs is there."""
    group = typer.main.get_command(app)
    for line in "\n".join(SHELL.findall(page.read_text())).replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        if program == "namap":
            context = group.make_context("namap", arguments.copy(), resilient_parsing=True)
            verb = group.get_command(context, arguments[0])
            assert verb is not None, line
            verb.make_context(arguments[0], arguments[1:])
        elif program == "python":
            assert (ROOT / arguments[0]).is_file(), line
