#!/usr/bin/env bash
# Unpack ADE20K of the scene parsing benchmark into the layout that the configs expect; check it.
set -euo pipefail
# shellcheck source=scripts/prepare_common.sh
source "$(dirname "${BASH_SOURCE[0]}")/prepare_common.sh"

URL='http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip'

usage() {
    cat << END
usage: scripts/prepare_ade20k.sh [options] [DIR]

Unpack ADE20K (150 classes, 20,210 training images) into DIR (default: data), so that
DIR/ADEChallengeData2016 is data.root. Then check all images (segtune data check).

options:
  --archive FILE   the archive ADEChallengeData2016.zip (1 GB)
  --download       download the archive; the terms of its owners apply
  --no-check       do not read the images
  -h, --help       show this text

the archive comes from
  $URL
END
}

archive='' download='' check=1 dir=data
while (($#)); do
    case "$1" in
        --archive) archive="${2:?--archive: FILE is missing}"; shift 2 ;;
        --download) download=1; shift ;;
        --no-check) check=''; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) fail "$1: no such option; see --help" ;;
        *) dir="$1"; shift ;;
    esac
done

root="$dir/ADEChallengeData2016"
if [[ -n "$download" && -z "$archive" && ! -d "$root/images" ]]; then
    archive="$(downloaded "$URL" "$dir")"
fi
if [[ -n "$archive" ]]; then unpack "$archive" "$dir"; fi
need_folders "$root" images/training images/validation annotations/training annotations/validation
echo "data.root: $root"
if [[ -n "$check" ]]; then
    check_data ade20k "$root" --set data.classes=ade20k --set data.reduce_zero_label=true
fi
