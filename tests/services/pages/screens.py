"""Pictures of every page: light and wide, dark and narrow.

python -m tests.services.pages.screens FOLDER [WORD ...]     all pages, or those whose names have a word
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from services.store import Pool
from tests.services.pages import seed
from tests.services.pages.conftest import Site
from tests.services.pages.test_browser import Visit, launched, serving
from tests.services.pages.tour import invited_pages, pages

_LOOKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("wide", {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"}),
    ("narrow", {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}),
)
_LONGEST_PIXELS = 6000
_COLOURS = 128  # text and thin rules need no more, and the files stay small


def take(folder: Path, words: list[str]) -> int:
    """Write the pictures; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    made = 0
    with tempfile.TemporaryDirectory() as scratch:
        store, seeded = seed.everything(Path(scratch), 30)
        store.close()
        site = Site(Path(scratch), seeded)
        everything = {**pages(site), **invited_pages(site)}
        site.store.note_pool(Pool("grader-1", warm=3, warming=1, target=4, busy=2, served=1208, served_warm=1191))
        chosen = {name: path for name, path in everything.items() if not words or any(w in name for w in words)}
        with serving(site) as base, launched() as browser:
            for look, options in _LOOKS:
                context = browser.new_context(reduced_motion="reduce", locale="en-US", **options)
                visit = Visit(context, base)
                visit.open("/sign-in")
                if not words:
                    made += _shoot(visit, folder / f"sign-in-{look}.png")
                visit.sign_in("admin")
                for name, path in chosen.items():
                    visit.open(path)
                    made += _shoot(visit, folder / f"{name}-{look}.png")
                    print(f"{made} pictures", end="\r", file=sys.stderr)
                context.close()
        site.store.close()
    return made


def _shoot(visit: Visit, path: Path) -> int:
    picture = Image.open(io.BytesIO(visit.page.screenshot(full_page=True))).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, _LONGEST_PIXELS)))
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return 1


if __name__ == "__main__":
    print(f"{take(Path(sys.argv[1]), sys.argv[2:])} pictures in {sys.argv[1]}")
