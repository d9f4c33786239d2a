"""A trained PyTorch model as an ONNX file, for onnxruntime, OpenCV and others: weights of binarized layers as +-alpha, signs as operators.

The input, "images", is float32 (N, C, H, W), standardised: (pixels / 255 - mean) / std per channel. The output, "logits", is float32
(N, classes). The file's metadata hold classes, mean, std, as JSON, and all of the Spec.
"""
import json
from pathlib import Path

import numpy as np
from torch import nn

from util.errors import InputError
from util.files import atomic_write
from util.packed.fold import shape_after
from util.packed.trace import Affine, Convolution, NotAChainError, Pool, Rectifier, Shortcut, chain, pieces_of
from util.spec import Spec

OPSET = 13  # of 2020: old runtimes read it


def export(model: nn.Module, spec: Spec, path: Path) -> int:
    """Return the size in bytes of the file written to `path`: what `model`, which holds latent weights, computes in evaluation mode.

    Raises InputError where the onnx package is missing, NotAChainError for a model that is more than a chain of layers with shortcuts.
    """
    try:
        import onnx
    except ImportError as error:
        raise InputError(f"{path}: writing ONNX needs the onnx package; pip install onnx") from error
    graph = _Graph(onnx, spec.shape)
    for layer in chain(model):
        graph.add(layer)
    logits = graph.reshaped(len(spec.classes))
    shape = [["N", *spec.shape], ["N", len(spec.classes)]]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, s) for name, s in zip(("images", logits), shape, strict=True)]
    made = onnx.helper.make_graph(graph.nodes, spec.arch, ends[:1], ends[1:], graph.constants)
    proto = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8, producer_name="BinOp")
    facts = {"classes": list(spec.classes), "mean": list(spec.mean), "std": list(spec.std), "spec": spec.to_dict()}
    onnx.helper.set_model_props(proto, {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()})
    onnx.checker.check_model(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content := proto.SerializeToString())
    return len(content)


class _Graph:
    """Nodes and constants so far; `now` is the name of what the last node gives, `shape` its (channels, height, width)."""

    def __init__(self, onnx, shape: tuple[int, int, int]):
        self.onnx, self.nodes, self.constants = onnx, [], []
        self.now, self.shape, self.after = "images", tuple(shape), [("images", tuple(shape))]  # after so many layers

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes) -> None:
        output = output or f"x{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], **attributes))
        self.now = output

    def per_channel(self, values: np.ndarray) -> str:
        return self.constant(np.broadcast_to(values, self.shape[0]).astype(np.float32).reshape(1, -1, 1, 1))

    def add(self, layer: nn.Module | Shortcut) -> None:
        if isinstance(layer, Shortcut):
            self.shortcut(layer)
        else:
            pieces = pieces_of(layer, self.shape)
            while pieces:
                piece = pieces.pop(0)
                if isinstance(piece, Convolution):
                    scale = pieces.pop(0) if pieces and isinstance(pieces[0], Affine) else Affine(np.ones(1), np.zeros(1))
                    self.convolution(piece, scale)
                elif isinstance(piece, Affine):
                    self.node("Mul", self.now, self.per_channel(piece.scale))
                    self.node("Add", self.now, self.per_channel(piece.shift))
                elif isinstance(piece, Rectifier):
                    self.node("PRelu", self.now, self.slopes(piece.slope)) if piece.slope.any() else self.node("Relu", self.now)
                else:
                    self.pool(piece)
        self.after.append((self.now, self.shape))

    def slopes(self, values: np.ndarray) -> str:
        return self.constant(np.broadcast_to(values, self.shape[0]).astype(np.float32).reshape(-1, 1, 1))

    def convolution(self, piece: Convolution, after: Affine) -> None:
        """A convolution, its weights times what scales its sums; of the input's signs if it is binary: sign(sign(x) + 1/2), so 0 is +1."""
        if piece.binary:
            self.node("Sign", self.now)
            self.node("Add", self.now, self.constant(np.float32([0.5])))
            self.node("Sign", self.now)
        outputs, _, high, wide = piece.weight.shape
        weight = (piece.weight * np.broadcast_to(after.scale, outputs).reshape(-1, 1, 1, 1)).astype(np.float32)
        bias = np.broadcast_to(after.shift, outputs).astype(np.float32)
        window = {"kernel_shape": [high, wide], "strides": [piece.stride] * 2, "pads": [piece.padding] * 4}
        self.node("Conv", self.now, self.constant(weight), self.constant(bias), **window)
        self.shape = shape_after(piece, self.shape)

    def pool(self, piece: Pool) -> None:
        window = {"kernel_shape": [piece.size] * 2, "strides": [piece.stride] * 2, "pads": [piece.padding] * 4}
        average = {"count_include_pad": 1} if piece.kind == "average" else {}
        self.node("AveragePool" if average else "MaxPool", self.now, **window, **average)
        self.shape = shape_after(piece, self.shape)

    def shortcut(self, layer: Shortcut) -> None:
        here, shape = self.now, self.shape
        self.now, self.shape = self.after[layer.source]
        if layer.size > 1:
            self.pool(Pool("average", layer.size, layer.size, 0))
        if shape[0] != self.shape[0]:
            self.node("Concat", *[self.now] * (shape[0] // self.shape[0]), axis=1)
        self.node("Add", here, self.now)
        self.shape = shape

    def reshaped(self, classes: int) -> str:
        if self.shape != (classes, 1, 1):
            raise NotAChainError(f"the network ends in {self.shape}; expected {classes} logits")
        self.node("Flatten", self.now, output="logits", axis=1)
        return self.now
