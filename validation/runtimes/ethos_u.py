"""Models compiled for Arm Ethos-U. Only the accelerator, or Arm's model of it, runs them; here they are described."""

from __future__ import annotations

from pathlib import Path

from lvexport.validation import flatbuffer
from lvexport.validation.contract import Availability, CannotRun, Description, Session

_REASON = "only an Ethos-U runs what Vela compiles; --to tflm verifies the int8 model that it compiles"


class EthosURuntime:
    def available(self) -> Availability:
        return Availability(False, "Ethos-U", _REASON, to_be_had=False)

    def load(self, artifact: Path, threads: int) -> Session:
        flatbuffer.read(artifact)
        raise CannotRun(f"{artifact}: {_REASON}")

    def describe(self, artifact: Path) -> Description:
        return flatbuffer.describe(artifact)


RUNTIME = EthosURuntime()
