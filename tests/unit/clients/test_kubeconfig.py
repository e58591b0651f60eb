"""kubeconfig files: what is written, and that nothing of the user's is lost."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from sdctl.clients.cluster_access import ClusterAccess
from sdctl.clients.kubeconfig import add_to_file, cluster_config, default_path, merged, token_command
from sdctl.errors import ConfigError, ConflictError
from sdctl.polling import Clock

ACCESS = ClusterAccess(
    "farm", "arn:aws:eks:us-west-2:1:cluster/farm", "https://a.example", "Q0E=", "us-west-2", "dev"
)
USERS_OWN = {
    "apiVersion": "v1",
    "kind": "Config",
    "preferences": {"colors": True},
    "clusters": [{"name": "kind", "cluster": {"server": "https://127.0.0.1:6443"}}],
    "users": [{"name": "kind", "user": {"token": "secret"}}],
    "contexts": [{"name": "kind", "context": {"cluster": "kind", "user": "kind"}}],
    "current-context": "kind",
    "extensions": [{"name": "x", "extension": {"of": "another tool"}}],
}


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text()))


def instant_clock() -> Clock:
    time = [0.0]

    def sleep(seconds: float) -> None:
        time[0] += seconds

    return Clock(monotonic=lambda: time[0], sleep=sleep, uniform=lambda low, high: high)


def test_the_token_comes_from_this_very_interpreter() -> None:
    assert token_command(ACCESS) == [
        sys.executable, "-P", "-m", "sdctl", "token", "--target", "aws", "--stack-name", "farm",
        "--region", "us-west-2", "--profile", "dev",
    ]  # fmt: skip


def test_a_kubeconfig_holds_no_secret_but_a_command() -> None:
    config = cluster_config(ACCESS)
    assert config["current-context"] == ACCESS.arn
    assert list(config["users"][0]["user"]) == ["exec"]
    assert config["clusters"][0]["cluster"] == {
        "server": "https://a.example", "certificate-authority-data": "Q0E=",
    }  # fmt: skip


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config"
    add_to_file(path, cluster_config(ACCESS))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert read(path) == cluster_config(ACCESS)


def test_what_the_user_has_stays(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(USERS_OWN))
    path.chmod(0o644)
    add_to_file(path, cluster_config(ACCESS))
    found, ours = read(path), cluster_config(ACCESS)
    for section in ("clusters", "users", "contexts"):
        assert found[section] == USERS_OWN[section] + ours[section]
    assert found["preferences"] == {"colors": True}
    assert found["extensions"] == USERS_OWN["extensions"]
    assert found["current-context"] == ACCESS.arn
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_adding_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(USERS_OWN))
    add_to_file(path, cluster_config(ACCESS))
    first = path.read_bytes()
    add_to_file(path, cluster_config(ACCESS))
    assert path.read_bytes() == first


def test_merging_does_not_change_what_it_is_given() -> None:
    before = yaml.safe_dump(USERS_OWN)
    merged(USERS_OWN, cluster_config(ACCESS))
    assert yaml.safe_dump(USERS_OWN) == before


@pytest.mark.parametrize("text", ["", "# nothing\n", "apiVersion: v1\nkind: Config\nclusters: null\n"])
def test_an_empty_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    add_to_file(path, cluster_config(ACCESS))
    assert read(path)["contexts"] == cluster_config(ACCESS)["contexts"]


@pytest.mark.parametrize(
    "text", ["[1, 2]", "kind: Deployment", "a: [", "clusters: {a: 1}", "users: [1]", "\0"]
)
def test_a_file_that_is_no_kubeconfig_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError):
        add_to_file(path, cluster_config(ACCESS))
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text(yaml.safe_dump(USERS_OWN))
    link.symlink_to(real)
    add_to_file(link, cluster_config(ACCESS))
    assert link.is_symlink()
    assert read(real)["current-context"] == ACCESS.arn


def test_a_file_that_kubectl_holds_is_waited_for(tmp_path: Path) -> None:
    path, lock = tmp_path / "config", tmp_path / "config.lock"
    lock.touch()
    threading.Timer(0.2, lock.unlink).start()
    add_to_file(path, cluster_config(ACCESS))
    assert read(path)["current-context"] == ACCESS.arn


def test_a_lock_that_stays_is_a_conflict_that_names_it(tmp_path: Path) -> None:
    lock = tmp_path / "config.lock"
    lock.touch()
    with pytest.raises(ConflictError, match="another program is changing") as caught:
        add_to_file(tmp_path / "config", cluster_config(ACCESS), clock=instant_clock())
    assert str(lock) in caught.value.hint
    assert lock.exists()


def test_many_at_once_lose_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "config"

    def add(number: int) -> None:
        add_to_file(
            path, cluster_config(ClusterAccess(f"c{number}", f"arn:{number}", "https://x", "Q0E=", "r"))
        )

    threads = [threading.Thread(target=add, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(one["name"] for one in read(path)["clusters"]) == [f"arn:{n}" for n in range(8)]


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        add_to_file(tmp_path / "file" / "config", cluster_config(ACCESS))
    assert "--file" in caught.value.hint


def test_the_default_file_is_the_one_that_kubectl_looks_at_first() -> None:
    first = default_path({"KUBECONFIG": os.pathsep.join(["", "/a/b", "/c"]), "HOME": "/home/u"})
    assert first == Path("/a/b")
    assert default_path({"HOME": "/home/u"}) == Path("/home/u/.kube/config")
