"""The tutorial as a notebook: `python docs/tutorial_notebook.py tutorial.ipynb`; the site has it, too.

Python blocks of tutorial.md become cells of code, everything else text. Pictures are left out: the cells draw them.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SOURCE = Path(__file__).with_name("tutorial.md")
PICTURE = re.compile(r"^!\[.+\n\n", re.M)
PYTHON = re.compile(r"^```python\n(.+?)\n```$", re.M | re.S)


def make_notebook() -> nbformat.NotebookNode:
    """The notebook, not executed."""
    parts = PYTHON.split(PICTURE.sub("", SOURCE.read_text()))  # text, code, text, code, …, text
    cells = [
        new_code_cell(p, id=str(i)) if i % 2 else new_markdown_cell(p.strip(), id=str(i)) for i, p in enumerate(parts)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


if __name__ == "__main__":
    nbformat.write(make_notebook(), sys.argv[1])
