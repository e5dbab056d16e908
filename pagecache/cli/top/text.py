"""Texts cut to a number of columns: terminals count in cells, and a letter takes none, one or two."""

from rich.cells import cell_len


def clip_start(text: str, width: int) -> str:
    """Return the end of the text, at most `width` columns: the end of a path is more specific than its beginning."""
    if cell_len(text) <= width:
        return text
    left, kept = width - 1, 0
    for one in reversed(text):
        left -= cell_len(one)
        if left < 0:
            break
        kept += 1
    return "…" + text[len(text) - kept :] if width > 0 else ""


def clip_end(text: str, width: int) -> str:
    """Return the beginning of the text, at most `width` columns."""
    if cell_len(text) <= width:
        return text
    left, kept = width - 1, 0
    for one in text:
        left -= cell_len(one)
        if left < 0:
            break
        kept += 1
    return text[:kept] + "…" if width > 0 else ""
