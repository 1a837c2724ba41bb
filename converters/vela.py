"""What Vela, Arm's compiler for Ethos-U, can be asked for, and what it says of a network that it compiled."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lvexport.converters.contract import Choice, TooLarge

ACCELERATORS = (
    "ethos-u55-128",
    "ethos-u55-32",
    "ethos-u55-64",
    "ethos-u55-256",
    "ethos-u65-256",
    "ethos-u65-512",
    "ethos-u85-128",
    "ethos-u85-256",
    "ethos-u85-512",
    "ethos-u85-1024",
    "ethos-u85-2048",
)
KIB = 1024
NO_LIMIT = "any"
OPTIONS: Mapping[str, Choice] = MappingProxyType(
    {
        "accelerator": Choice(ACCELERATORS, "the accelerator, with its MACs a cycle"),
        "sram": Choice((NO_LIMIT,), "KiB of SRAM that there are", number=True),
        "flash": Choice((NO_LIMIT,), "KiB of flash that there are for the model", number=True),
    }
)


@dataclass(frozen=True)
class Summary:
    """What Vela says of what it compiled. ``sram`` and ``dram`` in bytes; ``cycles``, ``seconds``: estimates."""

    system: str
    sram: int
    dram: int
    cycles: int
    seconds: float


def compile_file(model: Path, arguments: Sequence[str]) -> Summary:
    """Have Vela compile a file into the folder ``vela`` beside it. Raises RuntimeError where it cannot."""
    from ethosu.vela import vela

    folder = model.parent / "vela"
    vela.main([str(model), *arguments, "--output-dir", str(folder)])
    (summary,) = folder.glob(f"{model.stem}_summary_*.csv")
    with summary.open(newline="") as file:
        (row,) = csv.DictReader(file)
    return Summary(
        f"{row['system_config']}, {row['memory_mode']}",
        round(float(row["sram_memory_used"]) * KIB),
        round(float(row["dram_memory_used"]) * KIB),
        int(float(row["cycles_total"])),
        float(row["inference_time"]),
    )


def check_limits(sram: int, flash: int, options: Mapping[str, str]) -> None:
    """Raise TooLarge where a compiled model needs more than there is, in bytes."""
    limits = {name: int(options[name]) * KIB for name in ("sram", "flash") if options[name] != NO_LIMIT}
    needs = {"sram": sram, "flash": flash}
    over = {name: needs[name] - limit for name, limit in limits.items() if needs[name] > limit}
    if over:
        told = [f"{n} {needs[n] / KIB:,.0f} KiB, {more / KIB:,.0f} KiB more than there are" for n, more in over.items()]
        raise TooLarge(f"The network does not fit: it needs of {' and of '.join(told)}.", needs, limits)
