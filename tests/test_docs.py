"""What the documentation says is run, and what is public is documented."""

import doctest
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest

import namap

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
