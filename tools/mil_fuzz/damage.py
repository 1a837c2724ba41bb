"""Ways in which a file comes to harm: cut short, bits turned over, bytes overwritten."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

MANIFEST = "Manifest.json"
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
TARGETS = (MANIFEST, SPECIFICATION, SPECIFICATION, SPECIFICATION, WEIGHTS, WEIGHTS)
HEADS = 128  # bytes at the start of the weights, which describe them; the others are numbers

Damage = Callable[[bytearray, random.Random], str]


def cut(data: bytearray, chance: random.Random) -> str:
    length = chance.randrange(len(data))
    del data[length:]
    return f"cut after {length} bytes"


def flip(data: bytearray, chance: random.Random) -> str:
    places = [chance.randrange(8 * len(data)) for _ in range(chance.choice([1, 1, 2, 4, 16]))]
    for place in places:
        data[place // 8] ^= 1 << (place % 8)
    return f"bits {places} turned over"


def flip_head(data: bytearray, chance: random.Random) -> str:
    place = chance.randrange(8 * min(HEADS, len(data)))
    data[place // 8] ^= 1 << (place % 8)
    return f"bit {place} turned over"


def overwrite(data: bytearray, chance: random.Random) -> str:
    start, value = chance.randrange(len(data)), chance.choice([b"\xff", b"\x00", b"\x7f", b"\x80"])
    length = min(chance.choice([1, 4, 8, 32]), len(data) - start)
    data[start : start + length] = value * length
    return f"{length} bytes at {start} overwritten with {value.hex()}"


DAMAGES: tuple[Damage, ...] = (cut, flip, flip, flip_head, overwrite)


def harm(package: Path, chance: random.Random) -> str:
    """Damages one file of a package; says what was done."""
    name = chance.choice([target for target in TARGETS if (package / target).exists()])
    data = bytearray((package / name).read_bytes())
    done = chance.choice(DAMAGES)(data, chance)
    (package / name).write_bytes(data)
    return f"{name}: {done}"
