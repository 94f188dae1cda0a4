#!/usr/bin/env bash
# Unpack PASCAL VOC 2012, and SBD, into the layout that the configs expect; check the result.
set -euo pipefail
# shellcheck source=scripts/prepare_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/prepare_common.sh"

VOC_URL='http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar'
SBD_URL='https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz'

usage() {
    cat << END
usage: scripts/prepare_voc.sh [options] [DIR]

Unpack PASCAL VOC 2012 into DIR (default: data), so that DIR/VOCdevkit/VOC2012 is data.root; with SBD,
also make SegmentationClassAug and the list trainaug. Then check all images (segtune data check).

options:
  --voc FILE     the archive VOCtrainval_11-May-2012.tar (2 GB)
  --sbd FILE     the archive benchmark.tgz of SBD (1.4 GB), for the 10,582 images of trainaug
  --download     download the archives that are not given; the terms of their owners apply
  --no-check     do not read the images
  -h, --help     show this text

the archives come from
  $VOC_URL
  $SBD_URL
END
}

voc='' sbd='' download='' check=1 dir=data
while (($#)); do
    case "$1" in
        --voc) voc="${2:?--voc: FILE is missing}"; shift 2 ;;
        --sbd) sbd="${2:?--sbd: FILE is missing}"; shift 2 ;;
        --download) download=1; shift ;;
        --no-check) check=''; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) fail "$1: no such option; see --help" ;;
        *) dir="$1"; shift ;;
    esac
done

root="$dir/VOCdevkit/VOC2012"
if [[ -n "$download" && -z "$voc" && ! -d "$root/JPEGImages" ]]; then
    voc="$(downloaded "$VOC_URL" "$dir")"
fi
if [[ -n "$download" && -z "$sbd" ]]; then sbd="$(downloaded "$SBD_URL" "$dir")"; fi
if [[ -n "$voc" ]]; then unpack "$voc" "$dir"; fi
# Some mirrors have another folder around it.
if [[ ! -d "$root" && -d "$dir/TrainVal/VOCdevkit/VOC2012" ]]; then
    mv "$dir/TrainVal/VOCdevkit" "$dir/VOCdevkit"
fi
need_folders "$root" JPEGImages SegmentationClass ImageSets/Segmentation

train='[train]'
if [[ -n "$sbd" ]]; then
    unpack "$sbd" "$dir/sbd"
    dataset="$(folder_with "$dir/sbd" cls)"
    "$SEGTUNE_PYTHON" -m segtune.data_tools sbd --sbd "$dataset" --voc "$root"
    train='[trainaug]'
fi
echo "data.root: $root"
if [[ -n "$check" ]]; then
    check_data voc "$root" --set data.classes=voc --set "data.train=$train"
fi
