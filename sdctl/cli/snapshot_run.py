"""What `snapshot build` and `deploy --with-snapshot` do alike: ask for the images, and build."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sdctl.cli import context, output
from sdctl.errors import NotFoundError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.config.model import Config
    from sdctl.snapshots.building import Around, Built, Wishes
    from sdctl.snapshots.images import Architecture
    from sdctl_snapshot.images import Image

# What ends a process that nobody is at any more: a lost terminal, a job that was cancelled.
_ENDINGS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def build(config: Config, aws: Aws, wishes: Wishes, images: tuple[Image, ...]) -> Built:
    """Build a snapshot, or find the one with just these images, telling what goes on.

    Args:
        config: the deployment whose it is.
        aws: where.
        wishes: how.
        images: as the registries have them.
    """
    from sdctl.snapshots.building import build_snapshot

    with _ended_as_by_ctrl_c():
        return build_snapshot(config, images, wishes, around(aws))


def examined(
    config: Config, aws: Aws, architecture: Architecture, references: Sequence[str] = ()
) -> tuple[Image, ...]:
    """Ask the registries what images are today.

    Args:
        config: whose runtimes' images are meant where no others are named.
        aws: whose registry they come from unless they name one.
        architecture: of the nodes.
        references: other images.
    """
    from sdctl.snapshots.building import connector
    from sdctl.snapshots.images import examine

    listed = references or configured(config, aws)
    output.note(f"asking the registries for {len(listed)} images…")
    try:
        images = examine(listed, architecture, connector(aws, context.environment()))
    except NotFoundError as error:
        if not references and not error.hint:
            error.hint = "sdctl image push brings the queue agent's; or name the images yourself"
        raise
    for image in images:
        output.detail(f"  {image.reference} {image.digest}")
    return images


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Have what ends the process in the body interrupt it as Ctrl-C does: the builder is removed first.

    What is ignored stays so, as `nohup` has it.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        plain = [number for number in _ENDINGS if signal.getsignal(number) is signal.SIG_DFL]
        before = {number: signal.signal(number, interrupt) for number in plain}
    except ValueError:  # not in the main thread, where alone signals arrive
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def configured(config: Config, aws: Aws) -> tuple[str, ...]:
    """List the images that the configuration's runtimes use."""
    from sdctl.config.rules import placed
    from sdctl.render.runtime_values import RuntimeFacts
    from sdctl.snapshots.images import configured_images

    account = aws.account_id()
    registry = RuntimeFacts(account, aws.region, "").registry
    return configured_images(placed(config, aws.region, account), registry)


def around(aws: Aws) -> Around:
    """Return what a build of this process is given."""
    from sdctl.snapshots.building import Around
    from sdctl.snapshots.owner import Owner

    return Around(aws, _tell, Owner.this_process())


def _tell(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone, and what was made is to be removed all the same
        output.note(text)
