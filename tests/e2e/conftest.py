"""One farm for all end-to-end tests: both runtime types, deployed once by the real command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.farm import Farm

CONFIG = """\
stackName: sdoneks
modelsRuntime:
  - name: sdruntime
    namespace: default
    type: sdwebui
    modelFilename: v1-5-pruned-emaonly.safetensors
    dynamicModel: false
  - name: comfy
    namespace: comfy
    type: comfyui
  - name: dynamic
    namespace: dynamic
    type: sdwebui
    modelFilename: sdxl-base.safetensors
    dynamicModel: true
"""


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Return the deployed farm; it is destroyed at the end, and must then be gone."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "sdctl.yaml").write_text(CONFIG)
    farm = Farm(folder, tmp_path_factory.mktemp("home") / "sdctl")
    try:
        farm.deploy()
        yield farm
    finally:
        farm.destroy()
