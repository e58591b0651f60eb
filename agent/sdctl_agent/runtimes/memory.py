"""What a runtime's server tells of its memory, as far as it does, and how to make it free some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from sdctl_agent.errors import AgentError
from sdctl_agent.runtimes.server import Server

TIMEOUT_SECONDS: Final = 5.0
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """One reading, in bytes; a total of 0 means that the server does not tell."""

    ram_used_bytes: int = 0
    ram_total_bytes: int = 0
    vram_used_bytes: int = 0
    vram_total_bytes: int = 0

    @property
    def ram_share(self) -> float:
        """Return the used share of RAM, from 0 to 1."""
        return self.ram_used_bytes / self.ram_total_bytes if self.ram_total_bytes else 0.0


@runtime_checkable
class TellsMemory(Protocol):
    """What an adapter, or a plug-in, may offer beside `Runtime`."""

    def memory(self) -> Memory | None:
        """Ask the server for its memory; None where it does not tell. Never raises `AgentError`."""
        ...

    def free_memory(self) -> bool:
        """Ask the server to free what it caches between tasks; False where it cannot, or did not."""
        ...


def webui_memory(server: Server) -> Memory | None:
    """Read `/sdapi/v1/memory`: `ram.used` is the process's resident size, `cuda.system` the GPU's memory.

    https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/v1.10.1/modules/api/api.py (`get_memory`);
    sd-server has no such request.
    """
    document = _read(server, "/sdapi/v1/memory")
    ram, gpu = _part(document, "ram"), _part(_part(document, "cuda"), "system")
    memory = Memory(*(_number(part, key) for part in (ram, gpu) for key in ("used", "total")))
    return memory if memory.ram_total_bytes else None


def comfy_memory(server: Server) -> Memory | None:
    """Read `/system_stats`: the RAM that the server's machine has, and the memory of its first GPU."""
    document = _read(server, "/system_stats")
    system, devices = _part(document, "system"), document.get("devices")
    gpu = devices[0] if isinstance(devices, list) and devices and isinstance(devices[0], dict) else {}
    gpu = {} if gpu.get("type") == "cpu" else gpu
    pairs = ((system, "ram"), (gpu, "vram"))
    totals = [(_number(part, f"{kind}_total"), _number(part, f"{kind}_free")) for part, kind in pairs]
    memory = Memory(*(number for total, free in totals for number in (max(0, total - free), total)))
    return memory if memory.ram_total_bytes else None


def comfy_free(server: Server) -> bool:
    """Have ComfyUI unload its models and empty its caches; it does so between two prompts.

    https://github.com/comfyanonymous/ComfyUI/blob/v0.3.64/server.py (`POST /free`)
    """
    try:
        wanted = {"unload_models": True, "free_memory": True}
        return server.post_json("/free", wanted, timeout_seconds=TIMEOUT_SECONDS).status == 200
    except AgentError:
        return False


def _read(server: Server, path: str) -> Mapping[str, Any]:
    try:
        answer = server.request("GET", path, timeout_seconds=TIMEOUT_SECONDS, limit_bytes=_MAX_BYTES)
    except AgentError:
        return {}
    document = answer.json() if answer.status == 200 else None
    return document if isinstance(document, dict) else {}


def _part(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = document.get(key)
    return part if isinstance(part, dict) else {}


def _number(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return 0
    return int(value) if 0 <= value < 1 << 60 else 0  # False for nan, too
