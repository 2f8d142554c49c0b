#!/usr/bin/env bash
# One large file over loopback: m2y (sealed, scripts on, durable) beside plaintext socat
# and, where there is an sshd to start, scp with aes128-gcm. The tools take turns in
# every round, so that a slow spell of the machine hits all of them; the table has the
# median of each and its ratio to socat in the same round.
#
#   benches/side_by_side.sh            needs socat; builds m2y in release
#   RUNS=5 BIG_MIB=2048 DIR=/dev/shm benches/side_by_side.sh
set -euo pipefail
export LC_ALL=C
RUNS=${RUNS:-5} BIG_MIB=${BIG_MIB:-2048} DIR=${DIR:-/dev/shm} PORT=${PORT:-22322}
cd "$(dirname "$0")/.."
command -v socat >/dev/null || { echo "socat is needed: apt-get install socat" >&2; exit 2; }
cargo build --release --quiet
M2Y=${M2Y:-$PWD/target/release/m2y}

W=$(mktemp -d "$DIR/m2y-bench.XXXXXX")
PIDS=()
cleanup() {
    for p in "${PIDS[@]:-}"; do [ -n "$p" ] && kill "$p" 2>/dev/null && wait "$p" 2>/dev/null; done
    rm -rf "$W"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

head -c $((BIG_MIB * 1048576)) /dev/urandom > "$W/big.bin"

# ---- m2y: two people, a folder that lets one in
R=$W/root
"$M2Y" init --root "$R" >/dev/null
for u in zhenqiang roland-frei; do
    echo "{\"username\": \"$u\"}" > "$W/$u.json"
    "$M2Y" user create --root "$R" "$W/$u.json" >/dev/null
    "$M2Y" contact export --root "$R" $u > "$W/$u.card"
done
"$M2Y" contact add --root "$R" --user zhenqiang "$W/roland-frei.card" >/dev/null
"$M2Y" contact add --root "$R" --user roland-frei "$W/zhenqiang.card" >/dev/null
"$M2Y" folder create --root "$R" --user roland-frei photo >/dev/null
echo "zhenqiang = always" >> "$R/user/roland-frei/photo/m2y.config"
mkfifo "$W/said"
"$M2Y" serve --root "$R" --listen 127.0.0.1:0 > "$W/said" 2>"$W/serve.log" & SERVER=$!
PIDS+=("$SERVER")
read -r _ _ ADDRESS < "$W/said"

# ---- sshd, if there is one
SCP=0
if command -v ssh-keygen >/dev/null && { command -v sshd >/dev/null || [ -x /usr/sbin/sshd ]; }; then
    ssh-keygen -q -t ed25519 -N '' -f "$W/host"; ssh-keygen -q -t ed25519 -N '' -f "$W/id"
    mkdir -p /run/sshd 2>/dev/null || true
    "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f /dev/null -o Port=$PORT -o ListenAddress=127.0.0.1 \
        -o HostKey="$W/host" -o AuthorizedKeysFile="$W/id.pub" -o StrictModes=no -o UsePAM=no \
        -o PidFile=none -o Subsystem="sftp internal-sftp" 2>"$W/sshd.log" & PIDS+=($!)
    SSH="-q -P $PORT -i $W/id -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -c aes128-gcm@openssh.com"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        # shellcheck disable=SC2086
        scp $SSH "$W/id.pub" "127.0.0.1:$W/probe" 2>/dev/null && { SCP=1; break; }; sleep 0.2
    done
fi

now() { echo "${EPOCHREALTIME/./}"; }
run_socat() {
    socat -u -b 262144 TCP-LISTEN:$((PORT + 1)),bind=127.0.0.1,reuseaddr "OPEN:$W/out.bin,creat,trunc" & local s=$!
    sleep 0.2; T0=$(now)
    socat -u -b 262144 "OPEN:$W/big.bin,rdonly" TCP:127.0.0.1:$((PORT + 1)); wait $s
}
run_m2y() {
    T0=$(now)
    "$M2Y" send --no-progress --root "$R" --server "$ADDRESS" --from zhenqiang --to roland-frei --folder photo "$W/big.bin" >/dev/null
}
# shellcheck disable=SC2086
run_scp() { T0=$(now); scp $SSH "$W/big.bin" "127.0.0.1:$W/out.bin"; }
tidy() { rm -f "$W/out.bin" "$R"/user/roland-frei/photo/*.data "$R"/user/zhenqiang/photo/*; cp "$W/big.bin" "$W/warm"; rm "$W/warm"; }

TOOLS=(socat m2y); [ $SCP = 1 ] && TOOLS+=(scp)
for ((r = 0; r <= RUNS; r++)); do       # round 0 warms up and is not counted
    for t in "${TOOLS[@]}"; do
        tidy; "run_$t"; us=$(($(now) - T0))
        [ "$r" = 0 ] || echo "$us" >> "$W/res.$t"
    done
done

echo "$(date -u +%F), $(uname -sr), $(nproc) cores, $(awk -F': ' '/model name/{print $2; exit}' /proc/cpuinfo)"
echo "one file of $BIG_MIB MiB, $DIR, median of $RUNS rounds"
echo
echo "| | MB/s | to socat, by round (min, median, max) |"
echo "| --- | --- | --- |"
for t in "${TOOLS[@]}"; do
    paste "$W/res.socat" "$W/res.$t" | awk -v n="$t" -v mib="$BIG_MIB" '
        { s[NR] = $2; q[NR] = $1 / $2 }
        function sort(a, n,  i, j, x) { for (i = 2; i <= n; i++) { x = a[i]; for (j = i - 1; j > 0 && a[j] > x; j--) a[j + 1] = a[j]; a[j + 1] = x } }
        END { sort(s, NR); sort(q, NR); m = int((NR + 1) / 2)
              printf "| %s | %.0f | %.2f, %.2f, %.2f |\n", n, mib * 1.048576e6 / s[m], q[1], q[m], q[NR] }'
done
grep VmHWM "/proc/$SERVER/status" | awk '{ printf "\npeak memory of the m2y server: %.1f MiB\n", $2 / 1024 }'
