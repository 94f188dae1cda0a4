#!/usr/bin/env bash
# Submit a search to a Ray cluster as a job, and follow its log.
set -euo pipefail

usage() {
    cat << 'END'
usage: scripts/submit.sh [options] --space FILE --out DIR --name NAME [options of segtune search]

Submit a search to a Ray cluster as a job, and follow its log. Ctrl-C ends only the following; the
job goes on. The arguments are those of `segtune search` without --address. --out has to be on the
cluster's shared storage.

options, before those of the search:
  --dashboard URL     the cluster's dashboard (default: $RAY_API_SERVER_ADDRESS, or
                      http://127.0.0.1:8265, where scripts/ssh_dashboard.sh brings it)
  --token-file FILE   a file with the cluster's token (default: $RAY_AUTH_TOKEN_PATH, or
                      ~/.ray/auth_token if it exists); on the head node, `ray get-auth-token` prints it
  --working-dir DIR   a folder that is sent to the cluster, in which the job runs (default: none;
                      then --space and --config are paths on the cluster). It holds the study, its
                      config and your own code. Without data: Ray refuses more than 500 MiB.
  --python PYTHON     the Python on the head node (default: python)
  --no-follow         do not follow the log
  -h, --help          show this text
END
}

# has_option NAME WORD...: whether one of the words is the option NAME.
has_option() {
    local name="$1" word
    shift
    for word in "$@"; do
        if [[ "$word" == "$name" || "$word" == "$name="* ]]; then return 0; fi
    done
    return 1
}

dashboard="${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}"
token_file="${RAY_AUTH_TOKEN_PATH:-}"
python='python'
options=()
while (($#)); do
    case "$1" in
        --dashboard) dashboard="${2:?--dashboard: URL is missing}"; shift 2 ;;
        --token-file) token_file="${2:?--token-file: FILE is missing}"; shift 2 ;;
        --working-dir) options+=(--working-dir "${2:?--working-dir: DIR is missing}"); shift 2 ;;
        --python) python="${2:?--python: PYTHON is missing}"; shift 2 ;;
        --no-follow) options+=(--no-wait); shift ;;
        -h | --help) usage; exit 0 ;;
        *) break ;;
    esac
done
if (($# == 0)); then
    usage >&2
    exit 2
fi
for option in --out --name; do
    if ! has_option "$option" "$@"; then
        echo "submit.sh: $option is needed, to resume the search" >&2
        exit 2
    fi
done

if [[ -z "$token_file" && -z "${RAY_AUTH_TOKEN:-}" && -f "$HOME/.ray/auth_token" ]]; then
    token_file="$HOME/.ray/auth_token"
fi
if [[ -n "$token_file" ]]; then
    if [[ ! -r "$token_file" ]]; then
        echo "submit.sh: --token-file $token_file: cannot be read" >&2
        exit 2
    fi
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token_file"
elif [[ -n "${RAY_AUTH_TOKEN:-}" ]]; then
    export RAY_AUTH_MODE=token
fi

# The head node's address, whatever RAY_ADDRESS is here.
exec ray job submit --address "$dashboard" "${options[@]}" \
    -- "$python" -m segtune.search "$@" --address auto
