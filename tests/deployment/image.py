"""Build the image with buildah, without a container engine, and try what it promises.

    make image-test
    make image-test IMAGE_BASE=debian IMAGE_BUILD="--volume /etc/ssl/certs:/etc/ssl/certs:ro"

`IMAGE_BASE=debian` makes a stand-in for python:3.11-slim from the packages of Debian 12, which has
the same Python, for machines that reach no registry of images. `IMAGE_BUILD` gives further options
to `buildah build`, such as the certificates of a proxy. It needs root; it stores everything in
build/image, and removes that at the end.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

PROJECT: Final = Path(__file__).parents[2]
DIRECTORY: Final = PROJECT / "build" / "image"
BASE: Final = "docker.io/library/python:3.11-slim"
IMAGE: Final = "localhost/amplify-import-worker"
USER_ID: Final = "10001"
LARGEST_MB: Final = 110
DEBIAN: Final = "python3,python3-venv,python3-pip,python-is-python3,ca-certificates"
SECRETS: Final = {".env", ".aws", ".git", ".netrc", ".pypirc", "pip.conf", "id_rsa", "credentials"}
WRITABLE: Final = ("tmp", "proc", "sys", "dev", "run")
CLIENTS: Final = """
import boto3
for service in ("amplifybackend", "events", "sns", "sqs", "sso", "sso-oidc", "sts"):
    boto3.client(service, region_name="eu-central-1")
"""


def buildah(*arguments: str) -> str:
    """Run buildah with storage of its own; return what it prints."""
    storage = ["--root", f"{DIRECTORY}/storage", "--runroot", f"{DIRECTORY}/run"]
    command = ["buildah", *storage, "--storage-driver", "vfs", *arguments]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def make_debian_base() -> None:
    """Make the stand-in for the base image."""
    archive = DIRECTORY / "base.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={DEBIAN}", "bookworm"]
    subprocess.run([*command, str(archive)], check=True)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(archive), "/")
    buildah("commit", "--quiet", "--rm", container, BASE)
    archive.unlink()


def size_in_mb(image: str) -> float:
    """Return the size of an image, without compression."""
    (found,) = json.loads(buildah("images", "--json", image))
    value, unit = found["size"].split()
    return float(value) * {"MB": 1, "GB": 1000}[unit]


@contextmanager
def container_of(image: str) -> Iterator[tuple[str, Path]]:
    """Make a container; yield its name and its root directory."""
    container = buildah("from", "--pull-never", image)
    try:
        yield container, Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def run(container: str, *command: str) -> str:
    """Run a command as the image's user, with what the image defines; return what it prints."""
    return buildah("run", "--isolation", "chroot", container, "--", *command)


def written_since(moment: float, root: Path) -> list[str]:
    """Return the files that changed, outside of what a read-only container may write."""
    changed = (
        path.relative_to(root)
        for path in root.rglob("*")
        if not path.is_symlink() and path.is_file() and path.stat().st_mtime > moment
    )
    return [str(path) for path in changed if path.parts[0] not in WRITABLE]


def problems() -> Iterator[str]:
    """Try the image; yield what is wrong with it."""
    config: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"][
        "config"
    ]
    if "/livez" not in str(config.get("Healthcheck")):
        yield "it has no health check"
    grown = size_in_mb(IMAGE) - size_in_mb(BASE)
    print(f"{grown:.0f} MB above the base image")
    if grown > LARGEST_MB:
        yield f"it is {grown:.0f} MB larger than its base, and may be {LARGEST_MB}"
    with container_of(BASE) as (_, root):
        of_base = {path.relative_to(root) for path in root.rglob("*")}
    with container_of(IMAGE) as (container, root):
        added = {path.relative_to(root) for path in root.rglob("*")} - of_base
        if secret := [str(path) for path in added if path.name in SECRETS]:
            yield f"it contains {secret}"
        if run(container, "id", "-u") != USER_ID:
            yield "it does not run as its own user"
        marker = root / "tmp" / "marker"
        marker.touch()
        run(container, "python", "-c", CLIENTS)
        print(run(container, "amplify-import", "demo").splitlines()[-3])
        if written := written_since(marker.stat().st_mtime, root):
            yield f"it writes outside of /tmp: {written}"


def main() -> int:
    """Build the image and try it; return the exit code."""
    parser = argparse.ArgumentParser(prog="make image-test", description=__doc__)
    parser.add_argument("--base", choices=["registry", "debian"], default="registry")
    parser.add_argument("--build", default="", help="further options of `buildah build`")
    arguments = parser.parse_args()
    if shutil.which("buildah") is None:
        print("image-test needs buildah (Debian package: buildah)", file=sys.stderr)
        return 1
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    try:
        if arguments.base == "debian":
            make_debian_base()
        more = shlex.split(arguments.build)
        options = ["--isolation", "chroot", "--format", "docker", "--pull", "--tag", IMAGE]
        buildah("build", *options, *more, str(PROJECT))
        found = list(problems())
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")
        shutil.rmtree(DIRECTORY)
    for problem in found:
        print(f"image: {problem}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
