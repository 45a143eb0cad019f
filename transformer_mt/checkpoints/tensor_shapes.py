"""What a safetensors file holds, by its header: neither its numbers nor PyTorch are loaded."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from transformer_mt.errors import InputError


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor in a file, by its header.

    Raises:
        InputError: damaged, or no such file.
    """
    try:
        with safe_open(path, framework="numpy") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise damaged_tensors(path, error) from None


def damaged_tensors(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{path}: damaged, or no safetensors file ({reason:.200}); use another checkpoint")
