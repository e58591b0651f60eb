"""How a newcomer meets sdctl: the demonstration and the README's commands, as they are written."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from support.farm import BIN, Farm, command_environment

ROOT = Path(__file__).parent.parent.parent
READMES = ("README.md", "README.zh-CN.md")


def processes_of(folder: Path) -> list[str]:
    """List the command lines of all processes that work in a folder or name it."""
    lines = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = f"{(path / 'cwd').readlink()}/"
        except OSError:  # it has ended meanwhile
            continue
        if f"{folder}/" in command or where.startswith(f"{folder}/"):
            lines.append(f"{path.name} {command}")
    return lines


def run_demo(folder: Path, path: str) -> None:
    done = subprocess.run(
        ["sh", str(ROOT / "tests/support/demo.sh")], cwd=folder, timeout=110, check=False,
        env={"HOME": str(folder), "PATH": path, "TMPDIR": str(folder)}, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (picture,) = (folder / "out").rglob("*.png")
    assert str(picture.relative_to(folder)) in done.stdout
    with Image.open(picture) as image:
        assert image.size == (512, 512)
    assert [path.name for path in folder.iterdir()] == ["out"], "no state is left behind"
    assert processes_of(folder) == [], "no process is left behind"


def test_the_demonstration_leaves_a_picture_and_nothing_else(tmp_path: Path) -> None:
    run_demo(tmp_path, f"{BIN}:/usr/bin:/bin")


def test_the_built_wheel_does_the_demonstration_far_from_the_checkout(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True, timeout=100,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("sdctl-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.startswith(("agent/", "tests/", "lambda/", "templates/"))]
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    site = next(environment.glob("lib/python*/site-packages"))
    python = str(environment / "bin/python")
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", str(wheel)],
        check=True, timeout=60,
    )  # fmt: skip
    # The dependencies come from this environment, sdctl itself does not: its editable install is a .pth
    # file, which is only read in a folder of `site`, not in one that a .pth file names.
    dependencies = Path(Image.__file__).parent.parent
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    origin = subprocess.run(
        [python, "-c", "import sdctl, sdctl_agent; print(sdctl.__file__, sdctl_agent.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert all(Path(name).is_relative_to(environment) for name in origin)
    work = tmp_path / "elsewhere"
    work.mkdir()
    run_demo(work, f"{environment}/bin:/usr/bin:/bin")


def shell_commands(readme: str) -> list[str]:
    """Return the `sdctl` commands of a README's shell blocks, in order."""
    text = (ROOT / readme).read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def test_every_command_of_the_readme_runs_in_order(tmp_path: Path) -> None:
    farm = Farm(tmp_path / "project", tmp_path / "home")
    farm.folder.mkdir()
    commands = [
        line for line in shell_commands("README.md") if not line.startswith(("git ", "cd ", "make ", "pip "))
    ]
    assert len(commands) > 8
    request = (ROOT / "tests/contract/requests/v1alpha2-pipeline.json").read_text()
    (farm.folder / "workflow.json").write_text(json.dumps(json.loads(request)["task"]["content"]))
    Image.effect_noise((300, 200), 60).save(farm.folder / "photo.png")
    try:
        for line in commands:
            done = subprocess.run(
                ["sh", "-c", line], cwd=farm.folder, capture_output=True, text=True, timeout=100, check=False,
                env=command_environment(farm.home), stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    finally:
        farm.run("destroy", "--target", "local", "--yes", check=False)
    assert any(shlex.split(line)[:2] == ["sdctl", "destroy"] for line in commands)


def test_the_request_over_http_in_the_readme_works_when_pasted(tmp_path: Path) -> None:
    farm = Farm(tmp_path / "project", tmp_path / "home")
    farm.folder.mkdir()
    (script,) = [
        block
        for block in re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
        if block.startswith("curl ")
    ]
    try:
        farm.deploy()
        done = subprocess.run(
            ["bash", "-c", script], cwd=farm.folder, capture_output=True, text=True, timeout=60, check=False,
            env=command_environment(farm.home), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["id_task"] == "test-t2i"
        farm.run("watch", "test-t2i")
    finally:
        farm.run("destroy", "--target", "local", "--yes", check=False)


def test_both_readmes_show_the_same_commands() -> None:
    first, second = (shell_commands(name) for name in READMES)
    assert first == second


@pytest.mark.full
def test_make_demo_works_in_a_clean_clone_with_a_nearly_empty_environment(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=60)
    python = str(Path(os.path.realpath(sys.executable)))
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    passed_on = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE", "PIP_FIND_LINKS")
    environment |= {name: os.environ[name] for name in passed_on if name in os.environ}
    done = subprocess.run(
        ["make", "demo", f"PYTHON={python}"], cwd=clone, env=environment, timeout=600, check=False,
        capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((clone / "out").rglob("*.png"))
