#!/usr/bin/env bash
# Where m2y ends: many senders at once, memory for a very large file, idle connections.
# Tables on standard output, in Markdown. Its status is 1 if a promise about memory is not
# kept: noise of the machine does not reach those.
#
#   benches/limits.sh                              builds m2y in release, then all parts
#   PARTS=idle IDLE=1000 benches/limits.sh
#
# PARTS: senders  1, 4, 16, 64 (SENDERS) m2y send at once of one file each, TOTAL_MIB in all
#        memory   one sparse file of SPARSE_GIB, or what has room, into MEM_DIR
#        idle     IDLE connections that say nothing, and as many that sent a file before;
#                 needs python3, and its package cryptography for the latter
# DIR:   where all but `memory` happens; RAM unless it says otherwise
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=benches/common.sh
. benches/common.sh

RUNS=${RUNS:-3} PARTS=${PARTS:-senders memory idle} DIR=${DIR:-/dev/shm} MEM_DIR=${MEM_DIR:-/var/tmp}
SENDERS=${SENDERS:-1 4 16 64} TOTAL_MIB=${TOTAL_MIB:-1024} SPARSE_GIB=${SPARSE_GIB:-20} IDLE=${IDLE:-10000}
PYTHON=${PYTHON:-python3}
for part in $PARTS; do
    case $part in senders | memory | idle) ;; *) die "PARTS=$PARTS: there are senders, memory and idle" ;; esac
done
build
W=$(mktemp -d "$DIR/m2y-limits.XXXXXX")
BROKEN=0

promise() { # FIGURE MOST: what a table says of it
    if awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'; then VERDICT="$2, kept"
    else VERDICT="$2, NOT kept" BROKEN=1; fi
}
mib() { awk -v k="$1" 'BEGIN { printf "%.1f", k / 1024 }'; }
# FILE ...: as a person sends files.
send() { "$M2Y" send --no-progress --root "$ROOT" --server "$ADDRESS" "${PARTIES[@]}" "$@" >/dev/null; }
PARTIES=(--from zhenqiang --to roland-frei --folder photo)
empty() { find "$INBOX" "$OUTBOX" -maxdepth 1 -type f \( -name '*.data' -o -name '*.meta' -o -name '*.done' \) -delete; }

# ---- many at once
senders() {
    local n r took file pids pid
    ROOT=$W/root
    people "$ROOT"
    serve "$ROOT"
    for n in $SENDERS; do
        mkdir -p "$W/src/$n"
        head -c $((TOTAL_MIB * 1048576 / n * n)) /dev/urandom |
            split -b $((TOTAL_MIB * 1048576 / n)) -a 4 -d --additional-suffix=.bin - "$W/src/$n/f"
        sums "$W/src/$n" .bin >"$W/sums.$n"
    done
    for ((r = 0; r <= RUNS; r++)); do
        note "senders: round $r of $RUNS"
        for n in $SENDERS; do
            empty
            cat "$W/src/$n"/* >"$W/warm"    # memory that was never touched is slow to get
            rm "$W/warm"
            sleep 0.5
            pids=()
            T0=$(now)
            for file in "$W/src/$n"/*; do
                send "$file" &
                pids+=($!)
            done
            for pid in "${pids[@]}"; do wait "$pid" || die "one of $n senders failed: $(tail -n 3 "$W/serve.log")"; done
            took=$(($(now) - T0))
            sums "$INBOX" .data | cmp - "$W/sums.$n" || die "$n senders: the file that arrived differs from the one sent"
            [ "$r" = 0 ] || echo "$took" >>"$W/took.$n"
        done
    done
    {
        echo "Senders at once, each a process with one file of its share of $TOTAL_MIB MiB, RAM to RAM ($(stat -f -c %T "$W")), hooks at both events; medians of $RUNS rounds. A round before the first one is not counted."
        echo
        echo "| senders | MB/s in all | min to max |"
        echo "| --- | --- | --- |"
        for n in $SENDERS; do
            read -r t0 t1 t2 <<<"$(spread <"$W/took.$n")"
            awk -v n="$n" -v mb="$(awk -v m="$TOTAL_MIB" 'BEGIN { print m * 1.048576e6 }')" -v t0="$t0" -v t1="$t1" -v t2="$t2" \
                'BEGIN { printf "| %d | **%.0f** | %.0f to %.0f |\n", n, mb / t1, mb / t2, mb / t0 }'
        done
        echo
        echo "Peak memory of the server: $(mib "$(memory VmHWM "$SERVER")") MiB."
        echo
    } >>"$W/report"
    end "$SERVER"
    rm -rf "$ROOT" "$W/src"
}

# ---- one very large file
memory_of_both() {
    local gib free idle peak client
    DISK=$(mktemp -d "$MEM_DIR/m2y-limits.XXXXXX")
    # The receiver writes every zero: only the source is sparse.
    free=$(($(df --output=avail -B1M "$DISK" | tail -n 1) / 1024 - 4))
    gib=$SPARSE_GIB
    [ "$gib" -le "$free" ] || gib=$free
    if [ "$gib" -lt 1 ]; then
        echo "Memory for a large file: left out, $MEM_DIR has no room." >>"$W/report"
        return
    fi
    note "memory: $gib GiB into $MEM_DIR"
    ROOT=$DISK/root
    people "$ROOT"
    serve "$ROOT"
    truncate -s "${gib}G" "$DISK/sparse.bin"
    idle=$(memory VmRSS "$SERVER")
    T0=$(now)
    # Not by the function above: its process would be a shell's.
    "$M2Y" send --no-progress --root "$ROOT" --server "$ADDRESS" "${PARTIES[@]}" "$DISK/sparse.bin" >/dev/null &
    client=$!
    # The kernel keeps the highest value; only the last tenth of a second can be missed.
    peak=0
    while kill -0 $client 2>/dev/null; do
        peak=$(memory VmHWM $client 2>/dev/null || true)
        [ -z "$peak" ] || echo "$peak" >"$W/peak"
        sleep 0.1
    done
    wait $client || die "the sender of the large file failed: $(tail -n 3 "$W/serve.log")"
    took=$(($(now) - T0))
    peak=$(cat "$W/peak")
    note "memory: comparing"
    cmp "$DISK/sparse.bin" "$INBOX"/*.data || die "the large file is not what was sent"
    {
        echo "Peak memory for one file of $gib GiB$([ "$gib" = "$SPARSE_GIB" ] || echo " (for $SPARSE_GIB GiB $MEM_DIR has no room)"), a sparse source, every byte written at the receiver's ($(stat -f -c %T "$DISK")), $(awk -v g="$gib" -v t="$took" 'BEGIN { printf "%.0f s, %.0f MB/s", t / 1e6, g * 1073.741824e6 / t }')."
        echo
        echo "| | MiB | promised, at most |"
        echo "| --- | --- | --- |"
        promise "$(mib "$peak")" 64
        echo "| sender | **$(mib "$peak")** | $VERDICT |"
        promise "$(mib "$(memory VmHWM "$SERVER")")" 64
        echo "| server | **$(mib "$(memory VmHWM "$SERVER")")** (idle before: $(mib "$idle")) | $VERDICT |"
        echo
    } >>"$W/report"
    end "$SERVER"
    rm -rf "$DISK"
    DISK=""
}

# ---- connections that only stay
idle() {
    local many=$IDLE most mode
    command -v "$PYTHON" >/dev/null || { echo "Idle connections: left out, there is no $PYTHON." >>"$W/report"; return; }
    most=$(ulimit -Hn)
    ulimit -n "$most"
    if [ "$most" != unlimited ] && [ $((many + 1000)) -gt "$most" ]; then
        many=$((most - 1000))
        echo "(ulimit -Hn is $most: $many connections in place of $IDLE.)" >>"$W/report"
    fi
    {
        echo "Idle connections, memory of the server process (VmRSS; the kernel's buffers are not in it)."
        echo
        echo "| | connections | MiB before, held, after | KiB for each | promised, at most | one file of 1 MiB beside them |"
        echo "| --- | --- | --- | --- | --- | --- |"
    } >>"$W/report"
    for mode in raw session; do
        if [ $mode = session ] && ! "$PYTHON" -c 'import cryptography' 2>/dev/null; then
            echo "| after a first file | left out: $PYTHON has no package cryptography | | | | |" >>"$W/report"
        else
            hold $mode "$many"
        fi
    done
    echo >>"$W/report"
}
hold() { # MODE HOW-MANY
    local before held after each took helper line
    note "idle: $2 connections, $1"
    ROOT=$W/idle-$1
    people "$ROOT"
    # Else the server ends what we want to count.
    cat >"$ROOT/m2y.ini" <<'END'
[server]
max_connections = 100000
max_connections_per_address = 100000
opening_deadline = 1h
idle_deadline = 1h
END
    serve "$ROOT"
    head -c 1048576 /dev/urandom >"$W/one.bin"
    # What the server gets once, for all connections, is there before we count: threads,
    # the journal, room for what is under way at once.
    for _ in 1 2 3; do send "$W/one.bin"; done
    "$PYTHON" benches/idle.py "$1" $(($2 / 50 + 8)) "${ADDRESS%:*}" "${ADDRESS##*:}" "$ROOT" </dev/null >/dev/null 2>"$W/helper.log" || true
    sleep 2
    before=$(memory VmRSS "$SERVER")
    coproc HELPER { exec "$PYTHON" benches/idle.py "$1" "$2" "${ADDRESS%:*}" "${ADDRESS##*:}" "$ROOT" 2>"$W/helper.log"; }
    helper=$HELPER_PID
    PIDS+=("$helper")
    # Bash forgets the descriptors when the helper ends.
    exec {from}<&"${HELPER[0]}" {to}>&"${HELPER[1]}"
    if ! read -r line <&"$from" || [ "$line" != "held $2" ]; then
        echo "| $1 | failed: $(tail -n 1 "$W/helper.log") | | | | |" >>"$W/report"
        BROKEN=1
        exec {from}<&- {to}>&-
        end "$helper"
        end "$SERVER"
        return
    fi
    sleep 2
    held=$(memory VmRSS "$SERVER")
    # None of them was closed meanwhile.
    [ "$(find "/proc/$SERVER/fd" -lname 'socket:*' | wc -l)" -ge "$2" ] || die "the server closed connections that were to be held"
    empty
    T0=$(now)
    send "$W/one.bin" || die "beside idle connections no file goes through: $(tail -n 3 "$W/serve.log")"
    took=$(($(now) - T0))
    cmp "$W/one.bin" "$INBOX"/*.data || die "beside idle connections: the file that arrived differs from the one sent"
    end "$helper"
    exec {from}<&- {to}>&-
    sleep 2
    after=$(memory VmRSS "$SERVER")
    each=$(awk -v a="$held" -v b="$before" -v n="$2" 'BEGIN { printf "%.2f", (a - b) / n }')
    promise "$each" 20
    case $1 in raw) line="connected, said nothing" ;; session) line="a session, after a first file of 0 bytes" ;; esac
    echo "| $line | $2 | $(mib "$before"), $(mib "$held"), $(mib "$after") | **$each** | $VERDICT | $((took / 1000)) ms |" >>"$W/report"
    end "$SERVER"
    rm -rf "$ROOT"
}

: >"$W/report"
for part in $PARTS; do
    case $part in senders) senders ;; memory) memory_of_both ;; idle) idle ;; esac
done
machine
echo "\`RUNS=$RUNS PARTS=\"$PARTS\" SENDERS=\"$SENDERS\" TOTAL_MIB=$TOTAL_MIB SPARSE_GIB=$SPARSE_GIB IDLE=$IDLE DIR=$DIR MEM_DIR=$MEM_DIR benches/limits.sh\`"
echo
cat "$W/report"
exit $BROKEN
