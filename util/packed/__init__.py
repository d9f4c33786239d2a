"""Networks on packed bits, without PyTorch.

    from util import packed
    network = packed.load("CIFAR_10/models/vgg.xnor")
    logits = network(images)                             # uint8 (N, 3, 32, 32), RGB -> float32 (N, 10)
    network.spec.classes                                 # and all else that a clip needs to know of it

run.py runs them, file.py reads and writes them. freeze.py makes them of PyTorch's: trace.py takes a model apart, fold.py makes steps of it.
"""
from util.packed.file import is_packed, load, save
from util.packed.run import Engine, PackedNetwork, built, kernels, peak

__all__ = ["Engine", "PackedNetwork", "built", "is_packed", "kernels", "load", "peak", "save"]
