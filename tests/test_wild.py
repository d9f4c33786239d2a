"""Images as crops of a clip show them, and the batches that a network for clips learns from."""
import numpy as np
import pytest
import torch
from PIL import Image

from util.errors import InputError
from util.spec import Spec
from util.train import augment, steps, wild
from util.train.batches import Batch

MEAN = (0.5, 0.5, 0.5)
CLASSES = ("cat", "dog", "person", "other")
SPEC = Spec("made_clips", CLASSES, (3, 32, 32), MEAN, (0.25,) * 3)


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A folder as --wild reads it: 20 cats and dogs, 10 pedestrian windows, 12 foreign sources, and two that show people."""
    foreign = [*(f"thing{i:02d}" for i in range(12)), "kimono", "apron"]
    sources = {"cat": ["tabby"], "dog": ["poodle"], "person": ["people"], "other": foreign}
    for name, kinds in sources.items():
        (tmp_path / name).mkdir()
        for source in kinds:
            for i, image in enumerate(noise(20 if name in ("cat", "dog") else 10)):
                Image.fromarray(image).save(tmp_path / name / f"{source}_{i:05d}.png")
    return tmp_path


def mixture_of(folder, batch_size):
    photographs = torch.from_numpy(noise(50, seed=1)).permute(0, 3, 1, 2).contiguous()
    return wild.WildMixture(photographs, torch.arange(50) % 2, folder, SPEC, batch_size, torch.device("cpu"))


@pytest.fixture
def mixture(folder):
    return mixture_of(folder, 64)


@pytest.mark.parametrize("kind", [augment.PHOTOGRAPH, augment.WINDOW, augment.FOREIGN])
def test_crops_are_fixed_by_the_generator(kind):
    images = noise(8)
    crops = [augment.as_crops(images, [kind] * 8, 32, MEAN, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert crops[0].shape == (8, 32, 32, 3) and crops[0].dtype == np.uint8
    assert (crops[0] == crops[1]).all() and (crops[0] != crops[2]).any()


def test_looks_have_a_hull_around_their_middle():
    looks = [augment.as_crop(image, augment.PHOTOGRAPH, np.random.default_rng(i)) for i, image in enumerate(noise(50))]
    assert all(look.ndim == 3 and look.shape[0] == look.shape[1] and look.shape[2] == 4 for look in looks)
    assert np.mean([look[len(look) // 2, len(look) // 2, 3] == 255 for look in looks]) > 0.9
    assert 0.5 < np.mean([(look[..., 3] == 255).mean() for look in looks]) < 0.95


def test_the_person_is_cut_out_of_a_window():
    image = np.zeros((32, 32, 3), np.uint8)
    image[3:29, 11:21] = 255  # where the person stands
    windows, photographs = ([augment._cut(image, kind, 32, np.random.default_rng(i), tight=True).mean() for i in range(60)]
                            for kind in (augment.WINDOW, augment.PHOTOGRAPH))  # fmt: skip
    assert np.mean(windows) > 1.5 * np.mean(photographs)


def test_grounds_differ():
    grounds = augment.grounds(10, 32, np.random.default_rng(0))
    assert grounds.shape == (10, 32, 32, 3) and len({ground.tobytes() for ground in grounds}) == 10


def test_what_shows_people_is_a_person_and_what_may_is_left_out(folder):
    images, labels, sources = wild.load(folder, list(CLASSES), 32)
    assert images.shape == (20 + 20 + 10 + 120 + 10, 3, 32, 32) and "apron" not in sources
    assert set(sources[labels.numpy() == 2]) == {"people", "kimono"}


def test_whole_foreign_sources_are_kept_out(folder):
    _, labels, sources = wild.load(folder, list(CLASSES), 32)
    train, held = wild.split(labels, sources, other=3)
    assert not set(train.tolist()) & set(held.tolist()) and len(train) + len(held) == len(labels)
    foreign = labels.numpy() == 3
    assert not set(sources[train][foreign[train]]) & set(sources[held][foreign[held]])
    assert [(labels[held] == k).sum().item() for k in range(4)] == [2, 2, 2, 20]


def test_a_batch_is_fixed_by_its_numbers_and_complete(mixture):
    images, labels, indices = mixture.batch(1, 2, 3)
    again, _, _ = mixture.batch(1, 2, 3)
    assert images.shape == (64, 3, 32, 32) and len(labels) == 64 and (images == again).all()
    assert (labels[: len(indices)] == indices % 2).all() and {2, 3} <= set(labels[len(indices) :].tolist())
    held = {wild._first_channel(mixture.images[i : i + 1])[0].numpy().tobytes() for i in mixture.held_out}
    assert not held & {image.numpy().tobytes() for image in images}


def test_a_batch_is_as_large_as_asked_for_or_refused(folder):
    for size in range(wild.WildMixture.SMALLEST, 40):
        assert len(mixture_of(folder, size).batch(1)[0]) == size
    with pytest.raises(InputError, match="a batch of 14 images .* give 15 or more"):
        mixture_of(folder, wild.WildMixture.SMALLEST - 1)


def test_each_process_draws_another_batch(mixture):
    draw = [mixture.batch_of(Batch(1, 2, 9, 3, 4, rank, torch.arange(0), 64))[0] for rank in (0, 0, 1)]
    assert (draw[0] == draw[1]).all() and (draw[0] != draw[2]).any() and (draw[0] == mixture.batch(1, 2, 3)[0]).all()
    assert steps.Machine(torch.device("cpu"), rank=1, processes=3).share(64) == 21


@pytest.mark.parametrize(("kept", "words"), [
    (["person", "other"], "two images or more of a class that has a name"),
    (["cat", "other"], "two images or more in person/"),
    (["cat", "person"], "two sources or more in other/"),
    (["cat", "person", "other/thing01"], "two sources or more in other/"),
])  # fmt: skip
def test_too_little_to_learn_from_is_one_line(folder, kept, words):
    for path in folder.rglob("*.png"):
        if not f"{path.parent.name}/{path.name}".startswith(tuple(kept)):
            path.unlink()
    photographs = torch.from_numpy(noise(5)).permute(0, 3, 1, 2).contiguous()
    if "person" not in kept:
        assert not list((folder / "person").iterdir())
        for path in folder.glob("other/kimono*"):
            path.unlink()  # which shows people
    with pytest.raises(InputError, match=words):
        wild.WildMixture(photographs, torch.zeros(5, dtype=torch.long), folder, SPEC, 64, torch.device("cpu"))


def test_the_loss_is_cross_entropy_and_the_distance_to_the_teacher(mixture):
    _, labels, indices = mixture.batch(0)
    logits = torch.zeros(64, 4)
    assert mixture.loss(logits, labels, None).item() == pytest.approx(np.log(4), rel=1e-5)
    taught = torch.zeros(len(indices), 2)  # agrees on the photographs' classes
    plain, crops = (mixture.counts[kind] for kind in wild.WildMixture.TAUGHT)
    expected = (0.3 * plain + 0.6 * crops + 64 - plain - crops) / 64 * np.log(4)
    assert mixture.loss(logits, labels, taught).item() == pytest.approx(expected, rel=1e-5)


def test_a_teacher_of_all_classes_teaches_every_image(mixture):
    _, labels, _ = mixture.batch(0)
    logits, taught = (torch.randn(64, 4, generator=torch.Generator().manual_seed(i), dtype=torch.double) for i in (1, 2))
    p, q = ((x / 2).softmax(1) for x in (taught, logits))
    away = 4 * (p * (p / q).log()).sum(1)
    right = -logits.log_softmax(1)[range(64), labels]
    assert mixture.loss(logits, labels, taught).item() == pytest.approx((0.2 * right + 0.8 * away).mean().item())
    mixture.vehicles = [0]  # of which a teacher that errs is not heard
    unheard = (labels == 0) & (taught.argmax(1) != labels)
    expected = torch.where(unheard, right, 0.2 * right + 0.8 * away).mean()
    assert unheard.any() and mixture.loss(logits, labels, taught).item() == pytest.approx(expected.item())


def test_vehicles_are_turned_further_than_other_photographs(mixture):
    bar = np.zeros((32, 32, 3), np.uint8)
    bar[14:18] = 255

    def upright(kind):  # share of crops in which the bar still lies
        cut = [augment._cut(bar, kind, 32, np.random.default_rng(i), tight=True) for i in range(200)]
        return np.mean([np.ptp(image[:, 5:27, 0].max(1).nonzero()[0]) < 12 for image in cut])

    assert upright(augment.VEHICLE) < upright(augment.PHOTOGRAPH) - 0.1
    mixture.vehicles = [1]
    turned = mixture._turned(np.array([augment.PHOTOGRAPH] * 3), np.array([0, 1, 2])).tolist()
    assert turned == [augment.PHOTOGRAPH, augment.VEHICLE, augment.PHOTOGRAPH]


def test_judges_are_always_the_same(mixture):
    photographs = torch.from_numpy(noise(5, seed=9)).permute(0, 3, 1, 2), torch.zeros(5, dtype=torch.long)
    (images, labels), (again, _) = mixture.validation(*photographs), mixture.validation(*photographs)
    assert len(images) == 5 + 4 + 2 + 20 and (images == again).all() and labels[:5].sum() == 0


def test_a_folder_of_another_name_is_refused(folder):
    (folder / "zebra").mkdir()
    with pytest.raises(InputError, match="zebra: no class of this network; expected folders named cat dog person other"):
        wild.load(folder, list(CLASSES), 32)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no <class>"):
        wild.load(tmp_path, list(CLASSES), 32)


def test_an_image_that_cant_be_read_is_refused(folder):
    (folder / "cat" / "tabby_00001.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="tabby_00001.png is no image that can be read"):
        wild.load(folder, list(CLASSES), 32)


def test_an_image_of_another_size_is_refused(folder):
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(folder / "cat" / "tabby_00099.png")
    with pytest.raises(InputError, match="tabby_00099.png: 9x8 pixels, expected 32x32"):
        wild.load(folder, list(CLASSES), 32)
