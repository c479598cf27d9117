"""Texts that somebody else wrote, made fit for a terminal; what is said of data is made of them."""


def printable(text: str) -> str:
    r"""The text in one line, without what steers a terminal or turns its letters around.

    >>> print(printable("a\x1b[2J\nverdict: pass"))
    a\x1b[2J\nverdict: pass
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
