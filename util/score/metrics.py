"""Scores of what was found in a clip against its truth: pixels, boxes, identities, names. Tables of boxes in, numbers out.

COCO's and MOTChallenge's numbers come from their own packages, pycocotools and TrackEval.
"""
import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from util.errors import InputError
from util.track.tracking import UNKNOWN

STATIC, SHADOW, OUTSIDE, UNCLEAR, MOVING = 0, 50, 85, 170, 255  # CDnet's levels of a true mask
MIN_IOU = 0.5  # intersection over union at which a box is found
MAX_PAIRS = 10_000_000  # of identities, true and found: HOTA holds 20 numbers for each


@dataclass(eq=False)
class Boxes:
    """The boxes of a clip, one row each; `boxes[rows]` selects some."""

    frame: np.ndarray  # (N,) int, from 1
    box: np.ndarray  # (N, 4) float64: x, y, width, height in pixels
    score: np.ndarray  # (N,) float64
    id: np.ndarray  # (N,) int: identity over time, from 1; 0 where there is none
    label: np.ndarray  # (N,) str: name of what it is; "" where there is none
    ignored: np.ndarray  # (N,) bool: truth that counts neither way

    @classmethod
    def of(cls, rows: Iterable[Sequence]) -> "Boxes":
        """Boxes of rows (frame, x, y, width, height[, score[, id[, label[, ignored]]]])."""
        rest = (1.0, 0, "", False)
        rows = [(*row, *rest[len(row) - 5 :]) for row in rows]
        frame, x, y, w, h, score, number, label, ignored = zip(*rows, strict=True) if rows else [()] * 9
        box = np.array([x, y, w, h], np.float64).T.reshape(-1, 4)
        return cls(
            np.array(frame, int), box, np.array(score, float), np.array(number, int), np.array(label, object), np.array(ignored, bool)
        )

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows) -> "Boxes":
        return Boxes(*(getattr(self, field.name)[rows] for field in fields(self)))


# ---- Geometry --------------------------------------------------------------------------------------------------------
def iou(a: np.ndarray, b: np.ndarray, crowds: bool = False) -> np.ndarray:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4), x, y, width, height; with `crowds`, the share of each of `a` in `b`."""
    a, b = (np.asarray(boxes, float).reshape(-1, 4) for boxes in (a, b))
    return np.reshape(coco_mask.iou(a, b, np.full(len(b), crowds, np.uint8)), (len(a), len(b)))


def match(a: np.ndarray, b: np.ndarray, min_iou: float = MIN_IOU) -> list[tuple[int, int]]:
    """Pairs (index into a, index into b) of boxes, best overlap first, each index once, with intersection over union >= `min_iou`."""
    overlap, pairs = iou(a, b), []
    near = np.argwhere(overlap >= min_iou)
    free_a, free_b = set(range(len(a))), set(range(len(b)))
    for i, j in near[np.argsort(-overlap[tuple(near.T)], kind="stable")].tolist():
        if i in free_a and j in free_b:
            pairs.append((i, j))
            free_a.remove(i), free_b.remove(j)
    return pairs


def components(mask: np.ndarray, min_area: int) -> np.ndarray:
    """(N, 4) boxes x, y, width, height of the connected regions (8 neighbours) of a uint8 mask with at least min_area pixels."""
    stats = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:]
    return stats[stats[:, cv2.CC_STAT_AREA] >= min_area, :4]


# ---- Pixels ----------------------------------------------------------------------------------------------------------
@dataclass
class Pixels:
    """Counts over the frames of one clip, by CDnet's protocol: 0 and 50 against 255; 85, 170 and what is out of the region don't count."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    shadow: int = 0  # true shadow
    shadow_fp: int = 0  # of that, taken for moving

    def add(self, mask: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> None:
        """Count one frame: mask is set where it is not 0, truth has CDnet's levels, region is bool; all (H, W)."""
        found = np.bincount(truth[region & (mask > 0) if region is not None else mask > 0].ravel(), minlength=256)
        there = np.bincount((truth if region is None else truth[region]).ravel(), minlength=256)
        self.tp += int(found[MOVING])
        self.fn += int(there[MOVING] - found[MOVING])
        self.fp += int(found[STATIC] + found[SHADOW])
        self.tn += int(there[STATIC] + there[SHADOW] - found[STATIC] - found[SHADOW])
        self.shadow += int(there[SHADOW])
        self.shadow_fp += int(found[SHADOW])

    def scores(self) -> dict[str, float | None]:
        """CDnet's seven numbers and the share of shadow taken for moving; PBC is a percentage; None where there is nothing to divide."""
        tp, fp, fn, tn = self.tp, self.fp, self.fn, self.tn
        return {
            "precision": _share(tp, tp + fp),
            "recall": _share(tp, tp + fn),
            "f_measure": _share(2 * tp, 2 * tp + fp + fn),
            "specificity": _share(tn, tn + fp),
            "fpr": _share(fp, fp + tn),
            "fnr": _share(fn, tp + fn),
            "pbc": _share(100 * (fn + fp), tp + fp + fn + tn),
            "fpr_shadow": _share(self.shadow_fp, self.shadow),
        }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


# ---- Probabilities ---------------------------------------------------------------------------------------------------
def reliability(
    confidence: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None, bins: int = 10
) -> list[tuple[float, float, float]]:
    """(share of the cases, mean confidence 0..1, accuracy) of each bin of confidence that holds any, lowest first."""
    weights = np.ones(len(confidence)) if weights is None else weights
    index, rows = np.minimum((confidence * bins).astype(int), bins - 1), []
    for k in range(bins):
        w = weights * (index == k)
        if w.sum():
            rows.append((w.sum() / weights.sum(), np.average(confidence, weights=w), np.average(right, weights=w)))
    return rows


def calibration_error(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray | None = None, bins: int = 10) -> float:
    """Expected calibration error, 0..1: how much confidence and accuracy differ, mean over the bins."""
    return sum(share * abs(mean - accuracy) for share, mean, accuracy in reliability(confidence, right, weights, bins))


# ---- Boxes -----------------------------------------------------------------------------------------------------------
def by_frame(boxes: Boxes) -> dict[int, np.ndarray]:
    """{frame: its rows}; frames without boxes are left out."""
    order = np.argsort(boxes.frame, kind="stable")
    numbers, starts = np.unique(boxes.frame[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=False))


def matches(truth: Boxes, found: Boxes) -> np.ndarray:
    """(N, 2) rows of truth that counts and rows of found that go together, frame by frame."""
    true, seen, pairs = by_frame(truth), by_frame(found), []
    for frame in true.keys() & seen.keys():
        a = true[frame][~truth.ignored[true[frame]]]
        pairs += [(a[i], seen[frame][j]) for i, j in match(truth.box[a], found.box[seen[frame]])]
    return np.array(pairs, int).reshape(-1, 2)


def counted(truth: Boxes, found: Boxes) -> Boxes:
    """`found` without boxes that match no truth that counts and lie by half or more in an ignored one (as COCO's crowds do)."""
    true, keep = by_frame(truth[truth.ignored]), np.ones(len(found), bool)
    ignored = truth.box[truth.ignored]
    for frame, rows in by_frame(found).items():
        if frame in true:
            keep[rows] = iou(found.box[rows], ignored[true[frame]], crowds=True).max(1) < MIN_IOU
    keep[matches(truth, found)[:, 1]] = True
    return found[keep]


def detection(truth: Boxes, found: Boxes) -> dict[str, float | int | None]:
    """Precision and recall of all boxes at IoU 0.5, and what they are made of."""
    there, boxes, right = int((~truth.ignored).sum()), len(counted(truth, found)), len(matches(truth, found))
    return {
        "box_precision": _share(right, boxes),
        "box_recall": _share(right, there),
        "boxes_true": there,
        "boxes_found": boxes,
        "boxes_right": right,
    }


def naming(truth: Boxes, found: Boxes) -> dict[str, float | int | None]:
    """Share of the boxes on an object with a true name (IoU 0.5) that have that name, and share of them called unknown."""
    pairs = matches(truth, found)
    pairs = pairs[truth.label[pairs[:, 0]] != ""]
    names = found.label[pairs[:, 1]]
    right, unknown = int((names == truth.label[pairs[:, 0]]).sum()), int((names == UNKNOWN).sum())
    return {"label_accuracy": _share(right, len(pairs)), "label_unknown": _share(unknown, len(pairs)), "labels": len(pairs)}


def coco(truth: Boxes, found: Boxes, by_name: bool = False) -> dict[str, float | None]:
    """AR1, AR10, AR100 (mean recall over IoU 0.5 to 0.95 with so many boxes a frame), AP50 and AP, as pycocotools prints them.

    Whatever its name is, a box counts as an object, unless by_name: then it is the mean over the true names. None without truth.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    keys = {"AR1": 6, "AR10": 7, "AR100": 8, "AP50": 1, "AP": 0}  # where they are in COCOeval.stats
    if by_name:  # a crowd of COCO's is one for its own name alone
        found, truth = counted(truth, found), truth[~truth.ignored]
    if truth.ignored.all():
        return dict.fromkeys(keys)
    if not len(found):
        return dict.fromkeys(keys, 0.0)
    names = {name: number for number, name in enumerate(sorted({*truth.label, *found.label}), 1)} if by_name else {}
    images = [{"id": frame} for frame in np.union1d(truth.frame, found.frame).tolist()]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells what it does
        there, seen = COCO(), COCO()
        for side, boxes in ((there, truth), (seen, found)):
            annotations = [_annotation(boxes, row, names) for row in range(len(boxes))]
            categories = [{"id": number} for number in names.values()] or [{"id": 1}]
            side.dataset = {"images": images, "annotations": annotations, "categories": categories}
            side.createIndex()
        evaluator = COCOeval(there, seen, "bbox")
        evaluator.params.useCats = int(by_name)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return {key: float(evaluator.stats[index]) for key, index in keys.items()}


def _annotation(boxes: Boxes, row: int, names: dict[str, int]) -> dict:
    return {
        "id": row + 1,  # pycocotools takes 0 for no match
        "image_id": int(boxes.frame[row]),
        "category_id": names.get(boxes.label[row], 1),
        "bbox": boxes.box[row].tolist(),
        "area": float(boxes.box[row, 2:].prod()),
        "score": float(boxes.score[row]),
        "iscrowd": int(boxes.ignored[row]),
    }


# ---- Identities ------------------------------------------------------------------------------------------------------
def tracking(truth: Boxes, found: Boxes) -> dict[str, float | int | None]:
    """MOTA, IDF1 and HOTA with their parts by TrackEval, at IoU 0.5 (HOTA: the mean over 0.05 to 0.95). None without truth."""
    from trackeval.metrics import CLEAR, HOTA, Identity

    found, truth = counted(truth, found), truth[~truth.ignored]
    keys = ("MOTA", "IDF1", "HOTA", "switches", "DetA", "AssA", "IDP", "IDR", "tracks_mostly", "tracks_partly", "tracks_lost")
    if not len(truth):
        return dict.fromkeys(keys)
    data = _sequence(truth, found)
    quiet = {"PRINT_CONFIG": False}
    clear, identity, hota = CLEAR(quiet).eval_sequence(data), Identity(quiet).eval_sequence(data), HOTA().eval_sequence(data)
    if not len(found):  # TrackEval leaves these out then
        clear = {**clear, "IDSW": 0, "MT": 0, "PT": 0, "ML": data["num_gt_ids"]}
    values = clear["MOTA"], identity["IDF1"], np.mean(hota["HOTA"]), clear["IDSW"], np.mean(hota["DetA"]), np.mean(hota["AssA"])
    values += identity["IDP"], identity["IDR"], clear["MT"], clear["PT"], clear["ML"]
    counts = {"switches", "tracks_mostly", "tracks_partly", "tracks_lost"}
    return {key: int(value) if key in counts else float(value) for key, value in zip(keys, values, strict=True)}


def _sequence(truth: Boxes, found: Boxes) -> dict:
    """What TrackEval's metrics take: per frame the identities, numbered from 0, and their overlaps."""
    true, seen = by_frame(truth), by_frame(found)
    true_ids, true_id = np.unique(truth.id, return_inverse=True)
    seen_ids, seen_id = np.unique(found.id, return_inverse=True)
    if len(true_ids) * len(seen_ids) > MAX_PAIRS:
        raise InputError(f"{len(seen_ids)} identities against {len(true_ids)} true ones are too many; score fewer frames with --limit")
    frames, none = sorted(true.keys() | seen.keys()), np.empty(0, int)
    pairs = [(true.get(frame, none), seen.get(frame, none)) for frame in frames]
    return {
        "num_timesteps": len(frames),
        "num_gt_ids": len(true_ids),
        "num_tracker_ids": len(seen_ids),
        "num_gt_dets": len(truth),
        "num_tracker_dets": len(found),
        "gt_ids": [true_id[a] for a, _ in pairs],
        "tracker_ids": [seen_id[b] for _, b in pairs],
        "similarity_scores": [iou(truth.box[a], found.box[b]) for a, b in pairs],
    }
