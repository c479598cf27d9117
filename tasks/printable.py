"""Shows what others wrote: names, reasons and paths of a repository, a registry or a page."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text that somebody else wrote, in one line, without what steers a terminal or turns its letters around."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
