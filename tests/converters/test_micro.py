"""Models for microcontrollers: what runs them here, how much memory they take, and what an accelerator gets of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lvexport.converters import ethos_u, tflm, vela
from lvexport.converters.c_array import method, write_c
from lvexport.converters.contract import Captured, ConversionError, Notes, Request, TooLarge
from lvexport.converters.derived import rewritten
from lvexport.converters.micro import spell_gelus
from lvexport.converters.quantization.quantize import Calibration, quantize
from lvexport.converters.quantization.settings import Settings
from lvexport.converters.recipes import W8A8
from lvexport.converters.registry import CONVERTERS
from lvexport.converters.rewrites.apply import rewritten as for_inference
from lvexport.converters.rewrites.defaults import default
from lvexport.fitting import advice
from lvexport.validation import flatbuffer
from lvexport.validation.contract import CannotRun
from lvexport.validation.grids import on_grid
from lvexport.validation.runtimes.registry import RUNTIMES
from tests.networks import SIDE, Small, small

HERE = Path(__file__).parents[1]
# Reals: twice what the logits of two interpreters with integer kernels were seen to differ by.
MARGIN = 0.1


def pictures(count: int) -> list[tuple[Tensor, ...]]:
    """Coarse noise with a tint, which is what a network that was not trained can tell apart."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    tints = 2 * torch.randn(count, 1, 3, 1, 1, generator=generator)
    finer = (torch.nn.functional.interpolate(x[None], (SIDE, SIDE), mode="bilinear") for x in coarse)
    return [(x + tint,) for x, tint in zip(finer, tints, strict=True)]


@torch.no_grad()
def telling_apart(network: Small, inputs: list[tuple[Tensor, ...]]) -> Small:
    """The network with logits of mean 0 and deviation 1 over inputs, so that no class is every input's."""
    logits = torch.cat([network(*x) for x in inputs])
    mean, deviation = logits.mean(0), logits.std(0)
    network.head.weight.div_(deviation[:, None])
    network.head.bias.sub_(mean).div_(deviation)
    return network


@dataclass(frozen=True)
class Made:
    path: Path
    notes: Notes


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Captured:
    """A small network with attention and GELU, rounded."""
    inputs = pictures(16)
    network = telling_apart(small(), inputs)
    module = for_inference(torch.export.export(network, inputs[0]), default("executorch", "fp32", None))[0]
    program, _, _ = quantize(module, Calibration(inputs), inputs[:4], Settings(8, "percentile", False, None, 0))
    path = tmp_path_factory.mktemp("program") / "rounded.pt2"
    torch.export.save(program, path)
    return Captured(path, (), ())


@pytest.fixture(scope="module")
def micro(captured: Captured, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("tflm") / "small-w8a8.tflm.tflite"
    return Made(out, CONVERTERS["tflm"].convert(captured, Request(W8A8), out))


@pytest.fixture(scope="module")
def compiled(captured: Captured, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("ethos-u") / "small-w8a8.ethos-u.tflite"
    options = {"accelerator": "ethos-u55-128", "sram": "512", "flash": "512"}
    return Made(out, CONVERTERS["ethos-u"].convert(captured, Request(W8A8, options), out))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_spelled_out(approximate: str) -> None:
    x = torch.linspace(-9, 9, 10_001)
    program = torch.export.export(nn.GELU(approximate), (x,))
    module = rewritten(program, spell_gelus)
    assert not [node for node in module.graph.nodes if "gelu" in str(node.target)]
    torch.testing.assert_close(module(x), nn.functional.gelu(x, approximate=approximate), atol=1e-6, rtol=0)


# TensorFlow Lite Micro.


def test_both_interpreters_answer_alike(micro: Made) -> None:
    sessions = [RUNTIMES[target].load(micro.path, threads=1) for target in ("tflm", "tflite")]
    assert sessions[0].inputs == sessions[1].inputs
    assert sessions[0].outputs == sessions[1].outputs
    answers = [[], []]
    for (x,) in pictures(20):
        for session, found in zip(sessions, answers, strict=True):
            found.append(session.run({session.inputs[0].name: x.numpy()})[session.outputs[0].name])
    own, other = map(np.concatenate, answers)
    assert np.ptp(own, axis=0).min() > 0  # answers differ from input to input
    assert np.linalg.norm(own - other) < 0.05 * np.linalg.norm(other)
    assert (own.argmax(1) == other.argmax(1)).mean() >= 0.9


def test_integers_go_in_and_come_out(micro: Made) -> None:
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.ModelT.InitFromPackedBuf(micro.path.read_bytes(), 0).subgraphs[0]
    ends = [graph.tensors[index].type for index in (*graph.inputs, *graph.outputs)]
    assert ends == [schema.TensorType.INT8] * 2


def arena(micro: Made) -> int:
    (remark,) = micro.notes.remarks
    return int(remark.removeprefix("arena: ").split()[0].replace(",", ""))


def test_the_arena_is_the_smallest(micro: Made) -> None:
    model = micro.path.read_bytes()
    assert tflm.loads(model, arena(micro))
    assert not tflm.loads(model, arena(micro) - tflm.ARENA_STEP)


class Signs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x)


def test_an_operator_without_a_kernel_is_named() -> None:
    import litert_torch

    model = litert_torch.convert(Signs().eval(), (torch.rand(1, 4),)).model_content()
    with pytest.raises(ConversionError, match="no kernel for SIGN"):
        tflm.smallest_arena(model)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_c_source_holds_the_model(micro: Made, tmp_path: Path) -> None:
    source, header = (micro.path.with_name(name) for name in micro.notes.beside)
    assert (source.name, header.name) == ("small-w8a8.tflm.c", "small-w8a8.tflm.h")
    check = tmp_path / "check.c"
    check.write_text(
        f'#include "{header.name}"\n#include <stdint.h>\n#include <stdio.h>\n'
        "int main(void) { fwrite(small_w8a8_tflm, 1, sizeof small_w8a8_tflm, stdout);\n"
        "  return (uintptr_t)small_w8a8_tflm % 16 || small_w8a8_tflm_INPUT_NUMBERS != 3072 ||\n"
        "    small_w8a8_tflm_OUTPUT_NUMBERS != 10 || small_w8a8_tflm_ARENA % 16; }\n"
    )
    line = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{source.parent}", str(check), str(source)]
    subprocess.run([*line, "-o", str(tmp_path / "check")], check=True)
    done = subprocess.run([tmp_path / "check"], capture_output=True, check=True)
    assert done.stdout == micro.path.read_bytes()


@dataclass(frozen=True)
class Classes:
    """What LiteRT, TFLM's interpreter and the compiled example say of the same inputs."""

    litert: list[int]
    tflm: list[tuple[int, float]]
    example: list[tuple[int, float]]


def library() -> str:
    """TensorFlow Lite Micro as tflite-micro has it: a module for Python, so what it needs of Python goes with it."""
    import tflite_micro

    (module,) = Path(tflite_micro.__file__).parent.rglob("_runtime*.so")
    python = Path(sysconfig.get_config_var("LIBDIR")) / sysconfig.get_config_var("LDLIBRARY")
    return f"-Wl,{module};{python}"


def built(source: Path, folder: Path) -> Path:
    """The example with a model's C source, as CMake builds it."""
    given = (f"-DMODEL={source}", f"-DTFLM_LIBRARY:STRING={library()}", f"-DTFLM_INCLUDE={HERE / 'tflm'}")
    example = HERE.parent / "examples" / "tflm"
    tool = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert tool is not None
    for line in ((tool, "-S", example, "-B", folder, *given), (tool, "--build", folder)):
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "classify"


def printed(program: Path, model: Path, inputs: list[tuple[Tensor, ...]]) -> list[tuple[int, float]]:
    """The class and the logit that the example prints for each input."""
    (detail,) = flatbuffer.tensors(flatbuffer.read(model), "inputs")
    found = []
    for (x,) in inputs:
        given = on_grid(detail, x.numpy()).tobytes()
        answer, logit = subprocess.run([program], input=given, capture_output=True, check=True).stdout.split()
        found.append((int(answer), float(logit)))
    return found


def logits(target: str, model: Path, inputs: list[tuple[Tensor, ...]]) -> np.ndarray:
    session = RUNTIMES[target].load(model, threads=1)
    name, made = session.inputs[0].name, session.outputs[0].name
    return np.concatenate([session.run({name: x.numpy()})[made] for (x,) in inputs])


def clear(model: Path, count: int) -> tuple[list[tuple[Tensor, ...]], np.ndarray]:
    """Inputs of which LiteRT is sure, with their logits."""
    inputs = pictures(count)
    found = logits("tflite", model, inputs)
    best = np.sort(found, axis=1)
    sure = np.flatnonzero(best[:, -1] - best[:, -2] > MARGIN)
    return [inputs[index] for index in sure], found[sure]


def weights_of_the_head(model: Path) -> bytes:
    """The integers of the layer that makes the logits."""
    from ai_edge_litert import schema_py_generated as schema

    read = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
    graph = read.subgraphs[0]
    heads = [o for o in graph.operators if list(graph.tensors[o.outputs[0]].shape) == [1, 10] and len(o.inputs) > 1]
    (found,) = [graph.tensors[o.inputs[1]] for o in heads]
    return bytes(read.buffers[found.buffer].data)


NO_COMPILER = shutil.which("c++") is None or shutil.which("make") is None
NO_PYTHON = not sysconfig.get_config_var("Py_ENABLE_SHARED")


@pytest.mark.skipif(NO_COMPILER, reason="there is no C++ compiler, or no make")
@pytest.mark.skipif(NO_PYTHON, reason="this Python has no shared library, which tflite-micro's library needs")
class TestExample:
    """The C source of a model in examples/tflm, linked with the TensorFlow Lite Micro that tflite-micro has."""

    @pytest.fixture(scope="class")
    def program(self, micro: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return built(micro.path.with_name(micro.notes.beside[0]), tmp_path_factory.mktemp("build"))

    def test_it_prints_the_class_of_litert(self, micro: Made, program: Path) -> None:
        inputs, expected = clear(micro.path, 40)
        assert len(inputs) >= 20
        assert len(set(expected.argmax(1))) >= 5
        assert [answer for answer, _ in printed(program, micro.path, inputs)] == expected.argmax(1).tolist()

    def test_it_prints_what_the_interpreter_computes(self, micro: Made, program: Path) -> None:
        inputs = pictures(20)
        expected = logits("tflm", micro.path, inputs)
        found = printed(program, micro.path, inputs)
        assert [answer for answer, _ in found] == expected.argmax(1).tolist()
        assert [logit for _, logit in found] == pytest.approx(expected.max(1).tolist(), rel=1e-4)

    def test_another_byte_of_the_weights_is_seen(self, micro: Made, tmp_path: Path) -> None:
        inputs, expected = clear(micro.path, 40)
        model = bytearray(micro.path.read_bytes())
        model[model.index(weights_of_the_head(micro.path))] ^= 0x80
        other = tmp_path / micro.path.name
        other.write_bytes(model)
        source, _ = write_c(other, arena(micro), "small-w8a8.tflm")
        found = printed(built(tmp_path / source, tmp_path / "build"), micro.path, inputs)
        assert [answer for answer, _ in found] != expected.argmax(1).tolist()

    def test_an_input_off_its_grid_is_seen(self, micro: Made, program: Path) -> None:
        inputs, expected = clear(micro.path, 40)
        (detail,) = flatbuffer.tensors(flatbuffer.read(micro.path), "inputs")
        scale, zero = detail["quantization"]
        assert zero != 0
        shifted = [(x - scale * zero,) for (x,) in inputs]
        assert [answer for answer, _ in printed(program, micro.path, shifted)] != expected.argmax(1).tolist()


def test_operators_are_registered_by_their_methods() -> None:
    names = {"CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "BATCH_MATMUL": "BatchMatMul", "ADD": "Add"}
    assert {name: method(name) for name in names} == names


# Arm Ethos-U.


def test_an_accelerator_takes_a_share(compiled: Made) -> None:
    operators = RUNTIMES["ethos-u"].describe(compiled.path).operators
    assert operators["ethos-u"] > 0
    assert operators["SOFTMAX"] == 1
    told = "\n".join(compiled.notes.remarks)
    assert "cycles" in told
    assert "of MACs on the accelerator" in told
    assert "SOFTMAX 1" in told
    assert "PAD was kept" in told  # of a convolution whose stride is too large


def test_the_model_is_the_one_that_runs_here(compiled: Made, micro: Made) -> None:
    import hashlib

    assert hashlib.sha256(micro.path.read_bytes()).hexdigest() in "\n".join(compiled.notes.remarks)


def test_it_is_made_and_not_run(compiled: Made) -> None:
    assert not RUNTIMES["ethos-u"].available().here
    with pytest.raises(CannotRun, match="only an Ethos-U"):
        RUNTIMES["ethos-u"].load(compiled.path, threads=1)


def test_what_stays_and_what_goes_is_all(micro: Made, compiled: Made) -> None:
    before, after = ethos_u.Counts.of(micro.path), ethos_u.Counts.of(compiled.path)
    assert not Counter(after.names) - Counter(before.names)
    # Two products of attention, one for each mean of a layer normalisation, and the mean over tokens.
    assert after.macs == 2 * 4 * 64 * 64 * 8 + 3 * 64 * 32 + 64 * 32
    assert before.macs > after.macs


def test_a_network_that_does_not_fit_is_told_by_how_much() -> None:
    with pytest.raises(TooLarge, match=r"sram 300 KiB, 44 KiB more than there are\.") as found:
        vela.check_limits(300 * 1024, 100 * 1024, {"sram": "256", "flash": "100"})
    assert found.value.needs == {"sram": 300 * 1024, "flash": 100 * 1024}
    vela.check_limits(300 * 1024, 100 * 1024, {"sram": "300", "flash": "any"})


def test_advice_names_what_would_fit(captured: Captured) -> None:
    needs = {"sram": 150 * 1024, "flash": 20 * 1024}
    roomy = advice(captured.program(), needs, {"sram": 2**40, "flash": 2**40})
    assert "By estimate efficientformer" in roomy
    assert "no network" in advice(captured.program(), needs, {"flash": 1024})
