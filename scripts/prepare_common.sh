# What prepare_voc.sh and prepare_ade20k.sh share. They read it with `source`.
# shellcheck shell=bash

SEGTUNE_PYTHON="${SEGTUNE_PYTHON:-python}"

fail() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}

# downloaded URL DIR: print the path of the archive, downloading it unless it is there. A download
# that was interrupted goes on.
downloaded() {
    local archive
    archive="$2/$(basename "$1")"
    mkdir -p "$2"
    if [[ ! -e "$archive" ]]; then
        curl --fail --location --continue-at - --output "$archive.part" "$1" >&2 \
            || fail "the download has failed; run the command again to go on with it"
        mv "$archive.part" "$archive"
    fi
    echo "$archive"
}

# unpack ARCHIVE DIR
unpack() {
    [[ -r "$1" ]] || fail "$1: no such file, or it cannot be read"
    mkdir -p "$2"
    echo "unpacking $1 into $2"
    case "$1" in
        *.zip) "$SEGTUNE_PYTHON" -m zipfile -e "$1" "$2" ;;
        *.tar | *.tgz | *.tar.gz) tar -xf "$1" -C "$2" ;;
        *) fail "$1: not a .tar, .tgz or .zip" ;;
    esac || fail "$1: cannot be unpacked; is the download complete?"
}

# need_folders ROOT FOLDER...: end the script unless all of them exist.
need_folders() {
    local root="$1" folder
    shift
    for folder in "$@"; do
        [[ -d "$root/$folder" ]] || fail "$root/$folder: no such folder; give the archive, or --download"
    done
}

# folder_with DIR NAME: print the folder under DIR that contains a folder NAME.
folder_with() {
    local found
    found="$(find "$1" -type d -name "$2" -print -quit)"
    [[ -n "$found" ]] || fail "$1: contains no folder $2"
    dirname "$found"
}

# check_data LAYOUT ROOT OPTION...: read all images and masks.
check_data() {
    local layout="$1" config
    config="$(mktemp --suffix=.yaml)"
    printf 'data:\n  layout: %s\n  root: "%s"\n' "$layout" "$2" > "$config"
    shift 2
    "$SEGTUNE_PYTHON" -m segtune.data_tools check "$config" "$@" || {
        rm -f "$config"
        exit 1
    }
    rm -f "$config"
}
