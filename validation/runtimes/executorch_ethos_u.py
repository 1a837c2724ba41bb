"""ExecuTorch programs for Arm Ethos-U, which only the accelerator or Arm's model of it runs. They are described."""

from __future__ import annotations

from pathlib import Path

from lvexport.validation import pte
from lvexport.validation.contract import Availability, CannotRun, Description, Session

_REASON = "only an Ethos-U runs what Vela compiles; --to onnx verifies the same program with its roundings"


class ExecuTorchEthosU:
    def available(self) -> Availability:
        return Availability(False, "ExecuTorch with an Ethos-U", _REASON, to_be_had=False)

    def load(self, artifact: Path, threads: int) -> Session:
        pte.read(artifact)
        raise CannotRun(f"{artifact}: {_REASON}")

    def describe(self, artifact: Path) -> Description:
        program = pte.read(artifact)
        interface = program.interface
        return Description(interface.inputs, interface.outputs, program.calls())


RUNTIME = ExecuTorchEthosU()
