"""What all pages are made of: one HTML file with style and scripts inside, which loads nothing."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page_start(title: str, notes: Sequence[str] = (), *styles: str) -> str:
    """Return the page up to its title and the notes below; ``styles`` are further files of this package."""
    style = "".join(map(_read, ("report.css", *styles)))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body>\n<h1>{escape(title)}</h1>"
        + "".join(f'<p class="quiet path">{escape(note)}</p>' for note in notes)
    )


def script(*names: str) -> str:
    """Return scripts of this package as one element."""
    return f"<script>{''.join(map(_read, names))}</script>"


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
