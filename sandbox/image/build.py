"""Builds the sandbox image: `python -m sandbox.image.build`. Does nothing where it is up to date.

No image registry is needed: the base is made from Debian packages with mmdebstrap, and
the Python packages come from a wheelhouse that pip fills on the host, so the build itself
has no network. The image's tag is a digest of everything that goes into it; another
digest means another image, and an old one is never mistaken for the new. The images of the
service (infra/images) are made with the same steps.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import docker
import docker.errors

HERE = Path(__file__).parent
INPUTS = ("Dockerfile", "agent.py", "bytecode.py", "seccomp.json")
# The same locks as the host's own environment: a CPU build of torch where pip finds one, else the
# public index's build with its GPU libraries.
LOCKS = tuple(HERE.parent.parent / "requirements" / name for name in ("torch.txt", "torch-cuda.txt"))
REPOSITORY = "assay-sandbox"
SUITE = "bookworm"
BASE_PACKAGES = ("python3.11", "libgomp1", "libstdc++6", "libtcmalloc-minimal4")
BASE_EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
)
ENGINE_TIMEOUT_S = 1800  # importing and committing layers of a gigabyte on a slow disk


class BuildError(Exception):
    """The image could not be built; the message says what to do."""


def image_tag() -> str:
    """The tag of the image that belongs to the files beside this one."""
    digest = hashlib.sha256()
    for path in (*(HERE / name for name in INPUTS), *LOCKS):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return f"{REPOSITORY}:{digest.hexdigest()[:16]}"


def build(base_image: str = "", force: bool = False) -> str:
    """Build what is missing and give the image's tag.

    Args:
        base_image: an image with Python 3.11 to build on; by default one is made from
            Debian packages.
        force: build anew, the base included, even where the tag exists.

    Raises:
        BuildError: with a message that says what to do.
    """
    tag = image_tag()
    with engine_client() as engine, locked():
        if not force and has_image(engine, tag):
            say(f"{tag} is up to date")
            return tag
        wheelhouse = _wheelhouse()
        context = {name: HERE / name for name in ("Dockerfile", "agent.py", "bytecode.py")}
        context["wheelhouse"] = wheelhouse
        arguments = {"BASE_IMAGE": base_image or base(engine, force)}
        build_image(engine, tag, context, arguments, kind="sandbox")
    say(f"built {tag}")
    return tag


def say(text: str) -> None:
    """Tell how far it is, on stderr."""
    print(f"image: {text}", file=sys.stderr, flush=True)


def build_dir() -> Path:
    """Where the base and the wheelhouse are kept between builds."""
    configured = os.environ.get("ASSAY_BUILD_DIR")
    path = Path(configured) if configured else HERE.parent.parent / ".build" / "image"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One build at a time; a second one waits and then finds the image made."""
    import fcntl

    with open(build_dir() / "lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def engine_client() -> Iterator[Any]:
    """The Engine that answers. Raises BuildError where none does, or where it refuses something."""
    try:
        client = docker.from_env(timeout=ENGINE_TIMEOUT_S)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise BuildError(
            f"no Docker Engine answers ({error}); start one, for instance with `make engine`, or set DOCKER_HOST"
        ) from error
    try:
        yield client
    except docker.errors.DockerException as error:
        raise BuildError(f"the Docker Engine refused: {error}") from error
    finally:
        client.close()


def has_image(engine: Any, tag: str) -> bool:
    """Whether the Engine has it."""
    try:
        engine.images.get(tag)
    except docker.errors.ImageNotFound:
        return False
    return True


def run_tool(command: Sequence[str], advice: str) -> None:
    """Run a tool; where it fails, show the end of what it said and what to do."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        end = "\n".join(done.stdout.splitlines()[-15:])
        raise BuildError(f"{command[0]} failed with status {done.returncode}: {advice}\n{end}")


def base(engine: Any, force: bool = False) -> str:
    """An image of Debian's Python 3.11 and the C++ and OpenMP run-time libraries. Raises BuildError."""
    return debian_image(engine, f"assay-base:{SUITE}-2", BASE_PACKAGES, force=force)


def debian_image(
    engine: Any, tag: str, packages: Sequence[str], options: Sequence[str] = (), *, force: bool = False
) -> str:
    """An image of Debian's essential packages and these, made where it is missing; gives its tag.

    Args:
        options: more of mmdebstrap's own.

    Raises:
        BuildError: with a message that says what to do.
    """
    if not force and has_image(engine, tag):
        return tag
    if shutil.which("mmdebstrap") is None:
        raise BuildError(
            "mmdebstrap is missing; install it (apt-get install mmdebstrap), or name an image to use instead "
            "(--base-image python:3.11-slim-bookworm)"
        )
    say(f"making {tag} from Debian packages ({SUITE})")
    with tempfile.TemporaryDirectory(dir=build_dir()) as directory:
        archive = os.path.join(directory, "base.tar")
        excluded = [f"--dpkgopt=path-exclude={pattern}" for pattern in BASE_EXCLUDED]
        # No mirror is named: mmdebstrap takes its own default, or what the machine's owner says.
        mirror = [os.environ["ASSAY_DEBIAN_MIRROR"]] if os.environ.get("ASSAY_DEBIAN_MIRROR") else []
        run_tool(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=essential",
                f"--include={','.join(packages)}",
                *excluded,
                *options,
                SUITE,
                archive,
                *mirror,
            ],
            "it needs root and Debian's package archive (ASSAY_DEBIAN_MIRROR names another mirror); "
            "the end of its output:",
        )
        with open(archive, "rb") as file:
            _import(engine, file, tag)
    return tag


def _import(engine: Any, archive: IO[bytes], tag: str) -> None:
    repository, _, version = tag.partition(":")
    engine.api.import_image(src=archive, repository=repository, tag=version)
    if not has_image(engine, tag):
        raise BuildError(f"the Docker Engine did not take the base image {tag}")


def _wheelhouse() -> Path:
    """A folder with a wheel of every locked requirement and of pip; filled once per locks."""
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in LOCKS)).hexdigest()
    path = build_dir() / f"wheelhouse-{digest[:16]}"
    if not path.is_dir():
        say("downloading the Python packages")
        with tempfile.TemporaryDirectory(dir=build_dir()) as directory:
            download(["pip"], directory)
            lock = _download_locked(directory)
            shutil.copy(lock, Path(directory, "requirements.txt"))
            os.chmod(directory, 0o755)
            os.rename(directory, path)
            os.mkdir(directory)  # for the context manager to remove
    return path


def _download_locked(directory: str) -> Path:
    """Fetch what the first lock that pip can satisfy names; gives that lock."""
    for lock in LOCKS[:-1]:
        try:
            download(["--require-hashes", "--requirement", str(lock)], directory)
        except BuildError:
            say("pip finds no CPU build of torch; the public build brings several gigabytes of GPU libraries")
        else:
            return lock
    download(["--require-hashes", "--requirement", str(LOCKS[-1])], directory)
    return LOCKS[-1]


def download(arguments: Sequence[str], directory: str) -> None:
    """Have pip fetch wheels for the images' Python. Raises BuildError."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    target = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--dest", directory]
    run_tool(
        [*pip, *target, *arguments],
        "it needs a package index that has the versions in requirements/; the end of its output:",
    )


def build_image(
    engine: Any, tag: str, context: Mapping[str, Path], arguments: Mapping[str, str], *, kind: str, target: str = ""
) -> None:
    """Build from a Dockerfile, with no network.

    Args:
        context: what the Dockerfile can copy, by the name that it has there; folders too.
        arguments: the build's arguments.
        kind: the value of the label `assay.image`.
        target: the stage to build; by default the last.

    Raises:
        BuildError: with the end of the builder's output.
    """
    say(f"building {tag} (a few minutes; the build has no network)")
    with tempfile.TemporaryFile(dir=build_dir()) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, path in context.items():
                archive.add(path, name)
        file.seek(0)
        # The classic builder: Debian's Engine comes without buildx.
        steps = engine.api.build(
            fileobj=file,
            custom_context=True,
            tag=tag,
            rm=True,
            forcerm=True,
            network_mode="none",
            buildargs=dict(arguments),
            decode=True,
            labels={"assay.image": kind},
            target=target or None,
        )
        _follow(steps)
    if not has_image(engine, tag):
        raise BuildError(f"the Docker Engine built nothing under {tag}")


def _follow(steps: Iterator[dict[str, Any]]) -> None:
    """Show the builder's steps. Raises BuildError with the end of its output."""
    output: list[str] = []
    for step in steps:
        text = str(step.get("stream", ""))
        output = [*output, text][-40:]
        if text.startswith("Step "):
            say(text.strip().splitlines()[0])
        if "error" in step:
            raise BuildError(f"the build failed: {step['error']}\n{''.join(output)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: prints the image's tag on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.image.build", description=build.__doc__)
    parser.add_argument("--base-image", default="", help="an image with Python 3.11 to build on")
    parser.add_argument("--force", action="store_true", help="build even where the image exists")
    options = parser.parse_args(arguments)
    try:
        print(build(options.base_image, options.force))
    except BuildError as error:
        say(f"cannot build the sandbox image: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
