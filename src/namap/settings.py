"""Settings that users hand in, checked: unknown keys and values out of bounds are named."""

import difflib
import reprlib
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from .errors import UsageError

S = TypeVar("S")
MAX_SEED = 2**63 - 1  # of torch


def make_settings(kind: type[S], values: dict[str, Any], of: str = "") -> S:
    """A checked instance of a pydantic dataclass.

    Args:
        kind: the dataclass.
        values: its fields.
        of: what has these settings, for the message.

    Raises:
        UsageError: an unknown key (the nearest one is named) or a value out of bounds.
    """
    known = list(kind.__dataclass_fields__)  # pyright: ignore[reportAttributeAccessIssue]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"unknown setting {key!r}{of and f' of {of}'}; {hint}")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"setting {where}{of and f' of {of}'}: {first['msg']}, found {reprlib.repr(first['input'])[:100]}"
        ) from None
