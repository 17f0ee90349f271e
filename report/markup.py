"""Escaping of text for the page."""

from __future__ import annotations

from html import escape

CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"} | {127: "\u2421"}


def text_of(text: str) -> str:
    """Return text for an element or an attribute: escaped, control characters made visible, lone surrogates replaced."""
    return escape(text.translate(CONTROLS).encode("utf-8", "replace").decode())
