"""How fast each page of the dashboard is, and how much goes over the wire, with a large cohort in the database.

    python -m bench.pages                        a cohort of 1,000, each page 15 times
    python -m bench.pages --candidates 200 --rounds 5 --json

Server time is from the request to the whole answer, in the process, after a first request that fills caches; the
network is not in it. Transferred is the page and every file that it names, uncompressed, as a first visit has it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog

from tests.services.pages import seed
from tests.services.pages.conftest import Browser, Site
from tests.services.pages.tour import invited_pages, pages

GOAL_MS, GOAL_BYTES = 150.0, 300_000
_NAMED = re.compile(r'(?:src|href)="(/assets/[^"]+)"')


def measured(browser: Browser, path: str, rounds: int) -> dict[str, float]:
    """One page: its server time in ms and the bytes of a first visit."""
    text = browser.get(path).text
    size = len(text.encode()) + sum(len(browser.get(name).data) for name in set(_NAMED.findall(text)))
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        browser.get(path).get_data()
        taken.append((time.perf_counter() - began) * 1e3)
    return {"p50_ms": round(statistics.median(taken), 1), "max_ms": round(max(taken), 1), "bytes": size}


def run(candidates: int, rounds: int) -> dict[str, Any]:
    """Every page of an administrator, who sees all of them."""
    with tempfile.TemporaryDirectory() as name:
        print(f"making a cohort of {candidates:,} ...", file=sys.stderr)
        store, seeded = seed.everything(Path(name), candidates)
        store.close()
        site = Site(Path(name), seeded)
        browser = site.browser("admin")
        found = {}
        for page, path in {**pages(site), **invited_pages(site)}.items():
            found[page] = measured(browser, path, rounds)
            print(f"\r{len(found)} pages", end="", file=sys.stderr)
        print(file=sys.stderr)
        site.store.close()
    return {"candidates": candidates, "rounds": rounds, "pages": found}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    result = run(options.candidates, options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'page':<28}{'median':>10}{'largest':>10}{'first visit':>14}")
    for page, one in result["pages"].items():
        late = " *" if one["p50_ms"] > GOAL_MS or one["bytes"] > GOAL_BYTES else ""
        print(f"{page:<28}{one['p50_ms']:>7.1f} ms{one['max_ms']:>7.1f} ms{one['bytes'] / 1000:>11.1f} kB{late}")
    print(f"* over {GOAL_MS:.0f} ms or {GOAL_BYTES / 1000:.0f} kB")


if __name__ == "__main__":
    main()
