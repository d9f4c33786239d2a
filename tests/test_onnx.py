"""--export FILE.onnx: the same network for onnxruntime and OpenCV, against PyTorch on 100 images."""
import json
import sys

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from tests.scripts import ROOT, load_script
from util.binop import BinOp
from util.errors import InputError
from util.packed.onnx import export
from util.spec import Spec
from util.train import checkpoint, data

cifar, mnist = load_script("CIFAR_10/main.py"), load_script("MNIST/main.py")
SHIPPED = [(cifar, cifar.SPECS[name]) for name in ("nin", "nin_bwn", "resnet20", "vgg")] + [(mnist, mnist.SPEC)]


def images_of(shape, count):
    """Smooth pictures and noise, uint8 (count, *shape)."""
    rng = np.random.default_rng(0)
    made = [cv2.resize(rng.uniform(0, 255, (side, side, shape[0])), shape[:0:-1], interpolation=cv2.INTER_LINEAR) for side in
            rng.choice([2, 3, 5, 9, 32], count)]  # fmt: skip
    return torch.from_numpy(np.stack(made).reshape(count, *shape[1:], shape[0]).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize(("script", "spec"), SHIPPED, ids=[spec.arch for _, spec in SHIPPED])
def test_onnxruntime_and_opencv_compute_what_pytorch_does(tmp_path, script, spec):
    model = script.MODELS[spec.arch]().eval()
    checkpoint.load_into(model, script.HERE / "models" / f"{spec.arch}.best.pth.tar", spec.arch)
    file = tmp_path / "a" / "net.onnx"
    assert export(model, spec, file) == file.stat().st_size
    x = data.normalize(images_of(spec.shape, 100), spec.mean, spec.std)
    BinOp(model).binarization()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = model(x).numpy()
    found = session.run(["logits"], {"images": x.numpy()})[0]
    # Sums that round otherwise turn a few signs where a value lies at 0, and with them what comes after.
    away = np.abs(found - expected).max(1)
    assert np.median(away) < 0.01 and (found.argmax(1) == expected.argmax(1)).mean() >= 0.99
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(spec.classes) and json.loads(facts["mean"]) == list(spec.mean)
    assert Spec.from_dict(json.loads(facts["spec"])) == spec
    network = cv2.dnn.readNetFromONNX(str(file))
    network.setInput(x[:8].numpy())
    assert np.abs(network.forward() - found[:8]).max(1).min() < 0.01


def test_zero_is_plus_one_and_weights_are_alpha(tmp_path):
    import onnx

    model = mnist.LeNet5(classes=3).eval()
    spec = Spec("LeNet_5", ("a", "b", "ü"), (1, 28, 28), (0.5,), (0.5,), "digit")
    export(model, spec, tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in proto.graph.initializer}
    pairs = zip(proto.graph.node, proto.graph.node[1:], strict=False)
    binary = [node for before, node in pairs if (before.op_type, node.op_type) == ("Sign", "Conv")]
    assert len(binary) == 2 and all(len(np.unique(np.abs(f))) == 1 for node in binary for f in constants[node.input[1]])
    signs = [node for node in proto.graph.node if node.op_type == "Sign"]
    made = onnx.helper.make_graph(proto.graph.node[list(proto.graph.node).index(signs[0]) :][:3], "signs", [
        onnx.helper.make_tensor_value_info(signs[0].input[0], 1, [4])], [onnx.helper.make_tensor_value_info(signs[1].output[0], 1, [4])],
        proto.graph.initializer)  # fmt: skip
    only = onnx.helper.make_model(made, opset_imports=proto.opset_import, ir_version=8)
    session = onnxruntime.InferenceSession(only.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.float32([0.0, -0.0, 1e-30, -1e-30])
    assert session.run(None, {signs[0].input[0]: values})[0].tolist() == [1, 1, 1, -1]


def test_the_script_writes_it_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    arguments = ["--cpu", "--arch", "resnet20", "--evaluate", "--limit", "10", "--data", str(ROOT / "CIFAR_10" / "data"), "--export"]
    weights = ["--pretrained", str(ROOT / "CIFAR_10" / "models" / "resnet20.xnor")]
    with pytest.raises(InputError, match="of which ONNX can't be made"):
        cifar.main([*weights, *arguments, str(tmp_path / "a.onnx")])
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="pip install onnx"):
        cifar.main([*arguments, str(tmp_path / "a.onnx")])
    assert not list(tmp_path.iterdir())
