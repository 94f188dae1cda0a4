"""What is wrong on a node: its own files, and what differs from the driver's."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from segtune.checks import node_state
from segtune.checks.node_state import NodeNeeds, NodeState, Reference, inspect_node, judge
from segtune.cluster.node_checks import at_least_ahead
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_state, "PATIENCE_S", 0.0)


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    config = tiny_config.override({"data.layout": "voc"}).dump()
    tree = {"config": config, "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}}}
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return load_study(tmp_path / "s.yaml")


@pytest.fixture
def run(tmp_path: Path) -> SearchDir:
    run = SearchDir(tmp_path / "run")
    run.path.mkdir()
    return run


def problems(state: NodeState, driver: NodeState) -> tuple[str, ...]:
    return judge("n", state, Reference.of(driver, {})).problems


def test_node_with_all_that_is_needed_has_no_problem(study: Study, run: SearchDir) -> None:
    state = inspect_node(NodeNeeds.of(study, run))
    assert state.data is not None
    assert judge("n", state, Reference.of(state, {})).message == ""
    assert [path.name for path in run.path.iterdir()] == [".node-token"]


def test_run_folder_that_is_absent_or_another_one_is_named(
    study: Study, run: SearchDir, tmp_path: Path
) -> None:
    needs = NodeNeeds.of(study, run)
    shutil.rmtree(run.path)
    shared = "; it has to be on a file system that all nodes share, mounted at the same path"
    assert inspect_node(needs).problems == (f"--out: {run.path} does not exist{shared}",)
    run.path.mkdir()
    (problem,) = inspect_node(needs).problems
    assert problem == f"--out: {run.path} is not the driver's folder{shared}"
    run.node_token.write_text("another")
    (problem,) = inspect_node(needs).problems
    assert "is not the folder that the driver has" in problem


def test_absent_data_set_and_absent_weights_are_named_at_once(
    study: Study, run: SearchDir, tmp_path: Path
) -> None:
    needs = NodeNeeds.of(study, run)
    assert needs.data is not None
    absent = str(tmp_path / "absent")
    needs = replace(needs, data=needs.data | {"root": absent}, files=(f"{absent}.pt",))
    data, weights = inspect_node(needs).problems
    assert data.startswith(f"data.root: no folder '{absent}'; expected the data set")
    assert weights == f"{absent}.pt: no such checkpoint or file of weights"


def test_existing_weights_are_needed_and_names_on_a_hub_are_not(
    study: Study, run: SearchDir, tmp_path: Path
) -> None:
    weights = tmp_path / "w.pt"
    weights.touch()
    for name, expected in ((str(weights), (str(weights),)), ("nvidia/mit-b0", ())):
        config = study.config.override({"model.weights": name})
        assert NodeNeeds.of(replace(study, config=config), run).files == expected


def test_other_version_or_other_files_of_segtune_are_a_problem(
    study: Study, run: SearchDir
) -> None:
    driver = replace(inspect_node(NodeNeeds.of(study, run)), packages={"segtune": "0.1.0"})
    older = replace(driver, packages={"segtune": "0.0.9"})
    assert problems(older, driver) == (
        "segtune 0.0.9, 0.1.0 on the driver's node; install the same on all nodes",
    )
    changed = replace(driver, source="x")
    (problem,) = problems(changed, driver)
    assert problem.startswith("segtune's files differ from the driver's")


def test_other_packages_and_clocks_are_warnings() -> None:
    driver = NodeState("x", {"torch": "2.10", "timm": "1.0"})
    report = judge("n", NodeState("x", {"torch": "2.11"}), Reference.of(driver, {}), ahead_s=-6.4)
    assert report.problems == ()
    packages, clock = report.warnings
    assert packages == (
        "other packages, so results may differ: torch 2.11 (2.10 on the driver's node), "
        "timm not installed (1.0 on the driver's node)"
    )
    assert clock.startswith("its clock is 6 s behind the driver's")
    assert judge("n", driver, Reference.of(driver, {}), ahead_s=4.9).warnings == ()


def test_full_disk_is_a_warning(
    study: Study, run: SearchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = NodeNeeds.of(study, run)
    assert inspect_node(needs).warnings == ()
    monkeypatch.setattr(node_state, "LOW_DISK_BYTES", 10**18)
    ray, images = inspect_node(needs).warnings
    assert ray.endswith("GB of disk are free for the files of Ray")
    assert images.endswith("GB of disk are free for decoded images")


def test_without_data_on_the_driver_a_node_is_the_reference(study: Study, run: SearchDir) -> None:
    state = inspect_node(NodeNeeds.of(study, run))
    assert state.data is not None
    driver = replace(state, data=None)
    fewer = replace(state.data, train=replace(state.data.train, num_pairs=3))
    reference = Reference.of(driver, {"a": state, "b": replace(state, data=fewer)})
    assert judge("a", state, reference).problems == ()
    assert judge("b", replace(state, data=fewer), reference).problems == (
        "data.train: 3 images, 24 on a",
    )


def test_data_set_that_a_node_generates_is_not_checked(
    study: Study, run: SearchDir, tiny_config: ExperimentConfig
) -> None:
    assert NodeNeeds.of(replace(study, config=tiny_config), run).data is None


@pytest.mark.parametrize(
    ("there", "expected"), [(9.0, -1.0), (10.0, 0.0), (11.0, 0.0), (13.5, 1.5)]
)
def test_clock_is_compared_with_the_time_between_question_and_answer(
    there: float, expected: float
) -> None:
    assert at_least_ahead(there, sent=10.0, received=12.0) == pytest.approx(expected)
