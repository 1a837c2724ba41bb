"""Damages packages of every kind and runs each by the interpreter, in a process that is watched.

    python -m tools.mil_fuzz --count 2000 --seed 1

What must not happen: an error other than the interpreter's own, a crash, 10 s on the processor, a file opened
outside of the package, or a process that grows by more than ``allowance``. Ends with 1 if anything of it did.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tools.mil_fuzz import packages
from tools.mil_fuzz.damage import harm
from tools.mil_fuzz.watch import MEBIBYTE, SOUND, Attempt, watched

# What reading and running even the smallest package takes: messages, plans, kernels that torch sets up anew.
FIXED = 32 * MEBIBYTE


@dataclass(frozen=True)
class Trial:
    """One damaged package: which, what was done to it, and how it ended."""

    number: int
    kind: str
    harm: str
    attempt: Attempt


def allowance(package: Path) -> int:
    """Bytes by which a process may grow: four times what the sound package has on disk, and a fixed amount."""
    return 4 * sum(path.stat().st_size for path in package.rglob("*") if path.is_file()) + FIXED


def predict(package: Path, inputs: dict[str, Any]) -> None:
    from lvexport.validation import mil

    model = mil.load(package)
    model.predict(inputs, model.make_state())


def trial(number: int, seed: int, sound: dict[str, tuple[Path, dict[str, Any]]]) -> Trial:
    """Damages a copy of one of the sound packages, chosen with the place of damage by ``seed`` and ``number``."""
    from lvexport.validation import mil

    chance = random.Random(f"{seed} {number}")
    kind = chance.choice(sorted(sound))
    package, inputs = sound[kind]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(package, Path(os.path.realpath(folder)) / package.name))
        done = harm(copy, chance)
        warnings.simplefilter("ignore")
        found = watched(lambda: predict(copy, inputs), mil.MilError, copy, allowance(package))
    return Trial(number, kind, done, found)


def trials(count: int, seed: int, jobs: int, sound: dict[str, tuple[Path, dict[str, Any]]]) -> Iterator[Trial]:
    import torch

    torch.set_num_threads(1)
    for package, inputs in sound.values():
        predict(package, inputs)
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        futures = [pool.submit(trial, number, seed, sound) for number in range(count)]
        for future in futures:
            yield future.result()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.mil_fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    typed = parser.parse_args(arguments)
    outcomes: Counter[str] = Counter()
    slowest = largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        sound = packages.build_all(Path(folder))
        for done in trials(typed.count, typed.seed, typed.jobs, sound):
            outcomes[done.attempt.outcome] += 1
            slowest, largest = max(slowest, done.attempt.cpu_seconds), max(largest, done.attempt.bytes)
            if not done.attempt.sound:
                print(f"{done.number} {done.kind}, {done.harm}\n  {done.attempt.outcome}: {done.attempt.detail}")
    print(", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())))
    print(f"at most {slowest:.1f} s on the processor and {largest / MEBIBYTE:.0f} MiB of growth")
    return int(not outcomes.keys() <= SOUND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
