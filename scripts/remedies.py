"""What the API advises, as a command says it."""

from __future__ import annotations

import re

#: Paths that a subcommand of the same name asks.
_COMMANDS = re.compile(
    r"GET /v1/(dead-letters|excluded|guard|models|operations|shards|snapshots|status)\b(?![/?])"
)


def for_people(remedy: str) -> str:
    """A remedy of the API as a sentence, with the subcommand for a path where there is one.

    Examples
    --------
    >>> for_people("choose one of GET /v1/excluded; older ones are gone")
    'Choose one of `salescast excluded`; older ones are gone'
    """
    return sentence(_COMMANDS.sub(r"`salescast \1`", remedy))


def sentence(text: str) -> str:
    """The same with a capital letter to begin with."""
    return text[:1].upper() + text[1:]
