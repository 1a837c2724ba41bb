"""From what was captured to the manifest's description of it, and back."""

from __future__ import annotations

import lvexport
from lvexport.converters.contract import Normalisation, TensorSpec
from lvexport.inputs import normalisation
from lvexport.jobs import Capture
from lvexport.manifest import InputInfo, Manifest, ModelInfo, Resize, TensorInfo, WeightsInfo
from lvexport.plan import Plan, tools
from lvexport.source import Source


def describe_original(plan: Plan, capture: Capture) -> Manifest:
    """A manifest without artifacts."""
    source = capture.source
    return Manifest(
        lvexport=lvexport.__version__,
        model=describe_model(source, capture),
        input=describe_input(source, capture.inputs),
        inputs=tuple(map(tensor_info, capture.inputs)),
        outputs=tuple(map(tensor_info, capture.outputs)),
        labels=source.labels or None,
        tools=tools(plan.cells),
        golden=None,
        artifacts=(),
    )


def describe_model(source: Source, capture: Capture) -> ModelInfo:
    weights = WeightsInfo(
        kind=source.weights.kind,  # type: ignore[arg-type]
        sha256=source.weights_digest or capture.state_digest,
        path=source.weights.path.name if source.weights.path else None,
        layout=source.layout,
        repo=source.weights.repo,
        revision=source.weights.revision,
    )
    return ModelInfo(
        name=source.name,
        source=origin(source),
        parameters=capture.cost.parameters,
        macs=capture.cost.macs,
        traffic_bytes=capture.cost.traffic_bytes,
        depth=capture.depth,
        weights=weights,
    )


def origin(source: Source) -> str:
    """Where the model came from, without the folders of this machine."""
    if source.kind in ("registry", "factory", "timm") or source.weights.repo is not None:
        return source.spec
    return ("hf:" if source.kind == "hf" else "") + source.spec.rpartition("/")[2]


def describe_input(source: Source, specs: tuple[TensorSpec, ...]) -> InputInfo:
    norm, p = normalisation(source, specs), source.preprocessing
    return InputInfo(
        shape=specs[0].shape,
        layout="NCHW" if len(specs[0].shape) == 4 else None,
        dtype=specs[0].dtype,
        mean=norm.mean if norm else None,
        std=norm.std if norm else None,
        channels=norm.channels if norm else None,
        resize=Resize(imgsz=specs[0].shape[-1], interpolation=p.interpolation, crop_pct=p.crop_pct) if norm else None,
    )


def tensor_info(spec: TensorSpec) -> TensorInfo:
    return TensorInfo(name=spec.name, shape=spec.shape, dtype=spec.dtype)


def tensor_specs(infos: tuple[TensorInfo, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(i.name, i.shape, i.dtype) for i in infos)


def manifest_normalisation(manifest: Manifest) -> Normalisation | None:
    """How the manifest's pictures become its input."""
    described = manifest.input
    if described.mean is None or described.std is None:
        return None
    return Normalisation(described.mean, described.std, described.channels or "RGB")


def same_original(a: Manifest, b: Manifest) -> bool:
    """Whether two manifests describe one network with one set of numbers, fed alike."""

    def identity(m: Manifest) -> tuple[object, ...]:
        return m.model.name, m.model.weights, m.model.parameters, m.input, m.inputs, m.outputs, m.labels

    return identity(a) == identity(b)
