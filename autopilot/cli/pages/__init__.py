"""Results as text, and as the documents of --json."""

from typing import Any


def picked(owner: object, names: str) -> dict[str, Any]:
    """Some attributes of an object by their names, for a document.

    >>> picked(3 + 4j, "real imag")
    {'real': 3.0, 'imag': 4.0}
    """
    return {name: getattr(owner, name) for name in names.split()}
