#!/usr/bin/env bash
# m2y beside what people would use otherwise, over loopback, client and server on this
# machine: a table of medians and ratios on standard output, in Markdown.
#
#   benches/side_by_side.sh                        builds m2y in release, then all parts
#   PARTS=large RUNS=5 BIG_MIB=2048 benches/side_by_side.sh
#   INSTALL=1 benches/side_by_side.sh              gets missing peers with apt-get first
#
# PARTS: large  one file of BIG_MIB
#        small  NFILES files of FSIZE bytes
#        fresh  FRESH files of 4 KiB, a new process and connection for each
# TOOLS: only these (m2y m2y-dir socat curl scp rsync tar croc); m2y is always there
# DIR:   where sources and destinations are; RAM unless it says otherwise
#
# The tools take turns within each round, another one first in each, so that a slow spell
# of the machine hits all of them; ratios are taken within a round. A round before the
# first one warms up and is not counted. What arrived is compared with what was sent,
# outside of the time, and removed. A peer that is not installed is named and left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=benches/common.sh
. benches/common.sh

RUNS=${RUNS:-3} PARTS=${PARTS:-large small fresh} DIR=${DIR:-/dev/shm}
BIG_MIB=${BIG_MIB:-2048} NFILES=${NFILES:-10000} FSIZE=${FSIZE:-4096} FRESH=${FRESH:-20}
TOOLS=${TOOLS:-m2y m2y-dir socat curl scp rsync tar croc} CROC=${CROC:-$(command -v croc || true)}
for part in $PARTS; do
    case $part in large | small | fresh) ;; *) die "PARTS=$PARTS: there are large, small and fresh" ;; esac
done
[[ $DIR != *[[:space:]]* ]] || die "DIR=$DIR: ssh and nginx need a path without white space"
PATH=$PATH:/usr/sbin

# ---- before there is no network any more: peers and m2y itself
if [ -z "${M2Y_BENCH_ALONE:-}" ]; then
    if [ "${INSTALL:-0}" = 1 ]; then
        (
            # Debian starts a server when it installs it, and we want none but our own.
            policy=/usr/sbin/policy-rc.d
            if [ ! -e $policy ]; then
                trap 'rm -f $policy' EXIT
                printf '#!/bin/sh\nexit 101\n' >$policy
                chmod 755 $policy
            fi
            apt-get update -qq
            apt-get install -y -qq --no-install-recommends \
                openssh-server openssh-client rsync socat curl nginx-light openssl
        ) >/dev/null 2>&1 || note "INSTALL=1: apt-get could not install the peers"
    fi
    build
    export M2Y BUILT
    # In a network of its own no packet leaves and no port collides; croc, which asks
    # DNS and looks for updates, runs only there.
    if [ "${ISOLATE:-1}" = 1 ] && [ "$(id -u)" = 0 ] && command -v ip >/dev/null && unshare -n true 2>/dev/null; then
        M2Y_BENCH_ALONE=1 exec unshare -n -- "$0" "$@"
    fi
else
    ip link set lo up
fi

W=$(mktemp -d "$DIR/m2y-bench.XXXXXX")
SRC=$W/src DST=$W/dst
mkdir -p "$SRC/small" "$SRC/fresh" "$DST"

# Below the ports that the system gives to clients.
free_port() {
    local p
    while p=$((RANDOM % 12000 + 20000)); do
        (: <"/dev/tcp/127.0.0.1/$p") 2>/dev/null || break
    done
    echo $p
}
MISSING=()
wanted() { [[ " $TOOLS " == *" $1 "* ]]; }
have() { # TOOL PROGRAM ...
    local tool=$1 program
    wanted "$tool" || return 1
    shift
    for program; do
        command -v "$program" >/dev/null || { MISSING+=("$tool (there is no $program)"); return 1; }
    done
}

# ---- m2y: two people, a folder that lets one in, hooks at both events
people "$W/root"
serve "$W/root"
SERVERS=("$SERVER")
LARGE=(m2y) SMALL=(m2y) ONES=(m2y)
if wanted m2y-dir; then
    if "$M2Y" send --help | grep -q -- --recursive; then SMALL+=(m2y-dir)
    else MISSING+=("m2y send --recursive (this build has none)"); fi
fi

# ---- the peers
have socat socat && LARGE+=(socat)
if have curl curl nginx openssl; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1 \
        -addext subjectAltName=IP:127.0.0.1 -keyout "$W/tls.key" -out "$W/tls.pem" 2>/dev/null
    WEB=$(free_port)
    mkdir -p "$W/nginx"
    cat >"$W/nginx/nginx.conf" <<END
$([ "$(id -u)" != 0 ] || echo "user root;")
daemon off; master_process off; pid $W/nginx/pid; error_log $W/nginx/error.log;
events {}
http {
    access_log off; sendfile on;
    client_body_temp_path $W/nginx/a; proxy_temp_path $W/nginx/b; fastcgi_temp_path $W/nginx/c;
    uwsgi_temp_path $W/nginx/d; scgi_temp_path $W/nginx/e;
    server {
        listen 127.0.0.1:$WEB ssl;
        ssl_certificate $W/tls.pem; ssl_certificate_key $W/tls.key;
        ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        root $SRC;
    }
}
END
    nginx -e "$W/nginx/error.log" -p "$W/nginx" -c "$W/nginx/nginx.conf" 2>/dev/null &
    PIDS+=($!)
    SERVERS+=($!)
    curl=(curl -sS -f --tlsv1.3 --tls13-ciphers TLS_AES_128_GCM_SHA256 --cacert "$W/tls.pem")
    : >"$SRC/probe"
    for _ in {1..25}; do
        "${curl[@]}" -o "$W/probe" "https://127.0.0.1:$WEB/probe" 2>"$W/curl.log" && { LARGE+=(curl) ONES+=(curl); break; }
        sleep 0.2
    done
    [[ " ${LARGE[*]} " == *" curl "* ]] || MISSING+=("curl: $(tail -n 1 "$W/curl.log" "$W/nginx/error.log" | tr '\n' ' ')")
fi
SSHD=""
if wanted scp || wanted rsync || wanted tar; then
    if command -v sshd ssh scp ssh-keygen >/dev/null; then
        ssh-keygen -q -t ed25519 -N '' -f "$W/host"
        ssh-keygen -q -t ed25519 -N '' -f "$W/id"
        [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
        SSH=$(free_port)
        cat >"$W/sshd_config" <<END
Port $SSH
ListenAddress 127.0.0.1
HostKey $W/host
AuthorizedKeysFile $W/id.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
END
        cat >"$W/ssh_config" <<END
Host bench
 HostName 127.0.0.1
 Port $SSH
 IdentityFile $W/id
 IdentitiesOnly yes
 UserKnownHostsFile $W/known
 GlobalKnownHostsFile /dev/null
 StrictHostKeyChecking yes
 BatchMode yes
 LogLevel ERROR
 Ciphers aes128-gcm@openssh.com
END
        echo "[127.0.0.1]:$SSH $(cut -d' ' -f1,2 "$W/host.pub")" >"$W/known"
        "$(command -v sshd)" -D -e -f "$W/sshd_config" 2>"$W/sshd.log" &
        SSHD=$!
        PIDS+=("$SSHD")
        up=0
        for _ in {1..25}; do
            ssh -F "$W/ssh_config" bench true 2>/dev/null && { up=1; break; }
            sleep 0.2
        done
        if [ $up = 1 ]; then
            SERVERS+=("$SSHD")
            wanted scp && { LARGE+=(scp) SMALL+=(scp) ONES+=(scp); }
            have rsync rsync && { LARGE+=(rsync) SMALL+=(rsync) ONES+=(rsync); }
            have tar tar && SMALL+=(tar)
        else
            MISSING+=("scp, rsync, tar over ssh (sshd does not let us in: $(tail -n 1 "$W/sshd.log"))")
        fi
    else
        MISSING+=("scp, rsync, tar over ssh (there is no ssh, scp, ssh-keygen or sshd)")
    fi
fi
if wanted croc; then
    if [ -z "$CROC" ]; then MISSING+=("croc (not installed)")
    elif [ -z "${M2Y_BENCH_ALONE:-}" ]; then MISSING+=("croc (only in a network of its own: root, unshare, ip)")
    else
        export CROC_SECRET=m2y-bench-code-one
        RELAY=$(free_port)
        (cd "$W" && HOME=$W exec "$CROC" relay --host 127.0.0.1 \
            --ports "$RELAY,$((RELAY + 1)),$((RELAY + 2)),$((RELAY + 3)),$((RELAY + 4))") >"$W/relay.log" 2>&1 &
        PIDS+=($!)
        SERVERS+=($!)
        LARGE+=(croc) SMALL+=(croc)
    fi
fi

# ---- one run of each: T0 is when its clock starts, which stops when it returns
big_m2y() {
    "$M2Y" send --no-progress --root "$W/root" --server "$ADDRESS" \
        --from zhenqiang --to roland-frei --folder photo "$SRC/big.bin" >"$W/out.log"
}
big_socat() {
    local port server
    port=$(free_port)
    socat -u -b 262144 "TCP-LISTEN:$port,bind=127.0.0.1,reuseaddr" "OPEN:$DST/big.bin,creat,trunc" &
    server=$!
    sleep 0.3
    T0=$(now)
    socat -u -b 262144 "OPEN:$SRC/big.bin,rdonly" "TCP:127.0.0.1:$port,retry=50,interval=0.02"
    wait $server
}
big_curl() { "${curl[@]}" -o "$DST/big.bin" "https://127.0.0.1:$WEB/big.bin"; }
big_scp() { scp -q -F "$W/ssh_config" "$SRC/big.bin" "bench:$DST/"; }
big_rsync() { rsync -a -W -e "ssh -F $W/ssh_config" "$SRC/big.bin" "bench:$DST/"; }
big_croc() { croc_pair "$SRC/big.bin"; }
croc_pair() { # the sender hashes and has to wait in its room before the receiver comes
    local sender
    (cd "$W" && HOME=$W exec "$CROC" --quiet --relay "127.0.0.1:$RELAY" --relay6 '' send --no-local "$1") \
        >"$W/croc.log" 2>&1 </dev/null &
    sender=$!
    sleep 3
    T0=$(now)
    (cd "$DST" && HOME=$W exec "$CROC" --yes --overwrite --quiet --relay "127.0.0.1:$RELAY" --relay6 '' --out "$DST") \
        >"$W/croc.log" 2>&1 </dev/null
    wait $sender
}

# Names relative to the outbox are short: one command holds many.
small_m2y() {
    (cd "$OUTBOX" && printf '%s\0' *.meta |
        xargs -0 -x -n "$NFILES" -s "$ARGS" "$M2Y" send --no-progress --server "$ADDRESS" >"$W/out.log")
}
small_m2y-dir() {
    "$M2Y" send --no-progress --root "$W/root" --server "$ADDRESS" \
        --from zhenqiang --to roland-frei --folder photo --recursive "$SRC/small" >"$W/out.log"
}
small_scp() { scp -q -r -F "$W/ssh_config" "$SRC/small" "bench:$DST/"; }
small_rsync() { rsync -a -W -e "ssh -F $W/ssh_config" "$SRC/small" "bench:$DST/"; }
small_tar() { tar -C "$SRC" -cf - small | ssh -F "$W/ssh_config" bench "tar -C '$DST' -xf -"; }
small_croc() { croc_pair "$SRC/small"; }

fresh_m2y() {
    local meta
    for meta in "$OUTBOX"/*.meta; do
        "$M2Y" send --no-progress --server "$ADDRESS" "$meta" >"$W/out.log"
    done
}
fresh_curl() { each "${curl[@]}" -O --output-dir "$DST" "https://127.0.0.1:$WEB/fresh/{}"; }
fresh_scp() { each scp -q -F "$W/ssh_config" "$SRC/fresh/{}" "bench:$DST/"; }
fresh_rsync() { each rsync -a -W -e "ssh -F $W/ssh_config" "$SRC/fresh/{}" "bench:$DST/"; }
each() { # COMMAND with {} for a name
    local file
    for file in "$SRC/fresh"/*; do "${@//\{\}/${file##*/}}"; done
}

# ---- the CPU that it took: of what we waited for, and of the servers with what they
# waited for, in clock ticks of both
cpu() {
    local pid stat sum=0
    for pid in $$ "${SERVERS[@]}"; do
        stat=$(<"/proc/$pid/stat")
        # What follows the name, which is in brackets and may hold anything.
        read -r -a stat <<<"${stat##*) }"
        # utime, stime, cutime, cstime are 14 to 17 of the whole; this script's own are no tool's.
        [ "$pid" = $$ ] || sum=$((sum + stat[11] + stat[12]))
        sum=$((sum + stat[13] + stat[14]))
    done
    CPU=$sum
}
# A session of sshd is counted when sshd has seen it end.
ended() {
    local children=""
    for _ in {1..40}; do
        [ -z "$SSHD" ] || children=$(cat "/proc/$SSHD/task/$SSHD/children" 2>/dev/null || true)
        [ -n "$children" ] || break
        sleep 0.05
    done
    sleep 0.1
}

tidy() {
    rm -rf "$DST"
    mkdir "$DST"
    find "$INBOX" "$OUTBOX" -maxdepth 1 -type f \( -name '*.data' -o -name '*.meta' -o -name '*.done' -o -name '*.failed' \) -delete
}
# Memory that was never touched is slow to get: touch as much as will be needed.
warm_big() { cp "$SRC/big.bin" "$W/warm" && rm "$W/warm"; }
before_big() { tidy; warm_big; }
before_small() { prepared small "$1"; }
before_fresh() { prepared fresh "$1"; }
prepared() { # the .meta files are there before the clock starts
    local file
    tidy
    [ "$2" = m2y ] || { sleep 0.5; return; }
    rm -f "$OUTBOX"/*.bin
    cp "$SRC/$1"/* "$OUTBOX"
    for file in "$OUTBOX"/*.bin; do prepare_meta "$file"; done
    # A server that watches the folder is done with what we deleted there.
    sleep 0.5
}
arrived() { case $1 in m2y*) echo .data "$INBOX" ;; *) echo .bin "$DST" ;; esac; }
hooks_ran() { # HOW OFTEN
    local ran
    ran=$(find "$INBOX" -maxdepth 1 -name '*.meta' -print0 | xargs -0 -r grep -l '"shelf": *"of zhenqiang"' | wc -l)
    [ "$ran" = "$1" ] || { note "[OnReceived] left its word in $ran metas of $1"; return 1; }
}
check_big() {
    local dir ending file
    read -r ending dir <<<"$(arrived "$1")"
    file=$(find "$dir" -maxdepth 1 -name "*$ending")
    cmp "$file" "$SRC/big.bin" || return 1
    [ "$1" != m2y ] || hooks_ran 1
}
check_small() { all_there "$1" small "$NFILES"; }
check_fresh() { all_there "$1" fresh "$FRESH"; }
all_there() {
    local dir ending
    read -r ending dir <<<"$(arrived "$1")"
    sums "$dir" "$ending" | cmp - "$W/sums.$2" || return 1
    case $1 in m2y*) hooks_ran "$3" ;; esac
}

once() { # PART TOOL ROUND
    local c0 took
    "before_$1" "$2"
    cpu; c0=$CPU
    T0=$(now)
    "$1_$2" || die "$2 failed ($1): $(tail -n 3 "$W/out.log" "$W/serve.log" 2>/dev/null)"
    took=$(($(now) - T0))
    ended
    cpu
    "check_$1" "$2" || die "$2: what arrived is not what was sent ($1)"
    [ "$3" = 0 ] || echo "$took $((CPU - c0))" >>"$W/result.$1.$2"
}
rounds() { # PART TOOL ...
    local part=$1 r i n
    shift
    n=$#
    for ((r = 0; r <= RUNS; r++)); do
        note "$part: round $r of $RUNS"
        for ((i = 0; i < n; i++)); do
            local at=$(((r + i) % n + 1))
            once "$part" "${!at}" "$r"
        done
    done
    tidy
}

declare -A SAYS=(
    [m2y]="m2y" [m2y-dir]="m2y, which also writes the .meta files" [socat]="socat, plaintext"
    [curl]="curl from nginx, TLS 1.3 AES-128-GCM" [scp]="scp, aes128-gcm" [rsync]="rsync -aW over ssh, aes128-gcm"
    [tar]="tar over ssh, aes128-gcm" [croc]="croc, its own relay")
# PART:TOOL, how many times as fast m2y has to be.
declare -A PROMISED=([big:scp]=3 [big:curl]=1.5 [big:socat]=1 [small:rsync]=1)
TICK=$(getconf CLK_TCK)
table() { # PART HOW-MANY UNIT TOOL ...
    local part=$1 many=$2 unit=$3 tool
    shift 3
    echo "| | $unit | min to max | m2y is so many times as fast: min, median, max by round | promised | CPU s, both sides |"
    echo "| --- | --- | --- | --- | --- | --- |"
    for tool; do
        read -r t0 t1 t2 <<<"$(cut -d' ' -f1 "$W/result.$part.$tool" | spread)"
        read -r q0 q1 q2 <<<"$(paste -d' ' "$W/result.$part.$tool" "$W/result.$part.m2y" | awk '{ print $1 / $3 }' | spread)"
        read -r _ c _ <<<"$(cut -d' ' -f2 "$W/result.$part.$tool" | spread)"
        # Three digits say something.
        awk -v n="${SAYS[$tool]}" -v k="$many" -v t0="$t0" -v t1="$t1" -v t2="$t2" -v q="$q0 $q1 $q2" -v c="$c" \
            -v tick="$TICK" -v own="$([ "$tool" = m2y ] && echo 1)" -v want="${PROMISED[$part:$tool]:-}" '
            function f(x) { return x < 10 ? sprintf("%.2f", x) : x < 100 ? sprintf("%.1f", x) : sprintf("%.0f", x) }
            BEGIN {
                split(q, r, " ")
                ratio = own ? "1" : f(r[1]) ", **" f(r[2]) "**, " f(r[3])
                promise = want == "" ? "" : want (r[2] >= want ? ", kept" : ", NOT kept")
                printf "| %s | **%s** | %s to %s | %s | %s | %.2f |\n", n, f(k * 1e6 / t1), f(k * 1e6 / t2), f(k * 1e6 / t0), ratio, promise, c / tick
            }'
    done
    echo
}

# ---- the sources, which are the same for all
random_files() { # DIR HOW-MANY BYTES
    head -c $(($2 * $3)) /dev/urandom | split -b "$3" -a 6 -d --additional-suffix=.bin - "$1/f"
}
for part in $PARTS; do
    case $part in
    large) head -c $((BIG_MIB * 1048576)) /dev/urandom >"$SRC/big.bin" ;;
    small)
        # All paths in one command: the system's limit counts a pointer for each as well.
        ARGS=$(($(getconf ARG_MAX) / 2))
        [ $((NFILES * 20)) -lt $ARGS ] || die "NFILES=$NFILES: so many paths do not fit into one command"
        random_files "$SRC/small" "$NFILES" "$FSIZE"
        sums "$SRC/small" .bin >"$W/sums.small"
        ;;
    fresh)
        random_files "$SRC/fresh" "$FRESH" 4096
        sums "$SRC/fresh" .bin >"$W/sums.fresh"
        ;;
    esac
done

# ---- the rounds, then the tables
for part in $PARTS; do
    case $part in
    large) rounds big "${LARGE[@]}" ;;
    small) rounds small "${SMALL[@]}" ;;
    fresh) rounds fresh "${ONES[@]}" ;;
    esac
done
machine
echo "\`RUNS=$RUNS PARTS=\"$PARTS\" BIG_MIB=$BIG_MIB NFILES=$NFILES FSIZE=$FSIZE FRESH=$FRESH DIR=$DIR benches/side_by_side.sh\`, medians of $RUNS rounds, $(stat -f -c %T "$W")."
echo "Peers: $(for peer in "ssh -V" "nginx -v" "curl --version" "rsync --version" "socat -V" ${CROC:+"$CROC --version"}; do
    # shellcheck disable=SC2086 # words of a command
    command -v "${peer%% *}" >/dev/null && $peer 2>&1 | grep -m 1 -E '[0-9]\.[0-9]' | cut -d' ' -f1-4
done | paste -sd';' | sed 's/;/; /g')."
for m in "${MISSING[@]:-}"; do [ -z "$m" ] || echo "Left out: $m."; done
echo
for part in $PARTS; do
    case $part in
    large)
        echo "One file of $BIG_MIB MiB, MB/s (10^6). m2y: one \`m2y send --from --to --folder\`, hooks at [OnMeta] and [OnReceived], durable before the ACK."
        echo
        table big "$(awk -v m="$BIG_MIB" 'BEGIN { print m * 1.048576 }')" MB/s "${LARGE[@]}"
        ;;
    small)
        echo "$NFILES files of $FSIZE bytes, files/s. m2y: one \`m2y send\` of $NFILES .meta files that were written before the clock started, a Rhai hook at [OnMeta] and one at [OnReceived] for each; timed until it returned, with every ACK. The others run no hooks."
        echo
        table small "$NFILES" files/s "${SMALL[@]}"
        ;;
    fresh)
        echo "$FRESH files of 4 KiB one after the other, a new process and a new connection for each, sends/s. m2y: \`m2y send\` of a .meta that was written before the clock started, both hooks."
        echo
        table fresh "$FRESH" sends/s "${ONES[@]}"
        ;;
    esac
done
echo "Peak memory of the m2y server over all rounds: $(memory VmHWM "${SERVERS[0]}" | awk '{ printf "%.1f", $1 / 1024 }') MiB."
