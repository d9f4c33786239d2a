"""Trainings: cut off and resumed, on several processes, with a teacher."""
import os
import signal
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
from safetensors.torch import save_file
from torch import distributed, nn
from torch.nn import functional as F

from tests.scripts import ROOT, load_script
from tests.test_cifar10 import write_images
from util.errors import InputError
from util.train import checkpoint, data, steps
from util.train.batches import Material, batches_of, generator
from util.train.recipe import Recipe
from util.train.run import Files, Run

main = load_script("CIFAR_10/main.py")

# Sets what torchrun sets, but loads PyTorch once.
TWO_PROCESSES = """
import os, sys
from pathlib import Path
import torch._dynamo  # by an optimizer else, in each process
from tests.scripts import load_script
from tests.servers import free_port
main = load_script("CIFAR_10/main.py")
main.HERE = Path(sys.argv[1])
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
for rank in range(2):
    if not os.fork():
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        main.run(lambda: main.main(sys.argv[2:]))
        sys.exit()
sys.exit(any([os.wait()[1], os.wait()[1]]))
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


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """What a run leaves that nothing stops."""
    home = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "HERE", home)
        main.main(arguments(images))
    return torch.load(home / "models" / "resnet20.last.pth.tar", weights_only=True)


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, 4)])  # in the middle of an epoch, after its last step
def test_a_stopped_run_resumes_to_the_same_bits(home, images, whole, monkeypatch, request, number, step):
    before = signal.signal(number, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(number, before))
    last = home / "models" / "resnet20.last.pth.tar"
    with monkeypatch.context() as patch:
        add = Run.add

        def interrupt(training, *loss):
            add(training, *loss)
            if (training.epoch, training.step) == (1, step - 1):
                os.kill(os.getpid(), number)

        patch.setattr(Run, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            main.main(arguments(images))
    stopped = torch.load(last, weights_only=True)
    assert (stopped["epoch"], stopped["step"]) == (1, step)
    main.main(arguments(images, "--resume"))
    resumed = torch.load(last, weights_only=True)
    for part in ("state_dict", "ema"):
        assert all(torch.equal(whole[part][key], value) for key, value in resumed[part].items())
    assert any(not torch.equal(value, resumed["ema"][f"module.{key}"]) for key, value in resumed["state_dict"].items())
    assert [row[:2] + row[3:] for row in whole["rows"]] == [row[:2] + row[3:] for row in resumed["rows"]]  # all but seconds
    assert signal.getsignal(number) is signal.default_int_handler


@pytest.mark.parametrize("part", ["state_dict", "optimizer", "ema"])
@pytest.mark.parametrize("foreign", [{"other": torch.zeros(2)}, 3])
def test_what_does_not_fit_is_not_resumed(home, images, whole, part, foreign):
    (home / "models").mkdir()
    torch.save(whole | {part: foreign}, home / "models" / "resnet20.last.pth.tar")
    with pytest.raises(InputError, match="does not fit|holds no 'state_dict'"):
        main.main(arguments(images, "--resume"))


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda saved: saved["best"]["state_dict"].popitem(), "its best does not fit"),
    (lambda saved: saved["optimizer"]["state"][3].update(exp_avg=torch.zeros(2)), r"its optimizer does not fit \(exp_avg is \(2,\)"),
    (lambda saved: saved.update(epoch=1, step=5), "was cut off after step 5 of 4"),
])  # fmt: skip
def test_a_part_that_would_end_a_training_later_is_refused_at_its_start(home, images, whole, spoil, words):
    saved = deepcopy(whole)
    spoil(saved)
    (home / "models").mkdir()
    torch.save(saved, home / "models" / "resnet20.last.pth.tar")
    with pytest.raises(InputError, match=words):
        main.main(arguments(images, "--resume"))


def test_two_processes_take_the_step_of_the_mean_gradient(tmp_path, images):
    more = ["--batch-size", "16", "--epochs", "1", "--seed", "3"]
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path), *arguments(images, *more)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.count("epoch   1") == done.stdout.count("written: ") == 1, done.stderr[-2000:]
    found = torch.load(tmp_path / "models" / "resnet20.last.pth.tar", weights_only=True)["state_dict"]

    # The same step by hand: each half's gradient by itself, then their mean.
    args = main.parse_args(arguments(images, *more))
    torch.manual_seed(3)
    model = main.ResNet20().to(memory_format=torch.channels_last)
    bin_op = main.BinOp(model)
    x, y = main.load_data(args, train=True)
    kept, _ = main.data.hold_out(4, 20)
    order = torch.randperm(16, generator=generator(3, 1))
    grads = []
    for rank in range(2):
        batch, numbers = kept[order[rank::2]], generator(3, 1, 1, rank)
        images_of = main.data.random_mirror(main.data.random_shift(x[batch], main.recipe_for(args).shift, numbers), numbers)
        with bin_op.binarized(), torch.autocast("cpu", torch.bfloat16, enabled=steps.fast_bf16(torch.device("cpu"))):
            loss = F.cross_entropy(model.train()(main.preprocess(images_of)).float(), y[batch])
            grads.append(torch.autograd.grad(loss, list(model.parameters())))  # here: in float32 they need the binarized weights
    saved = torch.load(tmp_path / "models" / "resnet20.last.pth.tar", weights_only=True)["optimizer"]["state"]
    for i, (parameter, *halves) in enumerate(zip(model.parameters(), *grads, strict=True)):
        mean = sum(halves) / 2
        if any(parameter is weight for weight in bin_op.weights):
            continue  # their gradients go through updateBinaryGradWeight
        tolerance = 1e-7 + 1e-2 * mean.abs().max().item()  # a sign may flip
        torch.testing.assert_close(saved[i]["exp_avg"], 0.1 * mean, rtol=2e-2, atol=tolerance)
    assert all(torch.isfinite(value).all() for value in found.values() if value.is_floating_point())


def test_every_process_gets_an_image_of_every_batch():
    def batches(batch_size, processes, rank=0):
        return batches_of(21, 0, 1, Recipe(1, 0.1, batch_size), steps.Machine(torch.device("cpu"), rank=rank, processes=processes))

    shares = [batches(9, 4, rank) for rank in range(4)]
    assert all([batch.size for batch in share] == [9, 9] for share in shares)  # the last 3 are too few for 4
    indices = [batch.indices for share in shares for batch in share]
    assert min(map(len, indices)) == 2 and len(set(torch.cat(indices).tolist())) == 18
    assert sum(len(batch.indices) for batch in batches(9, 1)) == 21
    with pytest.raises(InputError, match="batches of 3 images are too small for 4 processes"):
        batches(3, 4)


def test_too_few_images_are_refused(home, images):
    with pytest.raises(InputError, match="4 training images are too few"):
        main.main(arguments(images, "--limit", "4"))


@pytest.mark.parametrize("given", [
    {"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "two", "RANK": "0"}, {"WORLD_SIZE": "2", "RANK": "5"},
    {"WORLD_SIZE": "2", "RANK": "-1"}, {"WORLD_SIZE": "0", "RANK": "0"}, {"WORLD_SIZE": "9" * 20, "RANK": "0"},
    {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "99999"}, {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "nowhere.invalid"},
    {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": ""}, {"WORLD_SIZE": "2", "RANK": "0"},
])  # fmt: skip
def test_what_torchrun_would_not_set_is_one_line(home, images, monkeypatch, capfd, given):
    monkeypatch.setattr(steps, "JOINING", timedelta(seconds=1))
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="start with torchrun, or unset it"):
        main.main(arguments(images))
    assert "c10d" not in capfd.readouterr().err


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(distributed, "rendezvous", lambda *_, **__: iter([(None, 1, 2)]))
    monkeypatch.setattr(distributed, "init_process_group", lambda backend, **_: chosen.append(backend))
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    args = main.parse_args([])
    assert steps.device_of(args) == torch.device("cuda")
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert steps.machine_for(args, bf16=False).device == torch.device("cuda:1") and chosen == [torch.device("cuda:1"), "nccl"]
    assert steps.device_of(main.parse_args(["--cpu"])) == torch.device("cpu")
    for number in ("2", "x", ""):
        monkeypatch.setenv("LOCAL_RANK", number)
        with pytest.raises(InputError, match="of 2 GPUs; start one process per GPU"):
            steps.device_of(args)


def test_a_teacher_is_listened_to(home, images, capsys):
    labels = main.load_data(main.parse_args(arguments(images)), train=True)[1]
    teacher = home / "teacher.safetensors"
    save_file({"logits": 10 * F.one_hot((labels + 1) % 10, 10).half()}, teacher)  # says the next class
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    cached = steps.load_teacher_logits(teacher, 20, 10)
    expected = 0.1 * F.cross_entropy(logits, labels)
    p, log_q = (cached / steps.TEMPERATURE).softmax(1), (logits / steps.TEMPERATURE).log_softmax(1)
    expected = expected + 0.9 * steps.TEMPERATURE**2 * (p * (p.log() - log_q)).sum(1).mean()
    torch.testing.assert_close(steps.training_loss(logits, labels, cached), expected)
    main.main(arguments(images, "--teacher", str(teacher), "--epochs", "1"))
    save_file({"other": torch.zeros(3)}, teacher)
    with pytest.raises(InputError, match="holds no logits"):
        main.main(arguments(images, "--teacher", str(teacher)))
    teacher.write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not a readable file of tensors"):
        main.main(arguments(images, "--teacher", str(teacher)))


def test_an_online_teacher_is_asked_about_what_the_network_sees(home, images, monkeypatch):
    weights = ROOT / "PyTorch_CIFAR10" / "state_dicts" / "airbench.pt"
    args = main.parse_args(arguments(images, "--teacher", str(weights)))
    machine = steps.Machine(torch.device("cpu"))
    x, y = main.load_data(args, train=True)
    x, indices = main.preprocess(x), torch.arange(20)
    teacher = main.teacher_of(args, 20, indices, machine.device)
    from PyTorch_CIFAR10 import networks

    network = networks.load("airbench").eval()
    with torch.no_grad():
        expected = network(x).log_softmax(1)
        torch.testing.assert_close(teacher.logits(x, indices), expected)
        assert teacher.online
    model = main.ResNet20().train()
    recipe = Recipe(1, 0.0, 20, optimizer=lambda model, lr: torch.optim.SGD(model.parameters(), lr))
    learner = steps.Learner(model, recipe, machine, steps.ema_of(model))
    loss = main.step_of(learner, Material(None, 20, steps.loss_for(teacher), (x, y), x, teacher))(x, x, y, indices, False)
    with torch.no_grad(), learner.bin_op.binarized():
        p, q = ((z.double() / steps.TEMPERATURE).softmax(1) for z in (expected, model(x)))
    assert loss.item() == pytest.approx(steps.TEMPERATURE**2 * (p * (p / q).log()).sum(1).mean().item(), rel=1e-4)

    shares = []
    cutmix = data.cutmix
    monkeypatch.setattr(data, "cutmix", lambda x, share, generator: shares.append(share) or cutmix(x, share, generator))
    monkeypatch.setitem(main.RECIPES, "resnet20", replace(main.RECIPES["resnet20"], cutmix=0.5))
    main.main(arguments(images, "--epochs", "1"))
    assert not shares  # labels know nothing of mixtures
    main.main(arguments(images, "--epochs", "1", "--teacher", str(weights)))
    assert shares == [0.5] * 4
    with pytest.raises(InputError, match="none.pt: no such file"):
        main.main(arguments(images, "--teacher", str(home / "none.pt")))


def test_several_teachers_are_an_ensemble(home, images):
    folder = ROOT / "CIFAR_10" / "models"
    paths = [folder / "resnet20.best.pth.tar", folder / "vgg.best.pth.tar", ROOT / "PyTorch_CIFAR10" / "state_dicts" / "airbench.pt"]
    args = main.parse_args(arguments(images, "--teacher", *map(str, paths)))
    x = main.preprocess(main.load_data(args, train=True)[0])
    with torch.no_grad():
        taught = main.teacher_of(args, 20, torch.arange(20), torch.device("cpu")).logits(x, torch.arange(20))
    logs = []
    for path, build in zip(paths, (main.ResNet20, main.VGG, None), strict=True):
        saved = checkpoint.load(path)
        if build:  # its own weights, not packed
            model = build().eval()
            model.load_state_dict(saved["state_dict"])
            main.BinOp(model).binarization()
        else:
            from PyTorch_CIFAR10 import networks

            model = networks.load("airbench").eval()
        with torch.no_grad():
            logs.append(model(x).double().softmax(1).log())
    torch.testing.assert_close(taught.double(), sum(logs) / 3, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("teachers, why", [
    (["resnet20.best.pth.tar", "vgg_clips.best.pth.tar"], "not all the same: .*resnet20.* truck, .*vgg_clips.* truck person other"),
    (["vgg_clips.best.pth.tar"], "know other classes than airplane .* truck, .*vgg_clips.best.* truck person other"),
    (["cached.safetensors", "vgg.best.pth.tar"], "cached logits teach alone; leave .*vgg.best.pth.tar out"),
])  # fmt: skip
def test_teachers_that_do_not_go_together_are_refused(home, images, teachers, why):
    paths = [str(ROOT / "CIFAR_10" / "models" / name) for name in teachers]
    with pytest.raises(InputError, match=why):
        main.main(arguments(images, "--teacher", *paths))


def test_a_teacher_that_wants_other_images_is_refused(home, images):
    saved = checkpoint.load(ROOT / "CIFAR_10" / "models" / "resnet20.best.pth.tar")
    spec = main.SPECS["resnet20"].to_dict() | {"std": [0.2023, 0.1994, 0.201]}
    checkpoint.save(home / "old.pth.tar", saved | {"spec": spec})
    with pytest.raises(InputError, match=r"old.pth.tar: has learnt from images standardised by .* and \(0.2023, .*, not .*\(0.2471, "):
        main.main(arguments(images, "--teacher", str(home / "old.pth.tar")))


@pytest.mark.parametrize("flags", [[], ["--teacher", str(ROOT / "CIFAR_10" / "models" / "vgg_clips.best.pth.tar")]])
def test_a_network_for_clips_is_not_trained_without_wild_images(home, images, flags):
    with pytest.raises(InputError, match="resnet20_clips learns people and other things from --wild DIR, which CIFAR-10 lacks"):
        main.main(arguments(images, "--arch", "resnet20_clips", *flags))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_cuda_graph_step_computes_what_the_step_does():
    total = torch.zeros((), device="cuda")

    def step(x, y, negative):
        total.add_((x * y).sum() * (-1 if negative else 1))
        return total.clone()

    graph, expected = steps.CudaGraphStep(step), 0.0
    for i in range(20):
        x, y, negative = (torch.full((2 + i % 2,), value, device="cuda") for value in (float(i), 1.0)), i >= 10
        expected += (x * y).sum().item() * (-1 if negative else 1)
        assert graph(x, y, negative).item() == expected
    assert len(graph.graphs) == 4  # two shapes, plus and minus


def test_what_a_recorded_step_depends_on_and_reads():
    a, b, c = torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(3, 2)
    assert steps.kind_of((a, True)) == steps.kind_of((b, True)) != steps.kind_of((a, False))
    assert steps.kind_of((c, True)) != steps.kind_of((a, True)) and len({steps.kind_of((a, 1)), steps.kind_of((b, 1))}) == 1
    static = [a, True, c]
    steps.copy_inputs(static, (b, True, c + 5))
    assert static[0] is a and torch.equal(a, b) and torch.equal(c, torch.full((3, 2), 5.0))


def test_the_ema_is_torchs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    ours, torchs = steps.ema_of(model), steps.ema_of(model)
    torchs.n_averaged.fill_(1)  # its first update would copy
    start = model[0].weight.detach().clone()
    values = []
    for _ in range(3):
        with torch.no_grad():
            model[0].weight.normal_()
            model(torch.randn(4, 2))
        values.append(model[0].weight.detach().clone())
        steps.update_ema(ours, model)
        torchs.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(ours.module.state_dict().values(), torchs.module.state_dict().values(), strict=True))
    d = Recipe.ema_decay
    torch.testing.assert_close(ours.module[0].weight, d**3 * start + (1 - d) * (d**2 * values[0] + d * values[1] + values[2]))
    assert torch.equal(ours.module[1].running_mean, model[1].running_mean)


def test_recalibration_measures_the_statistics_of_the_images_and_touches_no_weight(images):
    x, _ = main.load_data(main.parse_args(arguments(images)), train=True)
    model = main.NIN()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    main.recalibrate_batch_norm(model, x, torch.device("cpu"), main.BinOp(model))
    first = model.xnor[0](main.preprocess(x)).double().transpose(0, 1).flatten(1)  # what the first batch norm sees
    torch.testing.assert_close(model.xnor[1].running_mean, first.mean(1).float())
    torch.testing.assert_close(model.xnor[1].running_var, first.var(1).float())
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.momentum == 0.1 and not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean)) for norm in norms)


def test_images_grow_with_the_epochs():
    recipe = Recipe(20, 0.1, 8, sizes=((0.4, 16), (0.75, 24), (1, 32)))
    assert [recipe.size(epoch) for epoch in range(1, 21)] == [16] * 8 + [24] * 7 + [32] * 5
    x = torch.rand(3, 2, 32, 32)
    assert data.resized(x, 32) is x
    triangle = torch.tensor([1.0, 3, 3, 1]) / 8  # of the four pixels around each place, across and down
    inner = F.conv2d(x.flatten(0, 1)[:, None], torch.outer(triangle, triangle)[None, None], stride=2, padding=1).view(3, 2, 16, 16)
    torch.testing.assert_close(data.resized(x, 16)[..., 1:-1, 1:-1], inner[..., 1:-1, 1:-1])
    constant = data.resized(torch.full((1, 1, 32, 32), 0.3), 24)
    torch.testing.assert_close(constant, torch.full((1, 1, 24, 24), 0.3))


# ---- What a run keeps, and what it never costs -----------------------------------------------------------------------
def small_run(home, held_out="a", epochs=1, patience=0, **options):
    """A run of a tiny model, in `home`."""
    torch.manual_seed(0)
    recipe = Recipe(epochs, 0.1, 4, patience=patience, optimizer=lambda model, lr: torch.optim.SGD(model.parameters(), lr))
    learner = steps.Learner(nn.Linear(2, 2), recipe, steps.Machine(torch.device("cpu")))
    return learner.model, Run(Files(home, "tiny"), recipe, learner, {"arch": "tiny", "lr": 0.1}, held_out, **options)


def finished(home, accuracy, held_out="a", spoil=None):
    """The bytes of the best weights after a run that had this accuracy on those held-out images."""
    model, training = small_run(home, held_out)
    with training:
        training.add(torch.tensor(1.0), 4)
        if spoil is not None:
            nn.init.constant_(model.weight, spoil)
        training.end_epoch(accuracy, model)
        training.finish(accuracy, training.best.state_dict, main.SPECS["vgg"])
    return training.files.best.read_bytes()


def test_only_a_run_that_is_better_on_the_same_images_replaces_weights(tmp_path, capsys):
    first = finished(tmp_path, 0.5)
    assert finished(tmp_path, 0.4) == first and "(50.00 % held out) is better and stays" in capsys.readouterr().out
    assert finished(tmp_path, 0.9, held_out="b") == first and "was judged on other images and stays" in capsys.readouterr().out
    assert finished(tmp_path, 0.6) != first
    kept = checkpoint.load(tmp_path / "tiny.best.pth.tar")
    assert (kept["held_out_accuracy"], kept["held_out"], kept["settings"]["arithmetic"]) == (60, "a", "float32")
    with open(tmp_path / "tiny.log.csv") as file:
        assert file.read().splitlines() == ["epoch,lr,seconds,loss,held_out_accuracy,arithmetic", "1,0.1,0.0,1.0,0.6,float32"]


def test_what_a_run_begins_with_stays_until_an_epoch_is_better(tmp_path):
    model, training = small_run(tmp_path)
    with training:
        training.take_as_best(0.5, model)
        for accuracy, best in ((0.5, 0), (0.6, 2), (0.6, 3), (0.5, 3)):  # of two equal epochs the later one is kept
            training.add(torch.tensor(1.0), 4)
            training.end_epoch(accuracy, model)
            assert training.best.epoch == best


def test_a_run_that_ends_early_is_saved_to_its_end(tmp_path):
    model, training = small_run(tmp_path, epochs=9, patience=2)
    with training:
        while not training.over:
            training.add(torch.tensor(1.0), 4)
            training.end_epoch(0.5, model)
    assert checkpoint.load(training.files.last)["epoch"] == training.epoch == 3


@pytest.mark.parametrize("content", [b"no weights", None])
def test_a_file_of_others_is_never_replaced(tmp_path, capsys, content):
    best = tmp_path / "tiny.best.pth.tar"
    if content:
        best.write_bytes(content)
    else:
        torch.save({"best_acc": 0.1, "state_dict": nn.Linear(2, 2).state_dict()}, best)
    before = best.read_bytes()
    assert finished(tmp_path, 0.9) == before and " and stays; to keep this run's, rename " in capsys.readouterr().out


def test_weights_that_replaced_nothing_are_kept_under_another_name(home, images, whole, capsys):
    models = home / "models"
    checkpoint.save(models / "resnet20.last.pth.tar", whole)
    checkpoint.save(models / "resnet20.best.pth.tar", {"state_dict": main.ResNet20().state_dict(), "held_out": "others"})
    accuracy = main.main(arguments(images, "--resume"))
    last = models / "resnet20.last.pth.tar"
    assert f"rename {last} OTHER.last.pth.tar, and add --resume --name OTHER" in capsys.readouterr().out
    last.rename(models / "mine.last.pth.tar")
    assert main.main(arguments(images, "--resume", "--name", "mine")) == accuracy
    kept = checkpoint.load(models / "mine.best.pth.tar")["state_dict"]
    assert all(torch.equal(kept[key], value) for key, value in whole["best"]["state_dict"].items())
    assert main.main(arguments(images, "--evaluate", "--name", "mine", "--engine", "torch")) == accuracy


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_replace_nothing(tmp_path, value):
    before = finished(tmp_path, 0.5)
    with pytest.raises(InputError, match="this training's weights: weight holds NaN or infinite numbers"):
        finished(tmp_path, 0.9, spoil=value)
    assert (tmp_path / "tiny.best.pth.tar").read_bytes() == before


def test_two_runs_of_one_name_are_not_run_at_once(tmp_path, capsys):
    with small_run(tmp_path)[1]:
        with pytest.raises(InputError, match="a training called tiny is running; give this one --name"), small_run(tmp_path)[1]:
            pass
        with small_run(tmp_path / "elsewhere")[1]:
            pass
    with small_run(tmp_path)[1]:
        assert capsys.readouterr().out.count("training tiny: 1 epochs") == 3
    assert not list(tmp_path.glob(".tiny*"))


def test_a_run_resumes_on_its_own_images_only(tmp_path):
    with pytest.raises(InputError, match=r"tiny.last.pth.tar: no such file, so there is no training to resume; begin one"):
        small_run(tmp_path, resume=True)
    finished(tmp_path, 0.5)
    assert small_run(tmp_path, resume=True)[1].epoch == 1
    with pytest.raises(InputError, match="was trained on other images"):
        small_run(tmp_path, held_out="b", resume=True)


@pytest.mark.parametrize("spoilt", [
    {"settings": 3}, {"rows": [[1]]}, {"rows": 3}, {"rows": [[1, 0.1, 1.0, 0.5, "high"]]}, {"best": {"x": 1}}, {"best": 3},
    {"best": {"epoch": 1, "held_out_accuracy": "high", "state_dict": {}}}, {"epoch": "a"}, {"epoch": torch.zeros(3)},
    {"step": -5}, {"total": None},
])  # fmt: skip
def test_a_run_whose_numbers_cant_be_read_is_not_resumed(tmp_path, spoilt):
    finished(tmp_path, 0.5)
    last = tmp_path / "tiny.last.pth.tar"
    torch.save(torch.load(last, weights_only=True) | spoilt, last)
    with pytest.raises(InputError, match=r"its training can't be read \(.*\); begin anew"):
        small_run(tmp_path, resume=True)


def test_a_run_is_named(home, images):
    main.main(arguments(images, "--epochs", "1", "--name", "mine"))
    assert sorted(os.listdir(home / "models")) == [f"mine.{end}" for end in ("best.pth.tar", "curve.png", "last.pth.tar", "log.csv")]
    for wrong in ("../up", "a/b", "", ".hidden", "a" * 101):
        with pytest.raises(InputError, match="is no name of a file"):
            main.parse_args(["--name", wrong])


def test_flags_of_the_arithmetic_must_be_repeated_and_need_a_compiled_step(home, images):
    main.main(arguments(images, "--epochs", "1", "--no-bf16"))
    with pytest.raises(InputError, match="was trained with arithmetic float32, not bfloat16"):
        main.main(arguments(images, "--resume", "--bf16"))
    for flag in ("--popcount-forward", "--int8-gradients"):
        with pytest.raises(InputError, match="add --compile"):
            main.main(arguments(images, flag))


def test_a_compiled_step_needs_a_compiler(home, images, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-c++")
    with pytest.raises(InputError, match=r"--compile needs a C\+\+ compiler, and there is no no-such-c\+\+; install it"):
        main.main(arguments(images, "--compile"))


def test_an_optimizer_keeps_its_own_options():
    saved = torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=0.5, betas=(0.9, 0.9), fused=False)
    optimizer = steps.portable(torch.optim.Adam([nn.Parameter(torch.ones(2))], lr=0.1, betas=(0.9, 0.99), fused=True))
    optimizer.load_state_dict(saved.state_dict())
    (group,) = optimizer.param_groups
    assert group["fused"] and group["lr"] == 0.1 and group["betas"] == (0.9, 0.99)
