"""A whole network, converted and saved by coremltools, against the network itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from lvexport.models.mobilevit import VARIANTS, MobileViT
from lvexport.validation import mil


def sqnr_db(reference, result):
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - result.astype(np.float64)).sum())


SIZE = 32  # leaves maps of 2 × 2 and 1 × 1 pixels, and the latter has to be resized around its transformer


@pytest.fixture(scope="module")
def captured():
    """(program, images, logits in float64) of mobilevit_xxs, with running statistics other than zeros and ones."""
    torch.manual_seed(0)
    network = MobileViT(VARIANTS["mobilevit_xxs"], num_classes=10).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.rand(4, 3, SIZE, SIZE)
    with torch.no_grad():
        logits = torch.cat([network(image[None]) for image in images]).double().numpy()
    return torch.export.export(network, (images[:1],)).run_decompositions({}), images, logits


@pytest.mark.parametrize(("precision", "floor_db"), [("FLOAT32", 110), ("FLOAT16", 45)])
def test_mobilevit(ct, captured, tmp_path, precision, floor_db):
    program, images, reference = captured
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=ct.precision[precision],
            minimum_deployment_target=ct.target.iOS17,
            inputs=[ct.TensorType(name="image", shape=(1, 3, SIZE, SIZE), dtype=np.float32)],
            outputs=[ct.TensorType(name="logits", dtype=np.float32)],
            skip_model_load=True,
        )
    converted.save(str(tmp_path / "network.mlpackage"))
    model = mil.load(tmp_path / "network.mlpackage")
    assert any("bilinear" in operation.type for operation in model.operations)
    logits = np.concatenate([model.predict({"image": image[None]})["logits"] for image in images])
    assert sqnr_db(reference, logits) > floor_db
