"""The layer that ends a network, where a training on other classes begins: fitted by itself, on a body that stays as it is."""
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from util.spec import OTHER, Spec
from util.train import checkpoint

IMAGES, DECAY = 4096, 1e-3  # that the head is fitted on; weight of its squares
TAUGHT = 0.5  # share of the earlier network's answers in what it is fitted to; half never outvotes a label


def head_of(model: nn.Module) -> nn.Linear | None:
    """Return the linear layer that ends the model; None if another does (nin's head is followed by a ReLU and a mean)."""
    last = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
    return last if isinstance(last, nn.Linear) else None


def class_mapping(earlier: Spec, classes: Sequence[str]) -> list[int]:
    """Return the place in `classes` of what each class of an earlier network is called there, or -1.

    That is its own name, else that of its kind (an automobile is a vehicle), else `other`.
    """
    kind = {name: kind for kind, names in earlier.kinds.items() for name in names}
    return [next((classes.index(n) for n in (name, kind.get(name), OTHER) if n in classes), -1) for name in earlier.classes]


def soft_targets(path: Path, specs: Mapping[str, Spec], spec: Spec, model: nn.Module) -> Callable[..., torch.Tensor] | None:
    """Return what gives the soft targets of the network at `path`: (inputs of its head (N, F), labels (N,)) -> (N, classes of `spec`).

    Where it doesn't know the label, the target is the label. None if it knows fewer than two of the classes. specs: arch -> the spec of
    files that hold none. model: has the layers that the file has.
    """
    saved, head = checkpoint.load(path), head_of(model)
    earlier = checkpoint.spec_of(saved, path, specs.get(saved.get("arch"), specs[spec.arch]))
    of = torch.tensor(class_mapping(earlier, spec.classes))
    known = sorted(set(of.tolist()) - {-1})
    names = {name.casefold(): name for name in (*earlier.classes, *earlier.kinds)}
    for name in spec.classes:
        if name != (known_as := names.get(name.casefold(), name)):
            print(f"{path}: knows no {name!r}, which is learnt from labels alone; call it {known_as!r} if it means the same", flush=True)
    if head is None or len(known) < 2:
        return None
    name = next(name for name, module in model.named_modules() if module is head)
    means = F.one_hot(of[of >= 0], len(spec.classes)).to(head.weight)
    weight, bias = (saved["state_dict"][f"{name}.{part}"][of >= 0].to(head.weight) for part in ("weight", "bias"))
    log_prior = torch.from_numpy(earlier.log_prior()[(of >= 0).numpy()]).to(bias)
    print(f"{path}: teaches the head what it knows of {' '.join(spec.classes[i] for i in known)}", flush=True)

    def targets(x, labels):
        p = ((x @ weight.T + bias) / earlier.temperature + log_prior).softmax(1) @ means
        knows = torch.isin(labels, torch.tensor(known, device=labels.device))
        return torch.where(knows[:, None], p, F.one_hot(labels, p.shape[1]).to(p))

    return targets


def fit_head(
    model: nn.Module, preprocess: Callable, own_images, device: torch.device, earlier: Callable[..., torch.Tensor] | None = None
) -> None:
    """Put the linear layer that ends `model` where it is best for the body as it is, by crops that `own_images` (own.OwnImages) makes.

    Fine-tuning, if any, then begins with a head that knows the classes, and leaves the body what it knows of others (LP-FT: Kumar et al.
    2022, arXiv:2202.10054). earlier: `soft_targets`, which are mixed in by TAUGHT, as few tracks show less of a class than the network had
    learnt from (learning without forgetting: Li and Hoiem 2016, arXiv:1606.09282). The network must be in evaluation mode and have its
    binarized weights. preprocess: from uint8 images to what it takes.
    """
    head = head_of(model)
    if head is None:
        return
    found, labels = [], []
    hook = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].float()))
    with torch.no_grad():
        for i in range(max(1, IMAGES // own_images.batch_size)):
            images, of, _ = own_images.batch(1, i)
            model(preprocess(images.to(device)))
            labels.append(of.to(device))
    hook.remove()
    x, y = torch.cat(found), torch.cat(labels)
    wanted = F.one_hot(y, head.out_features).to(x)
    if earlier:
        wanted = (1 - TAUGHT) * wanted + TAUGHT * earlier(x, y)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(head(x), wanted, label_smoothing=own_images.smoothing) + DECAY * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
