"""TensorBoard: points over epochs and steps, each once; panels; what the HParams page needs."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recorded import events, points, train
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from segtune.config.schema import ExperimentConfig
from segtune.data.known_classes import class_colours
from segtune.data.mask_colours import STRIPES
from segtune.runs.rundir import TrialDir
from segtune.tracking.hyperparameters import MAIN_SETTINGS
from segtune.tracking.panels import GAP, draw_panel, spread

PER_EPOCH = 3  # steps


@pytest.mark.parametrize(
    ("how", "epochs", "steps"),
    [("overwrite", [1], [2, 3]), ("resume", [1, 2, 3, 4], [2, 4, 6, 8, 10, 12])],
)
def test_every_epoch_and_step_is_shown_once(
    logged: ExperimentConfig, tmp_path: Path, how: str, epochs: list[int], steps: list[int]
) -> None:
    # The checkpoint is that of epoch 2; epoch 3 with the steps 7 to 9 is trained again.
    longer = logged.override({"schedule.epochs": 4, "checkpoint.every": 2})
    train(longer, tmp_path, last=3)
    again = longer if how == "resume" else logged.override({"schedule.epochs": 1})
    train(again, tmp_path, how=how)
    out = TrialDir(tmp_path)
    assert points(out.tensorboard, "train/loss") == epochs
    assert points(out.tensorboard, "val/miou") == epochs
    grid = [step for step in points(out.tensorboard_steps, "loss/total") if step % 2 == 0]
    assert grid == [step for step in steps if step % 2 == 0]
    assert sorted(set(points(out.tensorboard_steps, "lr"))) == points(out.tensorboard_steps, "lr")


def test_points_over_steps_have_losses_rate_speed_and_memory(
    logged: ExperimentConfig, tmp_path: Path
) -> None:
    train(logged, tmp_path)
    read = events(TrialDir(tmp_path).tensorboard_steps)
    names = {"loss/total", "loss/focal", "loss/dice", "lr", "grad_norm"}
    assert set(read.Tags()["scalars"]) == names | {"images_per_s", "memory_gb"}
    first, second, third = read.Scalars("loss/total")
    assert [first.step, second.step, third.step] == [2, 4, 6]
    record = TrialDir(tmp_path).read_epochs()[1]
    assert read.Scalars("lr")[-1].value == pytest.approx(record.lr)
    assert all(point.value > 0 for point in read.Scalars("images_per_s"))
    # A process with torch takes more than 100 MB.
    assert all(point.value > 0.1 for point in read.Scalars("memory_gb"))


def test_epoch_shorter_than_the_interval_has_one_point(
    logged: ExperimentConfig, tmp_path: Path
) -> None:
    train(logged.override({"log.every_steps": 50}), tmp_path)
    steps = TrialDir(tmp_path).tensorboard_steps
    assert points(steps, "loss/total") == [PER_EPOCH, 2 * PER_EPOCH]
    # With a point per epoch it is the mean of the epoch's steps, as in the record of the epoch.
    means = [record.losses["loss"] for record in TrialDir(tmp_path).read_epochs()]
    values = [point.value for point in events(steps).Scalars("loss/total")]
    assert values == pytest.approx(means)


def test_steps_of_an_epoch_that_is_trained_again_are_hidden(tmp_path: Path) -> None:
    from segtune.tracking.tensorboard import TensorBoard
    from segtune.tracking.tracker import TrackedRun

    out = TrialDir(tmp_path)
    board = TensorBoard()
    board.begin(TrackedRun("run", "", ExperimentConfig(), {"optim.lr": 0.1}, out, 0, 0))
    for step in (1, 2, 3):
        board.add({"loss/total": 9.0}, "step", step)
    board.rewind(1)
    board.add({"loss/total": 5.0}, "step", 2)
    board.end({}, None)
    read = events(out.tensorboard_steps).Scalars("loss/total")
    assert [(point.step, point.value) for point in read] == [(1, 9.0), (2, 5.0)]


def test_training_run_has_the_same_panels_at_every_validation(
    logged: ExperimentConfig, tmp_path: Path
) -> None:
    train(logged.override({"log.images": 2}), tmp_path)
    read = events(TrialDir(tmp_path).tensorboard)
    names = read.Tags()["images"]
    assert len(names) == 2
    for name in names:
        panels = read.Images(name)
        assert [panel.step for panel in panels] == [1, 2]
        pixels = np.asarray(Image.open(io.BytesIO(panels[-1].encoded_image_string)))
        assert pixels.shape == (64, 3 * 64 + 2 * GAP, 3)
        palette = {tuple(colour) for colour in class_colours((), 7).tolist()}
        truth = {
            tuple(colour) for colour in pixels[:, 64 + GAP : 128 + GAP].reshape(-1, 3).tolist()
        }
        assert truth <= palette | set(STRIPES)
        assert len(truth) > 1


def test_panels_are_off_with_0_images(logged: ExperimentConfig, tmp_path: Path) -> None:
    train(logged.override({"log.images": 0}), tmp_path)
    assert events(TrialDir(tmp_path).tensorboard).Tags()["images"] == []


def test_panel_shows_image_truth_and_prediction_in_class_colours() -> None:
    colours = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    image = np.full((1, 2, 3), 99, np.uint8)
    panel = draw_panel(image, np.array([[1, 255]]), np.array([[0, 1]]), colours, 255)
    assert panel.shape == (1, 6 + 2 * GAP, 3)
    photo, truth, prediction = panel[0, :2], panel[0, 2 + GAP : 4 + GAP], panel[0, 4 + 2 * GAP :]
    assert photo.tolist() == [[99] * 3] * 2
    assert truth[0].tolist() == [40, 50, 60]
    assert tuple(truth[1].tolist()) in STRIPES
    assert prediction.tolist() == colours.tolist()


def test_panel_of_a_large_image_is_bounded() -> None:
    mask = np.zeros((1000, 2000), int)
    panel = draw_panel(
        np.zeros((500, 1000, 3), np.uint8), mask, mask, np.zeros((1, 3), np.uint8), 255
    )
    assert panel.shape == (128, 3 * 256 + 2 * GAP, 3)


def test_panels_are_spread_over_the_split() -> None:
    assert spread("abcdefgh", 2) == ["c", "g"]
    assert spread("ab", 4) == ["a", "b"]
    assert spread("", 4) == []


def test_hparams_page_gets_settings_and_final_score(
    logged: ExperimentConfig, tmp_path: Path
) -> None:
    train(logged, tmp_path)
    out = TrialDir(tmp_path)
    read = events(out.tensorboard)
    best = max(record.miou or 0 for record in out.read_epochs())
    assert [point.value for point in read.Scalars("final/best_miou")] == [pytest.approx(best)]
    start = hparams_data(out, "_hparams_/session_start_info").session_start_info
    assert set(start.hparams) == set(MAIN_SETTINGS)
    assert start.hparams["optim.lr"].number_value == 1e-3
    assert start.hparams["data.crop"].string_value == "[64, 64]"
    assert hparams_data(out, "_hparams_/session_end_info").HasField("session_end_info")


def hparams_data(out: TrialDir, tag: str) -> plugin_data_pb2.HParamsPluginData:
    content = events(out.tensorboard).SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_layout_draws_the_iou_of_all_classes_in_one_chart(
    logged: ExperimentConfig, tmp_path: Path
) -> None:
    train(logged, tmp_path)
    (event,) = events(TrialDir(tmp_path).tensorboard).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    patterns = [chart.multiline.tag[0] for part in layout.category for chart in part.chart]
    assert patterns == ["class_iou/.*", "loss/.*"]
