"""Write the locked, hashed requirement files from the .in files beside them.

Run by `make lock`. uv resolves against the public index it is configured for and lists the hash
of every file of a release, so one lock serves both CPU architectures. uv does not read pip's
configuration, so a machine's own find-links folder cannot leak into the locks.

torch gets two files. The public index's build brings gigabytes of GPU libraries; a CPU build, where
pip finds one, needs none of them. One file with the hashes of both would not do: pip prefers a file
whose hash it can read off an index page, and so would take the large one even beside a small one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
OLDEST_PYTHON = "3.11"
PLATFORM = "x86_64-manylinux_2_28"
CUDA_ONLY = re.compile(r"(nvidia|cuda)-[\w.-]+|triton")
HEADER = "# Written by `make lock` from {source}. Do not edit.\n"
URL = re.compile(r"[a-z+]+://|--(index-url|extra-index-url|find-links)")


def resolve(name: str, constraints: tuple[str, ...] = ()) -> list[str]:
    """Return the locked entries of `<name>.in`, one string per package, sorted by name."""
    command = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--upgrade", "--no-header"]
    command += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--no-config"]
    command += ["--python-version", OLDEST_PYTHON, "--python-platform", PLATFORM]
    for constraint in constraints:
        command += ["--constraint", f"{constraint}.txt"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("UV_FIND")}
    result = subprocess.run(
        [*command, f"{name}.in"],
        cwd=REQUIREMENTS,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return re.findall(r"^\S[^\n]*(?:\n[ \t]+[^\n]+)*", result.stdout, flags=re.MULTILINE)


def package_name(entry: str) -> str:
    """Return the name of a locked entry: `numpy` for `numpy==2.4.6 ...`."""
    return entry.split("==", 1)[0]


def cpu_build(entry: str) -> str:
    """Return torch's entry with the CPU builds of the same version in place of the public ones."""
    version = entry.split("==", 1)[1].split()[0]
    digests = re.findall(
        rf"^([0-9a-f]{{64}})  torch-{re.escape(version)}\+cpu-",
        (REQUIREMENTS / "torch-cpu.sha256").read_text(),
        flags=re.MULTILINE,
    )
    if not digests:
        raise SystemExit(f"requirements/torch-cpu.sha256 has no wheel of torch {version}+cpu; add one")
    return " \\\n".join([f"torch=={version}+cpu", *(f"    --hash=sha256:{digest}" for digest in digests)])


def write(name: str, source: str, entries: list[str]) -> None:
    """Write `<name>.txt`, refusing anything that names an index or a folder."""
    text = HEADER.format(source=source) + "\n".join(entries) + "\n"
    if URL.search(text):
        raise SystemExit(f"{name}.txt would name a package index; is uv configured with one by URL?")
    (REQUIREMENTS / f"{name}.txt").write_text(text)
    print(f"requirements/{name}.txt: {len(entries)} packages")


def main() -> None:
    """Renew every lock file; later ones are held to the versions of earlier ones."""
    write("runtime", "runtime.in", resolve("runtime"))
    torch = resolve("torch", constraints=("runtime",))
    plain = [entry for entry in torch if not CUDA_ONLY.fullmatch(package_name(entry))]
    cpu = [cpu_build(entry) if package_name(entry) == "torch" else entry for entry in plain]
    write("torch", "torch.in and torch-cpu.sha256", cpu)
    write("torch-cuda", "torch.in", torch)
    write("dev", "dev.in", resolve("dev", constraints=("runtime", "torch")))
    write("lock", "lock.in", resolve("lock"))


if __name__ == "__main__":
    sys.exit(main())
