"""The scripts for data sets and clusters: usage, refusals, and data sets from archives."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from shipped import ROOT

SCRIPTS = ROOT / "scripts"
COMMANDS = ("submit", "ssh_dashboard", "prepare_voc", "prepare_ade20k")


def run(name: str, *arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / f"{name}.sh", *map(str, arguments)],
        env=os.environ | {"SEGTUNE_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_a_usage_text(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: scripts/{name}.sh [options]")
    assert max(map(len, done.stdout.splitlines())) <= 104


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: scripts/submit.sh"),
        (("--space", "s.yaml", "--out", "/shared"), "--name is needed"),
        (
            ("--token-file", "/absent", "--space", "s.yaml", "--out=o", "--name=n"),
            "--token-file /absent: cannot be read",
        ),
        (("--dashboard",), "--dashboard: URL is missing"),
    ],
)
def test_submit_refuses_what_it_cannot_submit(arguments: tuple[str, ...], message: str) -> None:
    done = run("submit", *arguments)
    assert done.returncode != 0
    assert message in done.stderr


def stub(folder: Path, name: str) -> str:
    """Make a program that prints its arguments and variables; return PATH with it."""
    program = folder / name
    program.write_text(
        '#!/bin/sh\necho "$0" "$@"\necho "mode $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH"\n'
    )
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_submit_passes_the_search_and_the_token_on(tmp_path: Path) -> None:
    path = stub(tmp_path, "ray")
    (tmp_path / "token").write_text("x")
    options = ("--dashboard", "http://h:1", "--token-file", tmp_path / "token", "--no-follow")
    search = ("--space", "a b.yaml", "--out", "/shared", "--name", "n")
    done = run("submit", *options, *search, PATH=path)
    command, mode = done.stdout.splitlines()
    assert command == (
        f"{tmp_path}/ray job submit --address http://h:1 --no-wait -- python -m segtune.search "
        "--space a b.yaml --out /shared --name n --address auto"
    )
    assert mode == f"mode token {tmp_path}/token"


def test_ssh_dashboard_forwards_the_port_and_says_how_to_get_the_token(tmp_path: Path) -> None:
    done = run("ssh_dashboard", "--port", "9000", "me@head", "-p", "22", PATH=stub(tmp_path, "ssh"))
    url, token, _, command, _ = done.stdout.splitlines()
    assert url == "dashboard: http://127.0.0.1:9000 (until Ctrl-C)"
    assert token == "its token: ssh me@head cat .ray/auth_token"
    assert command.endswith("-L 127.0.0.1:9000:127.0.0.1:8265 me@head -p 22")
    refused = run("ssh_dashboard", "--port", "http", "me@head")
    assert refused.returncode == 2
    assert "a port is a number" in refused.stderr


@pytest.fixture
def voc_archive(shapes_root: Path, tmp_path: Path) -> Path:
    """Return the data set `shapes` in an archive like that of VOC 2012."""
    archive = tmp_path / "VOCtrainval.tar"
    with tarfile.open(archive, "w") as file:
        file.add(shapes_root, "VOCdevkit/VOC2012")
    return archive


def test_voc_archive_becomes_a_data_set_that_is_checked(voc_archive: Path, tmp_path: Path) -> None:
    done = run("prepare_voc", "--voc", voc_archive, tmp_path / "data")
    assert f"data.root: {tmp_path}/data/VOCdevkit/VOC2012\n" in done.stdout
    assert "aeroplane" in done.stdout, done.stderr  # the table of classes
    assert "24" in done.stdout
    again = run("prepare_voc", "--no-check", tmp_path / "data")
    assert (again.returncode, again.stderr) == (0, "")


def test_sbd_archive_gives_trainaug(voc_archive: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "benchmark_RELEASE" / "dataset"
    (dataset / "cls").mkdir(parents=True)
    # An image that VOC has annotated for neither training nor validation.
    with tarfile.open(voc_archive, "a") as file:
        image = tmp_path / "new.jpg"
        Image.new("RGB", (8, 6)).save(image)
        file.add(image, "VOCdevkit/VOC2012/JPEGImages/new.jpg")
    labels = np.full((6, 8), 3, np.uint8)
    savemat(dataset / "cls" / "new.mat", {"GTcls": {"Segmentation": labels}})
    (dataset / "train.txt").write_text("new\n")
    (dataset / "val.txt").write_text("new\n")
    archive = tmp_path / "benchmark.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(dataset.parent, "benchmark_RELEASE")
    data = tmp_path / "data"
    done = run("prepare_voc", "--voc", voc_archive, "--sbd", archive, "--no-check", data)
    assert done.returncode == 0, done.stdout + done.stderr
    lists = data / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    assert "new" in (lists / "trainaug.txt").read_text().split()
    assert len((lists / "trainaug.txt").read_text().split()) == 25


def test_ade20k_archive_becomes_a_data_set(tmp_path: Path) -> None:
    archive = tmp_path / "ADEChallengeData2016.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for split in ("training", "validation"):
            for kind, end in (("images", "jpg"), ("annotations", "png")):
                path = tmp_path / f"{split}.{end}"
                Image.linear_gradient("L").crop((0, 0, 64, 150)).save(path)
                file.write(path, f"ADEChallengeData2016/{kind}/{split}/ADE_1.{end}")
    done = run("prepare_ade20k", "--archive", archive, tmp_path / "data")
    assert f"data.root: {tmp_path}/data/ADEChallengeData2016\n" in done.stdout
    assert "wall" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("prepare_voc", (), "VOC2012/JPEGImages: no such folder; give the archive, or --download"),
        ("prepare_voc", ("--voc", "absent.tar"), "absent.tar: no such file"),
        ("prepare_ade20k", ("--archive", "broken.zip"), "cannot be unpacked"),
        ("prepare_ade20k", ("--acrhive", "x"), "--acrhive: no such option; see --help"),
    ],
)
def test_data_set_that_cannot_be_prepared_is_named(
    name: str, arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    if "broken.zip" in arguments:
        (tmp_path / "broken.zip").write_text("no archive")
        arguments = ("--archive", str(tmp_path / "broken.zip"))
    done = run(name, *arguments, tmp_path / "data")
    assert done.returncode == 2
    assert message in done.stderr
