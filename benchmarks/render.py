"""How long `sdctl render` takes from nothing: process start, validation, every file of three runtimes.

Its processor time against that of importing the libraries that it is made of, in turns in the same run.
Goals: a second and 150 MB, where `cdk synth` of upstream's project takes 19 to 30 s and 805 MB.
Run: `python benchmarks/render.py`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 9
RATIO_BOUND = 6.0
PEAK_BOUND_MIB = 150
LIBRARIES = "import typer.main, pydantic, yaml, jinja2"
CONFIG = {
    "modelsRuntime": [
        {"name": "one", "type": "sdwebui", "modelFilename": "a.safetensors"},
        {"name": "two", "type": "sdwebui", "modelFilename": "b.safetensors", "namespace": "two"},
        {"name": "three", "type": "comfyui", "namespace": "three"},
    ]
}


@dataclass(frozen=True)
class Run:
    """What one process took: seconds by the clock and of the processor, and its peak memory."""

    wall_seconds: float
    cpu_seconds: float
    peak_mib: float


# What a process held before its `exec` counts into its peak, and that is what its parent holds: so the parent
# is a small one. https://man7.org/linux/man-pages/man2/getrusage.2.html
LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - started
code = os.waitstatus_to_exitcode(status)
print(json.dumps([code, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""


def run(command: list[str], folder: str, env: dict[str, str]) -> Run:
    """Run a command to its end."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER]
    ran = subprocess.run(
        [*launcher, *command], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    code, wall_seconds, cpu_seconds, peak = json.loads(ran.stdout.splitlines()[-1])
    if code != 0:
        raise SystemExit(ran.stderr)
    per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return Run(wall_seconds, cpu_seconds, peak / per_mib)


def measure(rounds: int = ROUNDS) -> tuple[Run, Run]:
    """Return the medians of a rendering and of importing the libraries alone."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sdctl.yaml").write_text(json.dumps(CONFIG))
        # Without a helm on the PATH: what helm takes is helm's.
        env = {"PATH": folder, "HOME": folder, "SDCTL_HOME": folder}
        env["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
        render = [sys.executable, "-m", "sdctl", "render", "--out", "out", "-R", "us-west-2"]
        libraries = [sys.executable, "-c", LIBRARIES]
        run(render, folder, env), run(libraries, folder, env)
        pairs = [(run(render, folder, env), run(libraries, folder, env)) for _ in range(rounds)]
    return median([ours for ours, _ in pairs]), median([theirs for _, theirs in pairs])


def median(runs: list[Run]) -> Run:
    """Return the median of each figure."""
    return Run(*(statistics.median(getattr(one, name) for one in runs) for name in Run.__annotations__))


def main() -> int:
    """Print the figures; exit 1 where one is above its bound."""
    render, libraries = measure()
    ratio = render.cpu_seconds / libraries.cpu_seconds
    print(f"render {render.wall_seconds * 1000:.0f} ms, of the processor {render.cpu_seconds * 1000:.0f} ms")
    print(f"  against {libraries.cpu_seconds * 1000:.0f} ms of imports: {ratio:.2f} (bound {RATIO_BOUND:g})")
    print(f"  peak {render.peak_mib:.0f} MiB (bound {PEAK_BOUND_MIB})")
    return 0 if ratio <= RATIO_BOUND and render.peak_mib <= PEAK_BOUND_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
