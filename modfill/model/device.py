"""Where and in which precision the networks run: bfloat16 where the processor multiplies it faster, else float32."""

from __future__ import annotations

import os

import torch

from modfill.errors import SettingsError


def best_device() -> torch.device:
    """A GPU where there is one, torchrun's processes taking one each, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def half_is_fast(device: torch.device) -> bool:
    """True if the device multiplies bfloat16 in hardware; a CPU without it takes many times as long as with float32."""
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cuda" and _gpu_has_bfloat16()


def _gpu_has_bfloat16() -> bool:
    """True if the GPU multiplies bfloat16 in hardware, without emulation."""
    if not torch.cuda.is_available():
        return False
    try:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    except TypeError:  # before torch 2.4 it knew no emulation
        return bool(torch.cuda.is_bf16_supported())


def fast_precision(device: torch.device) -> torch.autocast:
    """The context in which the networks are called."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half_is_fast(device))


def device_named(name: str | torch.device) -> torch.device:
    """The device of a name.

    Args:
        name: "auto" (a CUDA GPU where there is one, else the CPU), "cpu", "cuda", "cuda:1", "mps", or "gpu" (any GPU).

    Raises:
        SettingsError: it does not exist here; the message lists the devices that do.
    """
    name = str(name)
    if name == "auto":
        return best_device()
    found = devices_here()
    if name == "gpu" and len(found) > 1:
        return best_device() if torch.cuda.is_available() else torch.device(found[1])
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"device must be one of auto, {', '.join(found)}, got '{name}'; give one of them"
        ) from error
    return device


def devices_here() -> list[str]:
    """The devices of this machine by name, the CPU first."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found
