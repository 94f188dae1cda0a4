#!/usr/bin/env bash
# Bring the dashboard of a Ray that runs on another machine to this one, through ssh.
set -euo pipefail

usage() {
    cat << 'END'
usage: scripts/ssh_dashboard.sh [options] [USER@]HOST [options of ssh]

Bring the dashboard of a Ray that runs on HOST to this machine, through ssh: until Ctrl-C,
http://127.0.0.1:PORT here is the dashboard there. It asks for a token; this prints how to get it.

options:
  --port PORT          the port here (default: 8265)
  --remote-port PORT   the port of the dashboard on HOST (default: 8265; a local Ray takes the next
                       free one: a search prints it)
  -h, --help           show this text
END
}

port=8265
remote_port=8265
while (($#)); do
    case "$1" in
        --port) port="${2:?--port: PORT is missing}"; shift 2 ;;
        --remote-port) remote_port="${2:?--remote-port: PORT is missing}"; shift 2 ;;
        -h | --help) usage; exit 0 ;;
        *) break ;;
    esac
done
if (($# == 0)); then
    usage >&2
    exit 2
fi
for number in "$port" "$remote_port"; do
    if [[ ! "$number" =~ ^[0-9]{1,5}$ ]]; then
        echo "ssh_dashboard.sh: $number: a port is a number up to 65535" >&2
        exit 2
    fi
done

echo "dashboard: http://127.0.0.1:$port (until Ctrl-C)"
echo "its token: ssh $1 cat .ray/auth_token"
echo "           if Ray was started with another one: the file that RAY_AUTH_TOKEN_PATH names there"
exec ssh -N -o ExitOnForwardFailure=yes -L "127.0.0.1:$port:127.0.0.1:$remote_port" "$@"
