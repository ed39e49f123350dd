"""Builds the service's images: `python infra/images/build.py`. Does nothing where they are up to date.

As with the sandbox's image no registry is needed: bases come from Debian packages, Python packages from a
wheelhouse made on the host, and the builds have no network. Prints one line `ASSAY_…_IMAGE=tag` for each image,
as compose.yaml takes them, and tags each `latest` as well. A tag is a digest of what goes into the image.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sandbox.image.build import (
    BuildError,
    build,
    build_dir,
    build_image,
    debian_image,
    download,
    engine_client,
    has_image,
    locked,
    run_tool,
    say,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LOCK = ROOT / "requirements" / "runtime.txt"
PROJECT = ("pyproject.toml", "README.md", "LICENSE", "services", "sandbox", "grading", "challenges", "attacks")
SERVICE_TARGETS = ("api", "worker", "runner")
# Celery asks for a time zone by its name; the font is for names in PDF reports.
SERVICE_PACKAGES = ("python3.11", "libstdc++6", "tzdata", "fonts-droid-fallback")
STORE_PACKAGES = {"postgres": ("postgresql-15",), "redis": ("redis-server", "redis-tools")}
SUITE = "bookworm"
# Debian's package makes a cluster as it is installed; the image makes its own at the first start.
STORE_OPTIONS = ("--customize-hook=rm -rf $1/var/lib/postgresql/15 $1/etc/postgresql/15",)


def build_all(base_image: str = "", force: bool = False) -> dict[str, str]:
    """Build what is missing; the tags by the names that compose.yaml has for them.

    Args:
        base_image: an image with Python 3.11 for Assay's own; by default one is made from Debian packages.

    Raises:
        BuildError: with a message that says what to do.
    """
    sandbox = build(base_image, force)
    with engine_client() as engine, locked():
        tags = {name: _store(engine, name, force) for name in STORE_PACKAGES}
        base_image = base_image or debian_image(engine, f"assay-service-base:{SUITE}-2", SERVICE_PACKAGES, force=force)
        tags |= _service(engine, base_image, sandbox, force)
        for tag in tags.values():
            repository, _, _ = tag.partition(":")
            engine.images.get(tag).tag(repository, "latest")
    return {f"ASSAY_{name.upper()}_IMAGE": tag for name, tag in tags.items()}


def _store(engine: Any, name: str, force: bool) -> str:
    """PostgreSQL or Redis from Debian's package; gives its tag."""
    folder = HERE / name
    files = sorted(path for path in folder.iterdir() if path.is_file())
    tag = f"assay-{name}:{_digest(files, extra=STORE_PACKAGES[name])}"
    if force or not has_image(engine, tag):
        origin = debian_image(engine, f"assay-{name}-base:{SUITE}", STORE_PACKAGES[name], STORE_OPTIONS, force=force)
        context = {path.name: path for path in files}
        build_image(engine, tag, context, {"BASE_IMAGE": origin}, kind=name)
    return tag


def _service(engine: Any, base_image: str, sandbox: str, force: bool) -> dict[str, str]:
    """Assay's own images, one target each; gives their tags."""
    digest = _digest([HERE / "Dockerfile", LOCK, *_sources()], extra=[sandbox, base_image])
    tags = {target: f"assay-{target}:{digest}" for target in SERVICE_TARGETS}
    missing = [target for target, tag in tags.items() if force or not has_image(engine, tag)]
    if not missing:
        return tags
    with tempfile.TemporaryDirectory(dir=build_dir()) as directory:
        context = {
            "Dockerfile": HERE / "Dockerfile",
            "wheelhouse": _wheelhouse(),
            "project": _project_wheel(Path(directory)),
        }
        for target in missing:
            arguments = {"BASE_IMAGE": base_image, "SANDBOX_IMAGE": sandbox}
            build_image(engine, tags[target], context, arguments, kind=target, target=target)
    return tags


def _sources() -> Iterator[Path]:
    """Every file that the project's wheel is made from."""
    for name in PROJECT:
        path = ROOT / name
        yield from sorted(_files_below(path)) if path.is_dir() else (path,)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(parent, name) for name in names)


def _digest(paths: Iterable[Path], extra: Iterable[str] = ()) -> str:
    digest = hashlib.sha256()
    for word in extra:
        digest.update(f"{word}\n".encode())
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _wheelhouse() -> Path:
    """A folder with a wheel of every locked requirement of the service and of pip; filled once for a lock."""
    path = build_dir() / f"wheelhouse-service-{_digest([LOCK])}"
    if not path.is_dir():
        say("downloading the service's Python packages")
        with tempfile.TemporaryDirectory(dir=build_dir()) as directory:
            download(["pip"], directory)
            download(["--require-hashes", "--requirement", str(LOCK)], directory)
            shutil.copy(LOCK, Path(directory, "requirements.txt"))
            os.chmod(directory, 0o755)
            os.rename(directory, path)
            os.mkdir(directory)  # for the context manager to remove
    return path


def _project_wheel(folder: Path) -> Path:
    """A folder with the project's own wheel, made from a copy: setuptools leaves things behind where it builds."""
    source, wheels = folder / "source", folder / "wheels"
    source.mkdir()
    for name in PROJECT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-input", "--disable-pip-version-check", "--no-index"]
    words = [*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    run_tool(words, "the project's wheel could not be made (`make venv` brings setuptools); the end of its output:")
    return wheels


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the images' names on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(prog="python infra/images/build.py", description=build_all.__doc__)
    parser.add_argument("--base-image", default="", help="an image with Python 3.11 to build on")
    parser.add_argument("--force", action="store_true", help="build even where the images exist")
    options = parser.parse_args(arguments)
    try:
        tags = build_all(options.base_image, options.force)
    except BuildError as error:
        say(f"cannot build the service's images: {error}")
        return 1
    for name, tag in tags.items():
        print(f"{name}={tag}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
