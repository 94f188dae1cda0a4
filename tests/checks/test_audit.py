"""Each thing that can be wrong with the labels of a data set is found, counted and explained."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segtune import data_tools
from segtune.checks.audit import AuditReport, audit
from segtune.checks.label_findings import LabelFinding
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.refused import value_counts

SIDE = 64
CLASSES = ("road", "sky", "car")
Drawing = tuple[np.ndarray, np.ndarray]


def scene(seed: int, num_classes: int = 3) -> Drawing:
    """Return an image of two boxes on noise, and its labels; class 0 is around them."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE + 16), np.uint8)
    for label in range(1, num_classes):
        x, y = rng.integers(2, SIDE - 12), rng.integers(2, SIDE - 22)
        labels[y : y + 14, x : x + 20] = label
    colours = rng.integers(0, 255, (num_classes, 3))
    noise = rng.normal(0, 10, (*labels.shape, 3))
    return np.clip(colours[labels] + noise, 0, 255).astype(np.uint8), labels


def write(root: Path, splits: Mapping[str, Sequence[Drawing]], suffix: str = ".png") -> None:
    for split, drawings in splits.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for number, (image, labels) in enumerate(drawings):
            Image.fromarray(image).save(root / f"images/{split}/{number:03}{suffix}")
            Image.fromarray(labels).save(root / f"masks/{split}/{number:03}.png")


Check = Callable[..., AuditReport]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Return a function that writes two splits and returns their audit."""

    def run(train: Sequence[Drawing], val: Sequence[Drawing], **settings: object) -> AuditReport:
        write(tmp_path, {"train": train, "val": val})
        return audit(config_of(tmp_path, **settings))

    return run


def config_of(root: Path, **settings: object) -> DataConfig:
    tree = {"layout": "folder", "root": str(root), "classes": CLASSES, "cache": "none"}
    return DataConfig.parse({**tree, **settings})


def the(report: AuditReport, rule: str) -> LabelFinding:
    """Return the only finding of a rule."""
    (finding,) = [finding for finding in report.findings if finding.rule == rule]
    assert finding.reason
    return finding


def relabelled(change: Callable[[np.ndarray], np.ndarray], seeds: Sequence[int]) -> list[Drawing]:
    return [(image, change(labels)) for image, labels in map(scene, seeds)]


def good(*seeds: int) -> list[Drawing]:
    return [scene(seed) for seed in seeds]


def test_a_good_data_set_has_no_finding(check: Check) -> None:
    report = check(good(*range(20)), good(20, 21, 22))
    assert report.findings == []
    assert report.count_text() == "no problems found"


def test_generated_shapes_have_no_error(tiny_config: ExperimentConfig) -> None:
    report = audit(tiny_config.data)
    assert report.problems == []
    assert [finding.rule for finding in report.findings] == []


def test_wrong_values_have_a_histogram_over_all_files(check: Check) -> None:
    def broken(labels: np.ndarray) -> np.ndarray:
        labels = labels.copy()
        labels[0, :5], labels[1, :7] = 9, 200
        return labels

    report = check([*good(1, 2), *relabelled(broken, [3, 4])], good(5))
    finding = the(report, "label-values")
    assert (finding.severity, finding.count, finding.values) == ("error", 2, {9: 10, 200: 14})
    assert [Path(file).name for file in finding.files] == ["002.png", "003.png"]
    assert report.dump()["splits"]["train"]["wrong_values"] == {"9": 10, "200": 14}


def test_instance_masks_do_not_fill_the_memory_with_values(check: Check) -> None:
    rng = np.random.default_rng(0)
    drawings = [
        (scene(i)[0], rng.integers(0, 1 << 16, (SIDE, SIDE + 16), np.uint16)) for i in range(3)
    ]
    (group,) = check([*good(9), *drawings], good(5)).train.refused
    assert group.count == 3
    assert 0 < len(group.values) <= 2048
    assert len(value_counts(drawings[0][1])) == 1024


def test_colour_masks_are_one_finding_that_names_data_palette(check: Check) -> None:
    colours = np.array([[0, 0, 0], [128, 64, 128], [70, 130, 180]], np.uint8)
    report = check([*good(1), *relabelled(lambda labels: colours[labels], [2, 3])], good(4))
    finding = the(report, "colour-mask")
    assert (finding.severity, finding.count) == ("error", 2)
    assert "data.palette" in finding.way_out


def test_masks_of_0_and_255_name_the_setting_that_reads_them(check: Check) -> None:
    def binary(labels: np.ndarray) -> np.ndarray:
        return (labels > 0).astype(np.uint8) * 255

    report = check(relabelled(binary, range(3)), relabelled(binary, [9]), classes=["bg", "cell"])
    finding = the(report, "one-class")
    assert finding.severity == "error"
    assert finding.way_out.endswith("--set 'data.label_map={255: 1}'")


def test_255_as_a_third_class_is_a_warning_with_its_setting(check: Check) -> None:
    cells = relabelled(lambda labels: np.where(labels == 2, 255, labels).astype(np.uint8), range(4))
    finding = the(check(cells[:3], cells[3:]), "ignored-value")
    assert finding.severity == "warning"
    assert finding.way_out.endswith("--set 'data.label_map={255: 2}'")


def test_masks_from_1_are_one_error_with_reduce_zero_label(check: Check) -> None:
    def shifted(labels: np.ndarray) -> np.ndarray:
        return labels + 1

    report = check(relabelled(shifted, range(4)), relabelled(shifted, [5]))
    assert [finding.rule for finding in report.findings] == [
        *("reduce-zero-label", "label-values", "label-values")  # the last of each split
    ]
    first = report.findings[0]
    assert (first.severity, first.count) == ("error", 5)
    assert first.way_out == "--set data.reduce_zero_label=true"


def test_masks_that_have_a_0_too_do_not_number_the_classes_from_1(check: Check) -> None:
    def skipping(labels: np.ndarray) -> np.ndarray:
        return np.where(labels == 2, 3, labels).astype(np.uint8)

    report = check(relabelled(skipping, range(4)), relabelled(skipping, [5]))
    assert {finding.rule for finding in report.findings} == {"label-values"}


def test_labels_that_start_at_1_below_the_last_class_are_suspicious(check: Check) -> None:
    # Of the classes 1 to 3, no image shows the last one.
    drawings = [(image, labels + 1) for image, labels in (scene(i, 2) for i in range(4))]
    finding = the(check(drawings[:3], drawings[3:]), "reduce-zero-label")
    assert finding.severity == "warning"
    assert "--set data.reduce_zero_label=true" in finding.way_out


def test_reduce_zero_label_that_hides_a_class_is_a_warning(check: Check) -> None:
    report = check(good(0, 1, 2), good(3), reduce_zero_label=True)
    finding = the(report, "reduce-zero-label")
    assert finding.severity == "warning"
    assert finding.way_out.endswith("--set data.reduce_zero_label=false")


def test_a_split_of_ignored_pixels_is_an_error(check: Check) -> None:
    ignored = relabelled(lambda labels: np.full_like(labels, 255), [8, 9])
    report = check(good(0, 1, 2), ignored)
    assert the(report, "ignored-split").severity == "error"
    assert the(report, "all-ignored").count == 2
    assert report.val.pixel_share(255) == 1


def test_a_split_of_mostly_ignored_pixels_is_a_warning(check: Check) -> None:
    def cut(labels: np.ndarray) -> np.ndarray:
        return np.where(labels == 0, 255, labels).astype(np.uint8)

    report = check(good(0, 1, 2), relabelled(cut, [3, 4]))
    finding = the(report, "ignored-share")
    share = report.val.pixel_share(255)
    assert share > 0.8
    assert finding.problem.startswith(f"{100 * share:.3g} % of all pixels of the validation masks")


def test_classes_of_few_images_and_pixels_are_warnings(check: Check) -> None:
    train = [scene(seed, 2) for seed in range(50)]
    train[7][1][0, 0] = 2
    report = check(train, good(60))
    assert the(report, "few-images").problem == (
        "1 class is in fewer than 5 of 50 images: 'car' (1)"
    )
    assert "'car' (0.00039 %)" in the(report, "few-pixels").problem  # 1 of 50 x 64 x 80 pixels
    assert report.of("error") == []


def test_equal_images_under_other_names_leak_and_two_masks_are_an_error(check: Check) -> None:
    same, other = scene(1), scene(2)
    twin = (other[0], np.ascontiguousarray(other[1][::-1]))
    report = check([same, other, twin, *good(3)], [same, *good(5)])
    leak, two_masks = the(report, "leak"), the(report, "two-masks")
    assert (leak.severity, leak.count, two_masks.severity, two_masks.count) == (
        *("error", 1),
        *("error", 1),
    )
    (pair,) = report.dump()["duplicates"]["equal_in_both_splits"]
    assert [Path(pair[split]).name for split in ("val", "train")] == ["000.png", "000.png"]
    assert pair["equal_masks"] is True


def test_resized_and_compressed_copies_are_a_note_with_the_pairs(
    check: Check, tmp_path: Path
) -> None:
    check(good(*range(6)), good(7))
    image, labels = scene(4)
    (tmp_path / "images/val/c.jpg").write_bytes(
        cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()
    )
    cv2.imwrite(str(tmp_path / "masks/val/c.png"), labels)
    half = cv2.resize(scene(2)[0][:, ::-1], (40, 32), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "images/val/m.png"), half[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "masks/val/m.png"), labels[::2, ::2])
    report = audit(config_of(tmp_path))
    finding = the(report, "near-leak")
    assert (finding.severity, finding.count) == ("note", 2)
    assert "2 of 3 validation images nearly equal a training image, 1 of them mirrored" in str(
        finding
    )
    pairs = report.dump()["duplicates"]["near_in_both_splits"]
    found = [(Path(p["val"]).name, Path(p["train"]).name, p["mirrored"]) for p in pairs]
    assert found == [("c.jpg", "004.png", False), ("m.png", "002.png", True)]


def test_swapped_and_halved_masks_are_named_as_such(check: Check, tmp_path: Path) -> None:
    swapped = relabelled(lambda labels: np.ascontiguousarray(labels.T), [2])
    halved = relabelled(lambda labels: np.ascontiguousarray(labels[::2, ::2]), [3])
    report = check([*good(0, 1), *swapped, *halved], good(5))
    messages = [str(finding) for finding in report.findings if finding.rule == "size"]
    assert len(messages) == 2
    assert "sides are swapped" in messages[0]
    assert "resize the mask to 80x64 without interpolation" in messages[1]


def write_turned(root: Path, seeds: Sequence[int], orientation: int, is_upright: bool) -> None:
    """Write training images with an EXIF orientation; the masks are upright or as stored."""
    for seed in seeds:
        image, labels = scene(seed)
        exif = Image.Exif()
        exif[274] = orientation
        path = root / f"images/train/t{seed:03}.jpg"
        Image.fromarray(image).save(path, quality=95, exif=exif)
        turned = labels[::-1, ::-1] if is_upright else labels
        Image.fromarray(np.ascontiguousarray(turned)).save(root / f"masks/train/t{seed:03}.png")


@pytest.mark.parametrize("is_upright", [False, True])
def test_edges_say_whether_masks_were_drawn_on_the_turned_image(
    is_upright: bool, check: Check, tmp_path: Path
) -> None:
    check(good(0, 1), good(2))
    write_turned(tmp_path, range(10, 16), 3, is_upright)
    finding = the(audit(config_of(tmp_path)), "exif")
    assert (finding.severity, finding.count) == ("note" if is_upright else "warning", 6)
    fitting = 0 if is_upright else 6
    assert f"the edges of {fitting} of 6 masks fit the image as stored" in finding.problem


@pytest.mark.parametrize(
    ("rule", "change", "text"),
    [
        ("turned-masks", lambda m: m[::-1], "if the masks are upside down"),
        (
            *("shifted-masks", lambda m: np.roll(m, (0, 4), (0, 1))),
            "if the masks move by 5.1 % of the width to the left",  # 4 of 80 columns
        ),
    ],
)
def test_masks_that_fit_after_a_turn_or_a_shift_are_a_warning(
    rule: str, change: Callable[[np.ndarray], np.ndarray], text: str, check: Check
) -> None:
    wrong = relabelled(lambda labels: np.ascontiguousarray(change(labels)), range(16))
    finding = the(check(wrong, good(20)), rule)
    assert finding.severity == "warning"
    assert text in finding.problem


def test_errors_come_first_and_the_summary_is_short(check: Check) -> None:
    report = check([*good(0, 1), (scene(3)[0], scene(3)[1] + 90)], [scene(1), scene(9, 2)])
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    first, *others = report.summary(max_lines=1)
    assert first == f"{report.root}: {report.count_text()}"
    assert len(others) == 1


def test_json_is_written_also_if_there_are_errors(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = check([*good(0, 1), scene(7)], [scene(7), scene(8)])
    config = tmp_path / "config.yaml"
    config.write_text(write_yaml({"data": config_of(tmp_path).dump()}))
    out = tmp_path / "audit.json"
    assert data_tools.main(["check", str(config), "--json", str(out)]) == 2
    printed = capsys.readouterr()
    assert json.loads(out.read_text()) == report.dump()
    assert "error     [leak] data.val: 1 of 2 validation images have the same pixels" in printed.out
    assert printed.out.endswith(f"1 error\nreport: {out}\n")
    assert printed.err.count("\n") == 1
    tree = json.loads(out.read_text())["splits"]["train"]
    assert (tree["num_images"], tree["num_read"]) == (3, 3)
    assert sum(entry["pixels"] for entry in tree["classes"]) == 3 * SIDE * (SIDE + 16)


def test_a_leak_is_found_although_the_masks_are_refused(check: Check) -> None:
    report = check([*good(0, 1), (scene(3)[0], scene(3)[1] + 90)], [*good(3), *good(5)])
    assert the(report, "leak").count == 1
    assert "another mask" not in the(report, "leak").problem  # the refused mask is not compared
    assert report.dump()["splits"]["train"]["num_read"] == 2


def test_a_setting_is_printed_on_one_line_to_be_copied(
    check: Check, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def marked(labels: np.ndarray) -> np.ndarray:
        return np.where(labels == 2, 3, labels).astype(np.uint8)

    check([*good(0, 1), *relabelled(marked, [2])], good(5))
    config = tmp_path / "config.yaml"
    config.write_text(write_yaml({"data": config_of(tmp_path).dump()}))
    assert data_tools.main(["check", str(config)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert any("--set 'data.label_map={3: 255}'" in line for line in lines)
