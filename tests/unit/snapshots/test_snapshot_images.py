"""What goes onto a snapshot: names, sizes, tags, commands; and what of it has moved."""

from __future__ import annotations

import shlex

import pytest

from sdctl.config.model import Config
from sdctl.snapshots.images import configured_images, full_name
from sdctl.snapshots.listing import uncached
from sdctl.snapshots.owner import Owner
from sdctl_snapshot import commands
from sdctl_snapshot.images import (
    MAX_IMAGES,
    Image,
    cached_images,
    fingerprint,
    image_tags,
    volume_size_gib,
)

GIB = 1024**3
D1, D2 = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
REGISTRY = "123456789012.dkr.ecr.us-west-2.amazonaws.com"


def image(name: str = "r.io/a", tag: str = "1", digest: str = D1, **layers: int) -> Image:
    return Image(name, tag, digest, layers)


def test_layers_that_images_share_are_counted_once() -> None:
    one, two = image(base=5 * GIB, own=GIB), image("r.io/b", base=5 * GIB)
    assert volume_size_gib([one, two]) == volume_size_gib([one])
    assert volume_size_gib([one]) > 6 * 3.5 + 20


def test_a_volume_stays_below_where_the_kubelet_removes_images() -> None:
    for gib in (1, 7, 30):
        used = gib * 3.5 + 20
        assert used / volume_size_gib([image(layer=gib * GIB)]) < 0.8


def test_the_tags_say_what_is_on_a_snapshot_and_can_be_read_back() -> None:
    listed = [image(), image("r.io/b", "", D2)]
    assert cached_images(image_tags(listed)) == {"r.io/a:1": D1, f"r.io/b@{D2}": D2}
    with pytest.raises(ValueError, match="room for 18"):
        image_tags([image(f"r.io/{number}") for number in range(19)])
    with pytest.raises(ValueError, match="longer than the 256"):
        image_tags([image("r.io/" + "a" * 260)])


def test_the_list_of_images_fits_into_what_systems_manager_passes_on() -> None:
    # https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetCommandInvocation.html
    most_characters = 24_000
    tag = "t" * 20
    longest = [image(f"r.io/{n:02}{'a' * (256 - 8 - len(tag))}", tag) for n in range(MAX_IMAGES)]
    image_tags(longest)
    # The host's puller leaves an image of ECR under its canonical name as well.
    canonical = "ecr.aws/arn:aws:ecr:us-west-2:123456789012:repository/"
    names = [name for one in longest for name in (*one.names, f"{canonical}{one.pinned}")]
    assert len("\n".join(names)) < most_characters


def test_builds_are_alike_only_with_the_same_digests_and_the_same_nodes() -> None:
    mark = fingerprint([image(), image("r.io/b")], "x86_64", "1.36")
    assert fingerprint([image("r.io/b"), image()], "x86_64", "1.36") == mark
    assert fingerprint([image(digest=D2), image("r.io/b")], "x86_64", "1.36") != mark
    assert fingerprint([image(), image("r.io/b")], "arm64", "1.36") != mark


def test_an_image_is_pulled_by_digest_and_no_name_can_add_a_command() -> None:
    hostile = Image("r.io/a; reboot $(id)", "t`x`", D1, {})
    for line in commands.pull(hostile)[1:]:
        words = shlex.split(line)
        assert words[:4] == ["apiclient", "exec", "admin", "sheltie"]
        assert "reboot" not in words
    assert f"--source={image().pinned}" in shlex.split(commands.pull(image())[1])
    assert commands.pull(image())[0] == "set -eu"


def test_the_images_of_a_configuration_are_named_as_the_chart_names_them() -> None:
    config = Config.model_validate({
        "modelsRuntime": [
            {"name": "one", "type": "sdwebui"},
            {"name": "two", "type": "comfyui", "extraValues": {"runtime": {
                "inferenceApi": {"image": {"repository": "art/comfy", "tag": "7"}},
                "queueAgent": {"image": {"repository": "r.io/agent", "tag": "7", "digest": D1}},
            }}},
        ]
    })  # fmt: skip
    assert configured_images(config, REGISTRY) == (
        "public.ecr.aws/bingjiao/sd-on-eks/sdwebui:latest", f"{REGISTRY}/sd-on-eks/queue-agent:0.1.0",
        f"{REGISTRY}/art/comfy:7", f"r.io/agent@{D1}",
    )  # fmt: skip
    mirrored = config.model_copy(update={"image_registry": "r.io/mirror"})
    assert configured_images(mirrored, REGISTRY)[:2] == (
        "r.io/mirror/bingjiao/sd-on-eks/sdwebui:latest", "r.io/mirror/sd-on-eks/queue-agent:0.1.0",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        (("r.io/a:1", D1), False),
        (("r.io/a:1", D2), True),
        (("r.io/a:2", D1), False),  # the same content under another tag is asked for by digest
        ((f"r.io/a@{D1}", ""), False),
        ((f"r.io/a@{D2}", ""), True),
        (("r.io:5000/a:1", ""), True),
        (("r.io/a:1", ""), False),
    ],
)
def test_an_image_counts_as_cached_by_what_it_is_today(wanted: tuple[str, str], missing: bool) -> None:
    assert uncached([wanted], {"r.io/a:1": D1}) == ([wanted[0]] if missing else [])


def test_a_build_is_dead_when_its_process_is_or_when_none_takes_that_long() -> None:
    me = Owner("me on desk", "abc", 10, 1000)
    later = 1000.0 + 60

    def alive(owner: Owner, now: float = later, running: bool = True) -> bool:
        return me.is_alive(str(owner), lambda: now, lambda pid: running)

    assert alive(Owner("me on desk", "abc", 11, 1000))
    assert not alive(Owner("me on desk", "abc", 11, 1000), running=False)
    assert not alive(me)  # an earlier build of this very process
    assert alive(Owner("ann on rack", "def", 11, 1000), running=False)
    assert not alive(Owner("ann on rack", "def", 11, 1000), now=1000.0 + 9 * 3600)
    assert not me.is_alive("", lambda: later)


def test_containers_with_one_address_are_two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uuid.getnode", lambda: 0x0242AC110002)
    monkeypatch.setattr("platform.node", lambda: "4f2a")
    one, again = Owner.this_process(), Owner.this_process()
    monkeypatch.setattr("platform.node", lambda: "9c01")
    assert one.machine == again.machine != Owner.this_process().machine


def test_who_builds_is_written_in_characters_that_a_tag_takes() -> None:
    text = str(Owner.this_process(lambda: 12.5))
    assert len(text) <= 256
    assert text.endswith(" at 12")


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("nginx", "docker.io/nginx:latest"), ("nginx:1.29", "docker.io/nginx:1.29"),
        ("who/what:1", "docker.io/who/what:1"), ("public.ecr.aws/a/b", "public.ecr.aws/a/b:latest"),
        ("localhost/a:1", "localhost/a:1"), ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
        (f"r.io/a@sha256:{'0' * 64}", f"r.io/a@sha256:{'0' * 64}"),
    ],
)  # fmt: skip
def test_what_a_name_leaves_out_is_filled_in_as_nodes_do(written: str, full: str) -> None:
    assert full_name(written) == full
