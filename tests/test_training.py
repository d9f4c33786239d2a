"""Trainings: cut off and resumed, on several processes, with a teacher."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from tests.scripts import ROOT, load_script
from tests.test_cifar10 import write_images
from util.cli import InputError
from util.train import data, steps
from util.train.run import Log

main = load_script("CIFAR_10/main.py")

DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.scripts import load_script
main = load_script("CIFAR_10/main.py")
main.HERE = Path({home!r})
main.run(lambda: main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 2)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "HERE", tmp_path)
    return tmp_path


def arguments(images, *more):
    return ["--cpu", "--arch", "resnet20", "--data", str(images), "--batch-size", "4", "--epochs", "2", *more]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_in_mid_epoch_resumes_to_the_same_bits(home, images, monkeypatch, number):
    main.main(arguments(images))
    last = home / "models" / "resnet20.last.pth.tar"
    whole = torch.load(last, weights_only=True)
    shutil.rmtree(home / "models")
    with monkeypatch.context() as patch:
        add = Log.add

        def interrupt(log, *loss):
            add(log, *loss)
            if (log.epoch, log.step) == (1, 1):
                os.kill(os.getpid(), number)

        patch.setattr(Log, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main.main(arguments(images))
    stopped = torch.load(last, weights_only=True)
    assert (stopped["epoch"], stopped["step"]) == (1, 2)
    main.main(arguments(images, "--resume"))
    resumed = torch.load(last, weights_only=True)
    for part in ("state_dict", "average"):
        assert all(torch.equal(whole[part][key], value) for key, value in resumed[part].items())
    assert any(not torch.equal(value, resumed["average"][key]) for key, value in resumed["state_dict"].items())
    assert [row[3:] for row in whole["rows"]] == [row[3:] for row in resumed["rows"]]  # loss and accuracy; seconds differ
    assert signal.getsignal(number) is not None and not isinstance(getattr(signal.getsignal(number), "__self__", None), Log)


@pytest.mark.parametrize("part", ["state_dict", "optimizer", "average"])
@pytest.mark.parametrize("foreign", [{"other": torch.zeros(2)}, 3])
def test_what_does_not_fit_is_not_resumed(home, images, part, foreign):
    main.main(arguments(images, "--epochs", "1"))
    last = home / "models" / "resnet20.last.pth.tar"
    saved = torch.load(last, weights_only=True)
    torch.save(saved | {part: foreign}, last)
    with pytest.raises(InputError, match="does not fit|holds no 'state_dict'"):
        main.main(arguments(images, "--resume"))


def test_two_processes_take_the_step_of_the_mean_gradient(tmp_path, images):
    (tmp_path / "driver.py").write_text(DRIVER.format(root=str(ROOT), home=str(tmp_path)))
    more = ["--batch-size", "16", "--epochs", "1", "--seed", "3"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(tmp_path / "driver.py"), *arguments(images, *more)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("epoch   1") == done.stdout.count("written: ") == 1, done.stderr[-2000:]
    found = torch.load(tmp_path / "models" / "resnet20.last.pth.tar", weights_only=True)["state_dict"]

    # The same step by hand: each half's gradient by itself, then their mean.
    args = main.parse_args(arguments(images, *more))
    args.rank, args.processes, args.bf16 = 0, 1, steps.fast_bf16(torch.device("cpu"))
    torch.manual_seed(3)
    model = main.ResNet20().to(memory_format=torch.channels_last)
    bin_op = main.BinOp(model)
    x, y = main.load_data(args, train=True)
    kept, _ = main.data.hold_out(4, 20)
    order = torch.randperm(16, generator=steps.generator(3, 1))
    grads = []
    for rank in range(2):
        batch, generator = kept[order[rank::2]], steps.generator(3, 1, 1, rank)
        images_of = main.data.random_mirror(main.data.random_shift(x[batch], args.shift, generator), generator)
        with bin_op.binarized(), torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = F.cross_entropy(model.train()(main.preprocess(images_of)).float(), y[batch])
        grads.append(torch.autograd.grad(loss, list(model.parameters())))
    assert len(grads) == 2
    saved = torch.load(tmp_path / "models" / "resnet20.last.pth.tar", weights_only=True)["optimizer"]["state"]
    for i, (parameter, *halves) in enumerate(zip(model.parameters(), *grads, strict=True)):
        mean = sum(halves) / 2
        if any(parameter is weight for weight in bin_op.weights):
            continue  # their gradients go through updateBinaryGradWeight
        torch.testing.assert_close(saved[i]["exp_avg"], 0.1 * mean, rtol=2e-2, atol=2e-3 * mean.abs().max().item())
    assert all(torch.isfinite(value).all() for value in found.values() if value.is_floating_point())


def test_a_teacher_is_listened_to(home, images, capsys):
    labels = main.load_data(main.parse_args(arguments(images)), train=True)[1]
    teacher = home / "teacher.safetensors"
    save_file({"logits": 10 * F.one_hot((labels + 1) % 10, 10).half()}, teacher)  # says the next class
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    taught = steps.load_answers(teacher, 20, 10)
    expected = 0.1 * F.cross_entropy(logits, labels)
    p, log_q = (taught / steps.HEAT).softmax(1), (logits / steps.HEAT).log_softmax(1)
    expected = expected + 0.9 * steps.HEAT**2 * (p * (p.log() - log_q)).sum(1).mean()
    torch.testing.assert_close(steps.loss_of(logits, labels, taught), expected)
    main.main(arguments(images, "--teacher", str(teacher), "--epochs", "1"))
    save_file({"other": torch.zeros(3)}, teacher)
    with pytest.raises(InputError, match="holds no logits"):
        main.main(arguments(images, "--teacher", str(teacher)))
    teacher.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a readable file of tensors"):
        main.main(arguments(images, "--teacher", str(teacher)))


def test_a_teacher_that_sees_what_the_pupil_sees(home, images, monkeypatch):
    weights = ROOT / "PyTorch_CIFAR10" / "state_dicts" / "airbench.pt"
    args = main.parse_args(arguments(images, "--teacher", str(weights)))
    device = torch.device("cpu")
    args.bf16, args.rank, args.processes = False, 0, 1
    x, y = main.load_data(args, train=True)
    x, batch = main.preprocess(x), torch.arange(20)
    teach, sees = main.teacher_of(args, 20, batch, device)
    from PyTorch_CIFAR10 import networks

    teacher = networks.load("airbench").eval()
    with torch.no_grad():
        taught = teacher(x)
        torch.testing.assert_close(teach(x, batch), taught)
        assert sees
    model = main.ResNet20().train()
    bin_op = main.BinOp(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    log = Log(home, "resnet20", args, model, optimizer, steps.running_average(model))
    loss = main.step_of(model, model, teach, sees, log, args, device, bin_op)(x, x, y, batch, False)
    with torch.no_grad(), bin_op.binarized():
        p, q = ((z.double() / steps.HEAT).softmax(1) for z in (taught, model(x)))
    assert loss.item() == pytest.approx(steps.HEAT**2 * (p * (p / q).log()).sum(1).mean().item(), rel=1e-4)

    shares = []
    mix = data.random_mix
    monkeypatch.setattr(data, "random_mix", lambda x, share, generator: shares.append(share) or mix(x, share, generator))
    monkeypatch.setitem(main.RECIPES, "resnet20", main.RECIPES["resnet20"] | {"mix": 0.5})
    main.main(arguments(images, "--epochs", "1"))
    assert not shares  # labels know nothing of mixtures
    main.main(arguments(images, "--epochs", "1", "--teacher", str(weights)))
    assert shares == [0.5] * 4
    for file, why in [("none.pt", "no such file"), ("models/resnet20.best.pth.tar", "holds resnet20, expected one of PyTorch_CIFAR10")]:
        with pytest.raises(InputError, match=why):
            main.main(arguments(images, "--teacher", str(home / file)))


def test_a_recorded_step_is_replayed_with_new_inputs_and_recorded_anew_for_another_kind(monkeypatch):
    class Stream:
        def wait_stream(self, other):
            pass

    class Graph:
        def replay(self):
            self.work()

    @contextlib.contextmanager
    def graph(into, stream):
        nonlocal recording
        recording = into
        yield
        recording = None

    fakes = {"Stream": Stream, "current_stream": Stream, "stream": contextlib.nullcontext, "CUDAGraph": Graph, "graph": graph}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    recording, total, calls = None, torch.zeros(()), 0

    def step(x, y, negative):
        nonlocal calls
        calls += 1
        result = torch.zeros(())

        def work():
            total.add_((x * y).sum() * (-1 if negative else 1))
            result.copy_(total)

        if recording:
            recording.work = work
        else:
            work()
        return result

    recorded, expected, results = steps.Recorded(step), 0.0, []
    for i in range(20):
        x, y, negative = torch.full((2 + i % 2,), float(i)), torch.ones(2 + i % 2), i >= 10
        results.append(recorded(x, y, negative))
        expected += (x * y).sum().item() * (-1 if negative else 1)
        assert results[-1].item() == total.item() == expected
    assert calls == 4 * (steps.Recorded.FIRST + 1)  # two shapes, plus and minus; the rest was replayed
    assert results[8].item() != results[18].item()  # each keeps its own


def test_the_running_average_is_one():
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, 1.0)
    average, expected = steps.running_average(model), 1.0
    for value in (2.0, 5.0):
        nn.init.constant_(model.weight, value)
        steps.follow(average, model)
        expected = steps.DECAY * expected + (1 - steps.DECAY) * value
    torch.testing.assert_close(average.weight, torch.full((1, 2), expected))


def test_settling_measures_the_statistics_of_the_images_and_touches_no_weight(images):
    x, _ = main.load_data(main.parse_args(arguments(images)), train=True)
    model = main.NIN()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    main.settle(model, x, torch.device("cpu"), main.BinOp(model))
    first = model.xnor[0](main.preprocess(x)).double().transpose(0, 1).flatten(1)  # what the first batch norm sees
    torch.testing.assert_close(model.xnor[1].running_mean, first.mean(1).float())
    torch.testing.assert_close(model.xnor[1].running_var, first.var(1).float())
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 and not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean)) for norm in norms)


def test_images_grow_with_the_epochs():
    sizes = [(0.4, 16), (0.75, 24), (1, 32)]
    assert [steps.image_size(sizes, epoch / 20) for epoch in range(1, 21)] == [16] * 8 + [24] * 7 + [32] * 5
    x = torch.rand(3, 2, 32, 32)
    assert data.resized(x, 32) is x
    triangle = torch.tensor([1.0, 3, 3, 1]) / 8  # of the four pixels around each place, across and down
    inner = F.conv2d(x.flatten(0, 1)[:, None], torch.outer(triangle, triangle)[None, None], stride=2, padding=1).view(3, 2, 16, 16)
    torch.testing.assert_close(data.resized(x, 16)[..., 1:-1, 1:-1], inner[..., 1:-1, 1:-1])
    constant = data.resized(torch.full((1, 1, 32, 32), 0.3), 24)
    torch.testing.assert_close(constant, torch.full((1, 1, 24, 24), 0.3))
