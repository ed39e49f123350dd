"""A burst of submissions at the embedded service: each is accepted or told 429, none is lost, memory stays flat.

    python -m bench.burst                       10,000 at a fresh `assay serve`, eight clients
    python -m bench.burst --submissions 500 --json

The service is the real one, with its real workers, which grade meanwhile what they can. The rate limit of a key is
raised, since one key posts it all; the limit on what waits stays as it is. Afterwards the store is asked for every
id that was given out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from bench.growth import theil_sen
from bench.stack import ROOT, Part, assay, free_port
from challenges.spiral.mutations import build
from services.store import Store

START_S = 300.0
MB = 1_000_000


class Burst:
    """What the clients saw."""

    def __init__(self, address: str, key: str, total: int, marker: str) -> None:
        self.address, self.key, self.total, self.marker = address, key, total, marker
        self.taken: list[str] = []
        self.wall_ms: list[float] = []
        self.told: Counter[str] = Counter()
        self._next = 0
        self._lock = threading.Lock()

    def _number(self) -> int | None:
        with self._lock:
            self._next += 1
            return self._next if self._next <= self.total else None

    def post_all(self) -> None:
        """One client: posts until there is nothing left to post."""
        source = build(())
        while (number := self._number()) is not None:
            body = {"challenge": "spiral", "source": f"{source}\n# {self.marker} {number}\n"}
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            request = urllib.request.Request(
                f"{self.address}/v1/submissions", json.dumps(body).encode(), headers, method="POST"
            )
            began = time.perf_counter()
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    seen, id_ = str(answer.status), json.loads(answer.read())["id"]
            except urllib.error.HTTPError as refusal:
                with refusal:
                    later = "with Retry-After" if refusal.headers.get("Retry-After") else "without Retry-After"
                    seen, id_ = f"{refusal.code} {later}", None
            except OSError as error:
                seen, id_ = f"no answer: {type(error).__name__}", None
            with self._lock:
                self.wall_ms.append((time.perf_counter() - began) * 1e3)
                self.told[seen] += 1
                if id_ is not None:
                    self.taken.append(id_)


def resident_mb(mark: bytes) -> float:
    """Resident memory of every process of this service."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes():
                total += int((entry / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        except OSError:
            continue
    return total / MB


def served(folder: Path, port: int) -> tuple[Part, str]:
    """A fresh `assay serve` and its first key. Raises TimeoutError."""
    log = folder / "log"
    log.touch()
    environment = {
        "ASSAY_STATE_DIR": str(folder / "state"),
        "ASSAY_API_PORT": str(port),
        "ASSAY_API_RATE_LIMIT": "10000000/minute",
        "PYTHONPATH": str(ROOT),
    }
    part = assay("serve", ["serve"], log, environment)
    part.start()
    deadline = time.monotonic() + START_S
    while "assay: serving at" not in log.read_text():
        if not part.runs or time.monotonic() > deadline:
            raise TimeoutError(part.tail())
        time.sleep(0.2)
    (key,) = re.findall(r"shown this once\): (assay_\w+)", log.read_text())
    return part, key


def run(total: int, clients: int) -> dict[str, Any]:
    """The whole measurement."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        part, key = served(folder, port)
        burst = Burst(f"http://127.0.0.1:{port}", key, total, os.urandom(8).hex())
        mark, memory = f"ASSAY_STATE_DIR={folder / 'state'}".encode(), []
        try:
            threads = [threading.Thread(target=burst.post_all) for _ in range(clients)]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                memory.append((len(burst.wall_ms), resident_mb(mark)))
                print(f"\r{len(burst.wall_ms)} of {total}", end="", file=sys.stderr)
                time.sleep(1.0)
            wall_time_s = time.monotonic() - began
            memory.append((len(burst.wall_ms), resident_mb(mark)))
        finally:
            part.stop(120)
            print(file=sys.stderr)
        return {**told(burst, folder), "wall_time_s": round(wall_time_s, 1), **grown(memory)}


def told(burst: Burst, folder: Path) -> dict[str, Any]:
    """Answers, latencies, and what the store has of what was accepted."""
    store = Store.open(f"sqlite:///{folder / 'state' / 'assay.db'}")
    try:
        found = {id_: store.submission(id_) for id_ in burst.taken}
    finally:
        store.close()
    states = Counter(one.state for one in found.values() if one is not None)
    cuts = statistics.quantiles(burst.wall_ms, n=100)
    return {
        "posted": burst.total,
        "answers": dict(burst.told),
        "lost": sum(one is None for one in found.values()),
        "ids_given_twice": len(burst.taken) - len(found),
        "states": dict(states),
        "post_ms": {"p50": round(cuts[49], 1), "p95": round(cuts[94], 1), "p99": round(cuts[98], 1)},
    }


def grown(memory: list[tuple[int, float]]) -> dict[str, Any]:
    """How resident memory went: the line of Theil and Sen through the last four fifths, over the whole burst."""
    late = memory[len(memory) // 5 :]
    slope = theil_sen([x for x, _ in late], [y for _, y in late]) if len(late) > 2 else 0.0
    return {
        "memory_mb": {
            "begin": round(memory[0][1], 1),
            "end": round(memory[-1][1], 1),
            "largest": round(max(y for _, y in memory), 1),
            "trend_over_the_burst": round(slope * memory[-1][0], 1),
        }
    }


def main() -> None:
    """Parse the command line, run, and fail where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print nothing else")
    options = parser.parse_args()
    result = run(options.submissions, options.clients)
    unexpected = {a: n for a, n in result["answers"].items() if a not in ("202", "429 with Retry-After")}
    print(json.dumps(result, indent=2))
    if result["lost"] or result["ids_given_twice"] or unexpected:
        sys.exit(f"not as promised: {unexpected or 'lost or doubled'}")


if __name__ == "__main__":
    main()
