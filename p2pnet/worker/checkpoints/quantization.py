"""Decides in how many bits weights are loaded, by the user's wish, the checkpoint and the machine.

Only decides: knows nothing of files, and loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

from p2pnet.errors import UsageError

NONE = "none"


class WantedQuantization(StrEnum):
    """What --quantization takes."""

    none = NONE
    eight_bit = "8bit"
    four_bit = "4bit"


_EXTRA = ("accelerate", "bitsandbytes")
"""The packages of the extra `quantization`."""

_DETERMINISTIC = {"llm_int8_threshold": 0.0}
"""bitsandbytes looks for outliers in a whole batch, so that one request would change what another is answered."""

_WIDENED = {"dequantize": True}
"""Computing in these formats takes kernels that transformers would fetch from the hub and run, or widens the weights at
the first step in any case. They are turned into ordinary numbers at once, which every device computes with alike."""

IsInstalled = Callable[[str], bool]


def is_installed(package: str) -> bool:
    return find_spec(package) is not None


@dataclass(frozen=True)
class QuantizationPlan:
    """How to load one model's weights. `label` says it on the model's card and in its digest.

    `requested` are the settings of bitsandbytes where the weights are quantized while they are loaded. `overrides`
    replace fields of the checkpoint's own `quantization_config`.
    """

    label: str = NONE
    requested: Mapping[str, Any] | None = None
    bytes_per_weight: float | None = None
    """What a linear layer's weight takes, scales included, where `requested`."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    is_widened: bool = False
    """The checkpoint is quantized, and the model in memory is not."""

    @property
    def is_bitsandbytes(self) -> bool:
        return self.label.startswith("bnb-")


_WANTED: Mapping[str, QuantizationPlan] = {
    WantedQuantization.none: QuantizationPlan(),
    WantedQuantization.eight_bit: QuantizationPlan(
        "bnb-int8", {"load_in_8bit": True, **_DETERMINISTIC}, bytes_per_weight=1.0
    ),
    WantedQuantization.four_bit: QuantizationPlan(
        "bnb-nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, bytes_per_weight=0.5 + 4 / 64
    ),
}


@dataclass(frozen=True)
class _Format:
    """A way in which checkpoints are quantized. Others may need pickled files or code of their own, and are refused."""

    packages: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu", "cuda")
    overrides: Mapping[str, Any] = field(default_factory=dict)
    is_widened: bool = False


_FORMATS = {
    "awq": _Format(("accelerate", "gptqmodel")),
    "bitsandbytes": _Format(_EXTRA, overrides=_DETERMINISTIC),
    "compressed-tensors": _Format(("accelerate", "compressed_tensors"), overrides=_WIDENED, is_widened=True),
    "fp8": _Format(("accelerate",), ("cpu", "cuda", "mps"), _WIDENED, is_widened=True),
    "gptq": _Format(("accelerate", "gptqmodel", "optimum")),
    "mxfp4": _Format(("accelerate",), ("cpu", "cuda", "mps"), _WIDENED, is_widened=True),
    "torchao": _Format(("accelerate", "torchao")),
}


def choose_quantization(
    wanted: str, own: Mapping[str, Any] | None, device: str, is_installed: IsInstalled = is_installed
) -> QuantizationPlan:
    """How to load a checkpoint whose config has this `quantization_config`, or none, on a device that is there.

    Raises UsageError, naming the package or device that is missing.
    """
    if wanted not in _WANTED:
        raise UsageError(f"There is no quantization {wanted!r}.", f"Use one of: {', '.join(_WANTED)}.")
    if own is None:
        if wanted != NONE:
            _require(f"--quantization {wanted}", _FORMATS["bitsandbytes"], device, is_installed)
        return _WANTED[wanted]
    if wanted != NONE:
        raise UsageError("The checkpoint is quantized already.", "Leave --quantization out.")
    method = "bitsandbytes" if _bits_and_bytes_bits(own) else own.get("quant_method")
    if not isinstance(method, str) or method not in _FORMATS:
        raise UsageError(
            f"The checkpoint is quantized with {method!r}, which is not supported.",
            f"Use one of {', '.join(_FORMATS)}, or the original checkpoint.",
        )
    found = _FORMATS[method]
    _require(f"A checkpoint quantized with {method}", found, device, is_installed)
    return QuantizationPlan(_label(method, own), overrides=found.overrides, is_widened=found.is_widened)


def _require(what: str, needs: _Format, device: str, is_installed: IsInstalled) -> None:
    if device not in needs.devices:
        raise UsageError(
            f"{what} does not run on the device {device!r}.", f"Use --device {' or --device '.join(needs.devices)}."
        )
    missing = [package for package in needs.packages if not is_installed(package)]
    if missing:
        raise UsageError(
            f"{what} needs the package {missing[0]}, which is not installed.",
            f"Run: pip install {' '.join(missing).replace('_', '-')}",
        )


def _bits_and_bytes_bits(own: Mapping[str, Any]) -> int | None:
    """The number of bits, as transformers reads it: one of two flags, whatever else the config says."""
    if own.get("load_in_4bit"):
        return 4
    return 8 if own.get("load_in_8bit") else None


def _label(method: str, own: Mapping[str, Any]) -> str:
    """A short label, made of fixed parts: anybody may have written the config."""
    if method == "bitsandbytes":
        kinds = {8: "int8", 4: own.get("bnb_4bit_quant_type", "fp4")}
        kind = kinds.get(_bits_and_bytes_bits(own) or 0)
        if kind not in ("int8", "nf4", "fp4"):
            raise UsageError(
                "The checkpoint does not say how bitsandbytes quantized it.", "Download or save the model again."
            )
        return f"bnb-{kind}"
    bits = own.get("bits")
    return f"{method}-int{bits}" if isinstance(bits, int) and 1 <= bits <= 8 else method
