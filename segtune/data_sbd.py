"""`segtune data sbd`: SBD's masks and the list trainaug for PASCAL VOC 2012."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.cli import DONE, PARTLY_REFUSED, path_argument
from segtune.errors import DataError
from segtune.reporting.progress import follow

if TYPE_CHECKING:
    from segtune.data.sbd import AugPlan, Progress


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand; its arguments name the function that runs it."""
    parser = commands.add_parser(
        "sbd",
        help="SBD's .mat files to SegmentationClassAug and the list trainaug of PASCAL VOC 2012",
        description="Write SegmentationClassAug/ and the lists trainaug.txt and aug.txt into VOC "
        "2012. trainaug: VOC's train and SBD's train and val, without VOC's val (10,582 "
        "images). Images that VOC has annotated keep VOC's mask. A run that was interrupted goes "
        "on where it was: masks that are there already are kept.",
    )
    parser.add_argument(
        "--sbd", required=True, type=path_argument, metavar="DIR", help="folder benchmark_RELEASE"
    )
    parser.add_argument(
        "--voc", required=True, type=path_argument, metavar="DIR", help="folder VOC2012"
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="write the lists without the images whose SBD masks are refused",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace masks and lists that differ"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand and return its exit code."""
    from segtune.data.sbd import NUM_TRAINAUG, OUT, Progress, check_lists, plan_aug, write_lists

    plan = plan_aug(Path(arguments.sbd), Path(arguments.voc))
    check_lists(plan, overwrite=arguments.overwrite or arguments.skip_broken)
    progress = Progress()
    _write_masks(plan, progress, overwrite=arguments.overwrite)
    if progress.refused:
        _check_may_skip(plan, progress, may_skip=arguments.skip_broken)
    counts = write_lists(plan, progress.refused)
    for path, number in counts.items():
        print(f"{path}: {number} images")
    total = len(plan.train) + len(plan.aug)
    print(
        f"trainaug: {len(plan.train)} of VOC's train and {len(plan.aug)} of SBD's {plan.num_sbd}, "
        f"without VOC's {len(plan.val)} of val"
    )
    if total != NUM_TRAINAUG:
        print(f"note: the full data sets give {NUM_TRAINAUG} images, these lists give {total}")
    print(f"to train on them: --set data.root={plan.voc} --set 'data.train=[trainaug]'")
    print(f"data.train with aug or trainaug reads the masks in {OUT}")
    return PARTLY_REFUSED if progress.refused else DONE


def _write_masks(plan: AugPlan, progress: Progress, *, overwrite: bool) -> None:
    from segtune.data.sbd import write_masks

    total = len(plan.train) + len(plan.val) + len(plan.aug)
    follow(write_masks(plan, progress, overwrite=overwrite), total, "masks")
    print(
        f"{plan.out}: {progress.num_written} masks written, {progress.num_kept} were there, "
        f"{len(progress.refused)} refused"
    )


def _check_may_skip(plan: AugPlan, progress: Progress, *, may_skip: bool) -> None:
    """Raise DataError if the lists cannot be written without the refused masks."""
    number = len(progress.refused)
    of_voc = sorted(set(progress.refused) - set(plan.aug))
    if of_voc:
        raise DataError(
            f"{len(of_voc)} of the {number} refused masks belong to VOC's train and val, the first "
            f"is {of_voc[0]}; the lists need them: repair them and run the command again (the "
            "other masks are kept)"
        )
    if not may_skip:
        raise DataError(
            f"refused masks: {number}, so the lists are not written; repair the files and run the "
            "command again (the other masks are kept), or write the lists without these images: "
            "--skip-broken"
        )
