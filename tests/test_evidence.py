"""Evidence against its formula, written out with Python's own numbers."""
import math
import random

import numpy as np
import pytest

from util.track.evidence import Evidence, softmax, weight_of


def by_formula(answers, weights, temperature):
    total = sum(weights)
    p = [0.0] * len(answers[0])
    for z, w in zip(answers, weights, strict=True):
        powers = [math.exp(v / temperature) for v in z]
        for k, power in enumerate(powers):
            p[k] += w * power / math.fsum(powers) / total
    return p


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_evidence_is_the_weighted_mean_of_tempered_probabilities(temperature):
    numbers = random.Random(1)
    answers = [[numbers.gauss(0, 3) for _ in range(10)] for _ in range(40)]
    weights = [numbers.uniform(0.1, 5000) for _ in answers]
    evidence = Evidence(temperature)
    for z, w in zip(answers, weights, strict=True):
        evidence.add(np.array(z, np.float32), w)
    expected = by_formula(np.array(answers, np.float32).tolist(), weights, temperature)
    np.testing.assert_allclose(evidence.probabilities(), expected, rtol=1e-12)
    label, probability = evidence.name()
    assert label == expected.index(max(expected)) and probability == pytest.approx(max(expected), rel=1e-12)


def test_one_wild_answer_does_not_outvote_the_others():
    evidence = Evidence()
    for _ in range(5):
        evidence.add([3.0, 0.0, 0.0])
    evidence.add([0.0, 500.0, 0.0])  # a mean of logits would name class 1
    assert evidence.name()[0] == 0


def test_what_is_not_sure_enough_is_unknown():
    evidence = Evidence(unknown_below=0.5)
    assert evidence.name() == (None, 0.0)
    evidence.add([math.log(0.4), math.log(0.3), math.log(0.3)])
    assert evidence.name() == (None, pytest.approx(0.4))
    evidence.add([math.log(0.8), math.log(0.1), math.log(0.1)])  # (0.4 + 0.8) / 2
    assert evidence.name() == (0, pytest.approx(0.6))


def test_an_answer_without_weight_says_nothing():
    evidence = Evidence()
    evidence.add([0.0, 9.0], 0)
    assert evidence.name() == (None, 0.0)
    evidence.add([2.0, 0.0], 1e-3)
    evidence.add([0.0, 9.0], 0)
    assert evidence.name()[0] == 0


def test_weight_is_the_area_that_a_network_sees_and_a_tenth_at_each_edge():
    assert weight_of((10, 10, 20, 30), 320, 240) == 600
    assert weight_of((10, 10, 32, 32), 320, 240) == weight_of((10, 10, 200, 150), 320, 240) == 1024
    for box in [(0, 10, 20, 30), (10, 0, 20, 30), (300, 10, 20, 30), (10, 210, 20, 30), (1, 10, 20, 30), (299, 10, 20, 30)]:
        assert weight_of(box, 320, 240) == pytest.approx(60)
    assert weight_of((2, 2, 20, 30), 320, 240) == weight_of((298, 208, 20, 30), 320, 240) == 600, "two pixels off it is whole"


def test_huge_logits_neither_overflow_nor_warn(recwarn):
    np.testing.assert_allclose(softmax([1e4, 1e4, -1e4]), [0.5, 0.5, 0])
    assert not recwarn


@pytest.mark.parametrize(("logits", "weight"), [([float("nan"), 0], 1), ([float("inf"), 0], 1), ([1.0, 0], -1), ([1.0, 0], float("nan"))])
def test_evidence_refuses_what_would_poison_it(logits, weight):
    with pytest.raises(ValueError, match="finite"):
        Evidence().add(logits, weight)


def test_temperature_is_above_zero():
    with pytest.raises(ValueError, match="temperature"):
        Evidence(0)


def test_evidence_fades_and_a_wrong_start_gives_way():
    patient, fading = Evidence(), Evidence(half_life=5)
    for evidence in (patient, fading):
        for _ in range(40):
            evidence.add([4.0, 0.0])
        evidence.add([0.0, 4.0], sightings=20)
    assert patient.name()[0] == 0 and fading.name()[0] == 1


def test_a_view_that_stands_for_more_sightings_counts_as_often():
    once, often = Evidence(half_life=7), Evidence(half_life=7)
    once.add([1.0, 0.0], 3.0), once.add([0.0, 2.0], 2.0, sightings=4)
    often.add([1.0, 0.0], 3.0), often.add([0.0, 2.0], 8.0, sightings=1)
    assert once.weight == pytest.approx(3 * 0.5 ** (4 / 7) + 8) and often.weight == pytest.approx(3 * 0.5 ** (1 / 7) + 8)


def test_what_is_called_other_is_unknown():
    evidence = Evidence(other=1)
    evidence.add([0.0, 3.0, 0.0])
    label, probability = evidence.name()
    assert label is None and probability == pytest.approx(math.exp(3) / (math.exp(3) + 2))


def test_a_kind_is_known_where_its_classes_are_in_doubt():
    kinds = {"vehicle": [0, 1], "animal": [2]}
    evidence = Evidence(unknown_below=0.5, other=3)
    assert evidence.kind(kinds) == (None, 0.0)
    evidence.add(np.log([0.4, 0.35, 0.15, 0.1]))
    assert evidence.name()[0] is None and evidence.kind(kinds) == ("vehicle", pytest.approx(0.75))
    evidence.add(np.log([0.02, 0.02, 0.01, 0.95]), 5)
    assert evidence.kind(kinds)[0] is None


def test_the_kind_of_what_has_a_name_is_the_names():
    evidence = Evidence(unknown_below=0.3)
    evidence.add(np.log([0.29, 0.27, 0.44]))
    kinds = {"vehicle": [0, 1], "animal": [2]}
    assert evidence.name()[0] == 2
    assert evidence.kind(kinds) == ("vehicle", pytest.approx(0.56)) and evidence.kind(kinds, 2) == ("animal", pytest.approx(0.44))


def test_the_name_so_far_counts_as_if_it_were_likelier():
    evidence = Evidence(unknown_below=0.4, other=2)
    evidence.add(np.log([0.35, 0.42, 0.23]))
    assert evidence.name() == (1, pytest.approx(0.42))
    assert evidence.name(0, 0.05) == (1, pytest.approx(0.42))
    assert evidence.name(0, 0.1) == (0, pytest.approx(0.35))
    evidence = Evidence(unknown_below=0.4)
    evidence.add(np.log([0.35, 0.33, 0.32]))
    assert evidence.name()[0] is None and evidence.name(0, 0.1)[0] == 0 and evidence.name(1, 0.01)[0] is None
