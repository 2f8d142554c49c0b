#!/usr/bin/env bash
# The ways to a server beside each other, over loopback: TCP, TLS, QUIC and a relay; and, where
# they are to be had, croc and magic-wormhole through relays of their own on this machine.
#
#   benches/reach.sh                              builds m2y in release first
#   M2Y=path/to/m2y RUNS=5 BIG_MIB=2048 benches/reach.sh
#   CROC=path/to/croc WORMHOLE=path/to/venv/bin benches/reach.sh
#
# The ways take turns within a round, and each round begins with a different one. A first round
# warms up and is not counted. CPU seconds are those of all programs that take part.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=benches/common.sh
. benches/common.sh

RUNS=${RUNS:-3}                 # rounds that count
BIG_MIB=${BIG_MIB:-2048}        # the file
SMALL=${SMALL:-15}              # files of one byte, a process and a connection for each
RAM=${RAM:-/dev/shm}            # a directory in RAM
TOUCH_MIB=${TOUCH_MIB:-1024}    # memory to touch and free before each run
CROC=${CROC:-$(command -v croc || true)}
WORMHOLE=${WORMHOLE:-}          # a directory with wormhole, twist and wormhole-transit-relay

build
W=$(mktemp -d "$RAM/m2y_reach.XXXXXX")
people "$W/m2y"
"$M2Y" folder create --root "$W/m2y" --user roland-frei plain >/dev/null
printf '[OnMeta]\n' >"$W/m2y/user/roland-frei/plain/m2y.config"

# Starts a program whose first lines name addresses: STARTED is its process, SAID the lines.
start() { # LINES COMMAND ...
    local lines=$1 line
    shift
    rm -f "$W/said"
    mkfifo "$W/said"
    "$@" >"$W/said" 2>"$W/start.log" &
    STARTED=$!
    PIDS+=("$STARTED")
    SAID=()
    exec 9<"$W/said"
    for _ in $(seq "$lines"); do
        read -r -u 9 line || die "$* does not start: $(cat "$W/start.log")"
        SAID+=("${line#listening on }")
    done
}

start 1 "$M2Y" relay serve --root "$W/relay" --listen 127.0.0.1:0
RELAY=$STARTED RELAY_AT=${SAID[0]}
"$M2Y" relay invite --root "$W/relay" --json roland-frei >"$W/invite" 2>/dev/null &
INVITE=$!
for _ in $(seq 100); do [ -s "$W/invite" ] && break; sleep 0.1; done
CODE=$(sed -n 's/.*"code":"\([^"]*\)".*/\1/p' "$W/invite" | head -n 1)
"$M2Y" relay join --root "$W/m2y" --user roland-frei "$CODE" >/dev/null
wait "$INVITE"
start 3 "$M2Y" serve --root "$W/m2y" --listen 127.0.0.1:0 --listen tls://127.0.0.1:0 --listen quic://127.0.0.1:0
SERVER=$STARTED
declare -A AT=([tcp]=${SAID[0]} [tls]=${SAID[1]} [quic]=${SAID[2]} [relay]="relay://$RELAY_AT/roland-frei")
for _ in $(seq 100); do
    "$M2Y" relay active --root "$W/relay" --json | grep -q roland-frei && break
    sleep 0.1
done
WAYS=(tcp tls quic relay)
[ -z "$CROC" ] || WAYS+=(croc)
[ -z "$WORMHOLE" ] || WAYS+=(wormhole)

# CPU seconds of processes that run.
cpu() { # PID ...
    local pid total=0 words
    for pid in "$@"; do
        read -r -a words <"/proc/$pid/stat"
        total=$((total + words[13] + words[14]))
    done
    awk -v ticks="$total" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", ticks / hz }'
}

ready() {
    python3 - "$TOUCH_MIB" <<'PYTHON'
import mmap, sys
size = int(sys.argv[1]) << 20
m = mmap.mmap(-1, size)
for at in range(0, size, 4096):
    m[at] = 1
PYTHON
}

# Runs a command: TOOK microseconds, USED CPU seconds of it and of PIDS that go on.
timed() { # PIDS COMMAND ...
    local pids=$1 before after begun own
    shift
    # shellcheck disable=SC2086 # several
    before=$(cpu $pids)
    begun=$(now)
    { TIMEFORMAT='%U %S'; time "$@" >"$W/out" 2>"$W/err" || die "$*: $(cat "$W/err")"; } 2>"$W/time"
    TOOK=$(($(now) - begun))
    # shellcheck disable=SC2086
    after=$(cpu $pids)
    own=$(awk '{ print $1 + $2 }' "$W/time")
    USED=$(awk -v a="$after" -v b="$before" -v c="$own" 'BEGIN { print a - b + c }')
}

m2y_way() { # WAY FILE
    timed "$SERVER $RELAY" "$M2Y" send --again --root "$W/m2y" --from zhenqiang --server "${AT[$1]}" "$2" roland-frei:plain
    find "$W/m2y/user/roland-frei/plain" -name 'zhenqiang_*' -delete
}

croc_way() { # FILE
    export CROC_SECRET=bench-anchor-code-one
    rm -rf "$W/croc.in"
    mkdir "$W/croc.in"
    timed "$CROC_RELAY" bash -c '
        HOME=$1 "$2" --yes --relay "$3" --no-compress send --no-local "$4" & sender=$!
        sleep 0.5
        cd "$5" && HOME=$1 "$2" --yes --relay "$3" && wait $sender' _ "$W" "$CROC" "127.0.0.1:$CROC_PORT" "$1" "$W/croc.in"
}

wormhole_way() { # FILE
    rm -rf "$W/wh.in"
    mkdir "$W/wh.in"
    timed "$WH_MAILBOX $WH_TRANSIT" bash -c '
        set -e
        urls=(--relay-url "ws://127.0.0.1:$2/v1" --transit-helper "tcp:127.0.0.1:$3")
        "$1/wormhole" "${urls[@]}" send --hide-progress --no-listen --code 7-bench-code "$4" & sender=$!
        cd "$5" && "$1/wormhole" "${urls[@]}" receive --hide-progress --no-listen --accept-file 7-bench-code
        wait $sender' _ "$WORMHOLE" "$WH_PORT" "$WH_TPORT" "$1" "$W/wh.in"
}

if [ -n "$CROC" ]; then
    CROC_PORT=$(free_port)
    HOME=$W "$CROC" relay --host 127.0.0.1 --ports "$CROC_PORT,$((CROC_PORT + 1)),$((CROC_PORT + 2))" >"$W/croc.log" 2>&1 &
    CROC_RELAY=$!
    PIDS+=("$CROC_RELAY")
fi
if [ -n "$WORMHOLE" ]; then
    WH_PORT=$(free_port) WH_TPORT=$(free_port)
    (cd "$W" && exec "$WORMHOLE/twist" wormhole-mailbox --port "tcp:$WH_PORT:interface=127.0.0.1") >"$W/mailbox.log" 2>&1 &
    WH_MAILBOX=$!
    (cd "$W" && exec "$WORMHOLE/twist" transitrelay --port "tcp:$WH_TPORT:interface=127.0.0.1") >"$W/transit.log" 2>&1 &
    WH_TRANSIT=$!
    PIDS+=("$WH_MAILBOX" "$WH_TRANSIT")
    sleep 3
fi

run() { # WAY FILE
    case $1 in
    croc) croc_way "$2" ;;
    wormhole) wormhole_way "$2" ;;
    *) m2y_way "$1" "$2" ;;
    esac
}

machine
head -c "${BIG_MIB}M" /dev/urandom >"$W/large.bin"
for round in $(seq 0 "$RUNS"); do
    for turn in "${!WAYS[@]}"; do
        way=${WAYS[$(((turn + round) % ${#WAYS[@]}))]}
        ready
        run "$way" "$W/large.bin"
        [ "$round" = 0 ] || echo "$way $TOOK $USED" >>"$W/large.txt"
    done
done
echo "| $BIG_MIB MiB | MB/s, min / median / max | beside TCP | CPU s per GB, all sides |"
echo "| --- | --- | --- | --- |"
base=$(awk '$1 == "tcp" { print $2 }' "$W/large.txt" | spread | cut -d' ' -f2)
for way in "${WAYS[@]}"; do
    read -r least middle most < <(awk -v way="$way" '$1 == way { print $2 }' "$W/large.txt" | spread)
    used=$(awk -v way="$way" '$1 == way { print $3 }' "$W/large.txt" | spread | cut -d' ' -f2)
    awk -v way="$way" -v mib="$BIG_MIB" -v a="$least" -v b="$middle" -v c="$most" -v base="$base" -v used="$used" 'BEGIN {
        bytes = mib * 1048576
        printf "| %s | %.0f / %.0f / %.0f | %.2f | %.2f |\n", way, bytes / c, bytes / b, bytes / a, base / b, used / (bytes / 1e9)
    }'
done

echo
echo "| one byte: a process, a connection, a file | ms, min / median / max |"
echo "| --- | --- |"
printf 'x' >"$W/small.bin"
for _ in $(seq "$SMALL"); do
    for way in tcp tls quic relay; do
        run "$way" "$W/small.bin"
        echo "$way $TOOK" >>"$W/small.txt"
    done
done
for way in tcp tls quic relay; do
    read -r least middle most < <(awk -v way="$way" '$1 == way { print $2 }' "$W/small.txt" | spread)
    awk -v way="$way" -v a="$least" -v b="$middle" -v c="$most" 'BEGIN { printf "| %s | %.1f / %.1f / %.1f |\n", way, a / 1e3, b / 1e3, c / 1e3 }'
done

echo
echo "memory at most: server $(memory VmHWM "$SERVER") KiB, relay $(memory VmHWM "$RELAY") KiB"
