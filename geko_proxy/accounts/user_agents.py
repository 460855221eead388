"""A User-Agent in words that people know: "Firefox on Windows". A guess for lists, nothing to decide by."""

from __future__ import annotations

import re
from typing import Final

MAX_LENGTH: Final = 60
UNKNOWN: Final = "Unknown device"

# In this order: each browser also names those it descends from.
BROWSERS: Final = (
    (re.compile(r"\b(?:Edg|EdgA|EdgiOS)/"), "Edge"),
    (re.compile(r"\b(?:OPR|OPT)/"), "Opera"),
    (re.compile(r"\bVivaldi/"), "Vivaldi"),
    (re.compile(r"\bSamsungBrowser/"), "Samsung Internet"),
    (re.compile(r"\b(?:Firefox|FxiOS)/"), "Firefox"),
    (re.compile(r"\b(?:Chrome|CriOS|Chromium)/"), "Chrome"),
    (re.compile(r"\bSafari/"), "Safari"),
)
SYSTEMS: Final = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Macintosh", "macOS"),
    ("Linux", "Linux"),
)
PRODUCT: Final = re.compile(r"([A-Za-z][A-Za-z0-9._-]{0,40})/[0-9]")


def device_of(user_agent: str | None) -> str:
    """The browser and system of a User-Agent, or the program's own name."""
    text = user_agent or ""
    browser = next((name for pattern, name in BROWSERS if pattern.search(text)), None)
    system = next((name for mark, name in SYSTEMS if mark in text), None)
    if browser is not None:
        return f"{browser} on {system}" if system is not None else browser
    product = PRODUCT.match(text)
    if product is not None and product[1] != "Mozilla":
        return product[1][:MAX_LENGTH]
    return system or UNKNOWN
