"""What holds for every test: no credentials, settings or proxies of the machine reach it."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sdctl.cli import context

# A worker keeps what thousands of tests imported and cached: looking through all of it takes seconds.
gc.set_threshold(100_000, 50, 100)

# Examples are the same in every run, and a loaded machine is no reason to fail.
settings.register_profile(
    "project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")

# A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_PREFIXES = ("AWS_", "SDCTL_", "OTEL_")
_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Clear AWS, SDCTL and proxy variables, set dummy credentials, keep state below the test's folder.

    The options of an earlier test's command line go, too.
    """
    context.reset(context.Options())
    for name in list(os.environ):
        if (name.startswith(_PREFIXES) and name != "SDCTL_CRD_DIR") or name in _NAMES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    monkeypatch.setenv("SDCTL_HOME", str(tmp_path / "sdctl-home"))
