"""Image builders: whichever of docker, podman, finch and buildah a user has; they build and save, no more.

Pushing is ours, so that no program is ever given a password. What each is told is built by functions
without effects.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdctl.clients.process import Finished, Programs, child_environment
from sdctl.errors import ToolError, UsageError

# In this order: those of whose daemons and machines users know how they are first.
PROGRAMS: Final = ("docker", "podman", "finch", "buildah")
PLATFORMS: Final = ("linux/amd64", "linux/arm64")
BUILD_SECONDS: Final = 1800.0
SAVE_SECONDS: Final = 600.0
ANSWER_SECONDS: Final = 10.0
_NOT_NEEDED: Final = {"skopeo": ": it builds nothing, and what it copies sdctl copies by itself"}
# How each finds its daemon, its machine, and its storage.
_PASSED_PREFIXES: Final = ("DOCKER_", "BUILDAH_", "BUILDKIT_", "CONTAINER_", "CONTAINERS_", "FINCH_", "XDG_")


@dataclass(frozen=True, slots=True)
class Build:
    """What is built: a folder with its Dockerfile, and what the result is called, with its registry."""

    folder: Path
    name: str
    platform: str
    arguments: Mapping[str, str]
    network: str = ""


def build_arguments(program: str, build: Build) -> list[str]:
    """Return how a program is told to build."""
    arguments = ["build", "--platform", build.platform, "--tag", build.name]
    for name, value in sorted(build.arguments.items()):
        arguments += ["--build-arg", f"{name}={value}"]
    if build.network:
        arguments += ["--network", build.network]
    if program in ("podman", "buildah"):
        arguments += ["--format", "oci"]
    return [*arguments, "--file", str(build.folder / "Dockerfile"), str(build.folder)]


def save_arguments(program: str, name: str, platform: str, path: Path) -> list[str]:
    """Return how a program is told to write an image of a platform as an archive of an OCI layout.

    docker does so from version 25 on: https://docs.docker.com/reference/cli/docker/image/save/
    """
    match program:
        case "buildah":
            return ["push", name, f"oci-archive:{path}"]
        case "podman":
            return ["save", "--format", "oci-archive", "--output", str(path), name]
        case "finch":  # else it looks for the machine's own platform
            return ["save", "--platform", platform, "--output", str(path), name]
        case _:
            return ["save", "--output", str(path), name]


class Builder:
    """One of the programs."""

    def __init__(
        self, program: Path, environment: Mapping[str, str], programs: Programs | None = None
    ) -> None:
        """Keep where it is, and what of the environment it may see."""
        self._program = program
        extra = {name: value for name, value in environment.items() if name.startswith(_PASSED_PREFIXES)}
        self._environment = child_environment(environment, extra)
        self._programs = programs or Programs()

    @property
    def name(self) -> str:
        """The program's name."""
        return self._program.name

    def build(self, build: Build) -> None:
        """Build an image.

        Raises:
            ToolError: it failed; with the end of what it said.
        """
        done = self._run(build_arguments(self.name, build), BUILD_SECONDS)
        self._expect_well(done, f"build {build.name} for {build.platform}", hint=_others(self.name))

    def answers(self) -> bool:
        """Tell whether its daemon or machine answers, as far as it has one."""
        done = self._run(["version"], ANSWER_SECONDS)
        return done.exit_code == 0 and not done.is_timed_out

    def save(self, name: str, platform: str, path: Path) -> None:
        """Write an image of a platform as an archive of an OCI layout.

        Raises:
            ToolError: there is no such image, or it failed otherwise.
        """
        done = self._run(save_arguments(self.name, name, platform, path), SAVE_SECONDS)
        self._expect_well(done, f"save {name}", hint="sdctl image build")

    def _run(self, arguments: Sequence[str], timeout_seconds: float) -> Finished:
        return self._programs.run(
            [str(self._program), *arguments], environment=self._environment, timeout_seconds=timeout_seconds
        )

    def _expect_well(self, done: Finished, action: str, hint: str = "") -> None:
        if done.is_timed_out:
            raise ToolError(f"{self.name} could not {action} in time", stderr_tail=done.stderr_tail)
        if done.exit_code != 0:
            lines = (done.stderr_tail or done.stdout[-2000:]).strip().splitlines()[-6:]
            raise ToolError(
                "\n".join([f"{self.name} could not {action}: it ended with {done.exit_code}", *lines]),
                stderr_tail=done.stderr_tail, hint=hint,
            )  # fmt: skip


def _others(program: str) -> str:
    return f"another builder: --builder {', '.join(one for one in PROGRAMS if one != program)}"


def find_builder(environment: Mapping[str, str], wanted: str | None = None) -> Builder:
    """Find a builder on the PATH: the one wanted, else the first whose daemon answers.

    Where none does, it is the first that is there, which then says why.

    Raises:
        UsageError: the one wanted is none that we know.
        ToolError: there is none.
    """
    if wanted and wanted not in PROGRAMS:
        raise UsageError(f"{wanted} is not one of {', '.join(PROGRAMS)}{_NOT_NEEDED.get(wanted, '')}")
    places = [
        shutil.which(one, path=environment.get("PATH", "")) for one in ((wanted,) if wanted else PROGRAMS)
    ]
    there = [Builder(Path(place), environment) for place in places if place]
    if not there:
        raise ToolError(
            f"{wanted} is not on the PATH" if wanted else f"none of {', '.join(PROGRAMS)} is on the PATH",
            hint="install one of docker, podman, finch and buildah",
        )
    if len(there) == 1:
        return there[0]
    return next((one for one in there if one.answers()), there[0])
