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


@pytest.fixture(scope="module")
def network():
    """mobilevit_xxs with running statistics as training leaves them: not zeros and ones."""
    torch.manual_seed(0)
    network = MobileViT(VARIANTS["mobilevit_xxs"], num_classes=10).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


# 32 pixels a side leave maps of 1 × 1 and 2 × 2, one of which has to be resized around its transformer.
@pytest.mark.parametrize(("precision", "size", "floor_db"), [("FLOAT32", 32, 110), ("FLOAT16", 32, 45)])
def test_mobilevit(ct, network, tmp_path, precision, size, floor_db):
    images = torch.rand(4, 3, size, size)
    with torch.no_grad():
        reference = torch.cat([network(image[None]) for image in images]).double().numpy()
    program = torch.export.export(network, (images[:1],)).run_decompositions({})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=ct.precision[precision],
            minimum_deployment_target=ct.target.iOS17,
            inputs=[ct.TensorType(name="image", shape=(1, 3, size, size), dtype=np.float32)],
            outputs=[ct.TensorType(name="logits", dtype=np.float32)],
            skip_model_load=True,
        )
    converted.save(str(tmp_path / "network.mlpackage"))
    model = mil.load(tmp_path / "network.mlpackage")
    assert any("bilinear" in operation.type for operation in model.operations)
    logits = np.concatenate([model.predict({"image": image[None]})["logits"] for image in images])
    assert sqnr_db(reference, logits) > floor_db
