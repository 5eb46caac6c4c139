"""In which precision the networks run: bfloat16 where the processor multiplies it faster, else float32."""

from __future__ import annotations

import torch


def half_is_fast(device: torch.device) -> bool:
    """Whether bfloat16 pays on this device; a CPU without instructions for it takes many times as long."""
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return device.type == "cuda"


def fast_precision(device: torch.device) -> torch.autocast:
    """The context in which the networks are called."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half_is_fast(device))
