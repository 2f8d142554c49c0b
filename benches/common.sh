# shellcheck shell=bash
# What side_by_side.sh and limits.sh share: a root with two people, a server, tidying
# up, figures. It is sourced, from the top of the repository, with set -euo pipefail.
export LC_ALL=C
unset M2Y_ROOT M2Y_SERVER M2Y_LISTEN M2Y_LOG

PIDS=()     # servers of ours, ended when we end
W=""        # our temporary directory
DISK=""     # another one, where something has to lie on a disk

# shellcheck disable=SC2329 # the trap calls it
cleanup() {
    local status=$? p
    trap - EXIT
    for p in "${PIDS[@]:-}"; do [ -z "$p" ] || kill "$p" 2>/dev/null || true; done
    for p in "${PIDS[@]:-}"; do [ -z "$p" ] || wait "$p" 2>/dev/null || true; done
    for p in "$W" "$DISK"; do [ -z "$p" ] || rm -rf "$p"; done
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

note() { echo "$*" >&2; }
die() { echo "$*" >&2; exit 1; }
now() { echo "${EPOCHREALTIME/./}"; }

# A release build, once; M2Y=... measures another program, of which we know no commit.
build() {
    if [ -n "${M2Y:-}" ]; then
        [ -x "$M2Y" ] || die "there is no program $M2Y"
        M2Y=$(realpath "$M2Y")
        BUILT="$("$M2Y" --version | head -n 1), $M2Y"
        return
    fi
    cargo build --locked --release --quiet
    M2Y=${CARGO_TARGET_DIR:-$PWD/target}/release/m2y
    BUILT="$("$M2Y" --version | head -n 1), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    git diff --quiet HEAD -- src hooks Cargo.toml Cargo.lock 2>/dev/null || BUILT+=" with changes"
}

machine() {
    echo "$(date -u '+%F %H:%M') UTC, $(uname -sr), $(nproc) cores, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), load $(cut -d' ' -f1-3 /proc/loadavg)"
    echo
    echo "$BUILT"
    echo
}

# Two people in a root, who know each other, and a folder `photo` with a hook at [OnMeta] and
# one at [OnReceived].
people() { # ROOT
    local u
    "$M2Y" init --root "$1" >/dev/null
    for u in zhenqiang roland-frei; do
        echo "{\"username\": \"$u\"}" >"$W/$u.json"
        "$M2Y" user create --root "$1" "$W/$u.json" >/dev/null
        "$M2Y" contact export --root "$1" $u >"$W/$u.card" 2>"$W/export.log" ||
            die "m2y contact export: $(cat "$W/export.log")"
    done
    "$M2Y" contact add --root "$1" --user zhenqiang "$W/roland-frei.card" >/dev/null
    "$M2Y" contact add --root "$1" --user roland-frei "$W/zhenqiang.card" >/dev/null
    folder "$1" photo OnMeta OnReceived
    # shellcheck disable=SC2034 # limits.sh uses them
    INBOX=$1/user/roland-frei/photo OUTBOX=$1/user/zhenqiang/photo
    mkdir -p "$OUTBOX"
}

# A folder of Roland's with a Rhai script at each EVENT. A script writes its event into the
# .meta, so that one can see that it ran. Without an EVENT the folder takes everything;
# OnMeta has to be the first.
folder() { # ROOT NAME EVENT ...
    local at=$1/user/roland-frei/$2 event
    "$M2Y" folder create --root "$1" --user roland-frei "$2" >/dev/null
    {
        echo "[OnMeta]"
        for event in "${@:3}"; do
            [ "$event" = OnMeta ] || echo "[$event]"
            echo "at$event.rhai"
            echo "meta.seenAt$event = \"from \" + meta.from;" >"$at/at$event.rhai"
        done
    } >"$at/m2y.config"
}

# Starts a server on a free port: SERVER is its process, ADDRESS where it listens.
# shellcheck disable=SC2034 # the scripts that source this use them
serve() { # ROOT
    rm -f "$W/said"
    mkfifo "$W/said"
    "$M2Y" serve --root "$1" --listen 127.0.0.1:0 >"$W/said" 2>"$W/serve.log" &
    SERVER=$!
    PIDS+=("$SERVER")
    read -r _ _ ADDRESS <"$W/said" || die "m2y serve does not start: $(cat "$W/serve.log")"
}

# Below the ports that the system gives to clients.
free_port() {
    local p
    while p=$((RANDOM % 12000 + 20000)); do
        (: <"/dev/tcp/127.0.0.1/$p") 2>/dev/null || break
    done
    echo $p
}

# Ends a server of ours that the figures to come do not need.
end() { # PID
    local p left=()
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    for p in "${PIDS[@]}"; do [ "$p" = "$1" ] || left+=("$p"); done
    PIDS=("${left[@]:-}")
}

# Kilobytes that a process has, or had at most: VmRSS, VmHWM.
memory() { # FIELD PID
    awk -v field="$1:" '$1 == field { print $2 }' "/proc/$2/status"
}

# The sums of all files below that end so, in their order: the same contents, whatever
# the names.
sums() { # DIR ENDING
    find "$1" -type f -name "*$2" -print0 | xargs -0 -r sha256sum | cut -d' ' -f1 | sort
}

# min, median, max of the numbers on standard input.
spread() {
    sort -g | awk '{ x[NR] = $1 } END { print x[1], (x[int((NR + 1) / 2)] + x[int((NR + 2) / 2)]) / 2, x[NR] }'
}
