"""`segtune replay` as a user calls it: output, JSON, exit codes and messages."""

import json
from pathlib import Path

import pytest

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.shapes import ShapesSpec, generate_if_needed
from segtune.replay import main
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.training.distributed import Ranks
from segtune.training.trainer import Trainer


@pytest.fixture
def dead_run(tiny_config: ExperimentConfig, tmp_path: Path) -> SearchDir:
    """Return a search run whose trial 1 has died; trial 0 is complete, trial 2 left no bundle."""
    run = SearchDir(tmp_path / "run")
    run.trials.mkdir(parents=True)
    run.study.write_text(write_yaml({}))
    run.trial(0).path.mkdir()
    run.trial(0).write_verdict(Verdict(state="completed"))
    changes = {"loss.ce.weight": 1e30}
    for number in (1, 2):
        list(Trainer.start(tiny_config.override(changes), run.trial(number), Ranks()).epochs())
    return run


def test_output_names_the_step_the_origin_and_the_remedies(
    dead_run: SearchDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "replay.json"
    arguments = [str(dead_run.path), "--trial", "1", "--set", "loss.ce.weight=1"]
    assert main([*arguments, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "same:        yes, from the weights before the step" in out
    assert "the sum of their squares is more than float32 holds" in out
    assert "as they are" in out
    assert "result:      --set loss.ce.weight=1: 6 steps" in out
    record = json.loads(file.read_text())
    assert record["recorded"]["grad_norm"] == "inf"
    assert record["settings"] == {"loss.ce.weight": 1}
    assert len(record["gradients"]) == len(record["weights"]) > 50
    assert all(numbers["non_finite"] == 0 for numbers in record["gradients"].values())


def test_other_images_of_the_step_are_named(
    tiny_config: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "shapes"
    generate_if_needed(root, ShapesSpec(num_train=9, num_val=1))
    changes = {"loss.ce.weight": 1e30, "data.root": str(root)}
    out = TrialDir(tmp_path / "run")
    list(Trainer.start(tiny_config.override(changes), out, Ranks()).epochs())
    assert main([str(out.path)]) == 0
    assert "other images" not in capsys.readouterr().out
    (listed,) = root.rglob("train.txt")
    _, *names = listed.read_text().split()
    listed.write_text("\n".join(names) + "\n")
    assert main([str(out.path)]) == 0
    assert "data: the step has other images now" in capsys.readouterr().out


REFUSED = [
    (["RUN"], "choose a trial with --trial ID (trials with a bundle: 0001)"),
    (["RUN", "--trial", "0"], "no such trial to replay (trials with a bundle: 0001)"),
    (["RUN", "--trial", "x"], "no such trial to replay"),
    (["RUN/trials/0000"], "it ended as completed; only non-finite and diverged"),
    (["RUN/trials/0002"], "the first trial of each kind does: 0001"),
    (["RUN/trials/0001", "--trial", "1"], "is no search run; leave --trial out"),
    (["RUN/trials/0009"], "no such folder"),
    (["RUN/trials/0001", "--set", "model.dropout=0.2"], "allowed are optim.* and loss.*"),
    (["RUN/trials/0001", "--set", "optim.rl=1"], "no such setting"),
]


def test_what_cannot_be_replayed_is_one_message(
    dead_run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in REFUSED:
        assert main([word.replace("RUN", str(dead_run.path)) for word in arguments]) == 2
        assert message in capsys.readouterr().err


def test_damaged_bundle_is_one_message(
    dead_run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = dead_run.trial(1).replay
    with (bundle / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    assert main([str(bundle)]) == 2
    assert "damaged" in capsys.readouterr().err
    (bundle / "manifest.json").write_text("{}")
    assert main([str(bundle)]) == 2
    assert "not the manifest of a bundle" in capsys.readouterr().err
