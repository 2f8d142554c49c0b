#!/usr/bin/env bash
# m2y beside what people would use otherwise, over loopback, client and server on this
# machine. Prints a Markdown table for each part.
#
#   benches/side_by_side.sh                                builds m2y in release, then all parts: half an hour
#   PARTS="ram-large" RUNS=9 benches/side_by_side.sh
#   M2Y=path/to/m2y benches/side_by_side.sh                measures that program
#   INSTALL=1 benches/side_by_side.sh                      gets missing peers with apt-get first
#
# On a disk everybody is durable: m2y flushes before it answers, the others are told to
# flush. In RAM a flush costs nothing, and what is left is CPU.
#
# The programs take turns within a round, and each round begins with a different one, so that
# a slow spell of the machine hits all of them. A first round warms up and is not counted.
# What arrived is compared with what was sent, outside of the time. A peer that is missing
# is named and left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=benches/common.sh
. benches/common.sh

PARTS=${PARTS:-disk-small disk-large ram-small ram-large fresh}
RUNS=${RUNS:-5}                 # rounds that count
DIR=${DIR:-${CARGO_TARGET_DIR:-target}/bench}   # a directory on a disk, for disk-small and disk-large
RAM=${RAM:-/dev/shm}            # a directory in RAM, for the others
DISK_FILES=${DISK_FILES:-3000}  # files of disk-small
RAM_FILES=${RAM_FILES:-10000}   # files of ram-small
FSIZE=${FSIZE:-4096}            # bytes of each of those
BIG_MIB=${BIG_MIB:-2048}        # the one file of disk-large and of ram-large
FRESH=${FRESH:-20}              # files of 4 KiB, a new process and connection for each
TOUCH_MIB=${TOUCH_MIB:-3072}    # memory to touch and free before each run, see `ready`
TOOLS=${TOOLS:-}                # only these of the programs below; m2y is always there

# What runs in each part, and what it is called in the tables.
declare -A RUN=(
    [disk-small]="m2y m2y-none rsync rsync-fsync"
    [disk-large]="m2y scp-sync rsync-fsync"
    [ram-small]="m2y m2y-onmeta m2y-none scp rsync tar"
    [ram-large]="m2y socat curl scp rsync"
    [fresh]="m2y curl scp rsync")
declare -A SAYS=(
    [m2y]="m2y, hooks at OnMeta and OnReceived" [m2y-onmeta]="m2y, a hook at OnMeta" [m2y-none]="m2y, no hook"
    [socat]="socat, plain TCP" [curl]="curl from nginx, TLS 1.3 AES-128-GCM"
    [scp]="scp, aes128-gcm" [scp-sync]="scp, aes128-gcm, then sync FILE"
    [rsync]="rsync -aW over ssh, aes128-gcm" [rsync-fsync]="rsync -aW --fsync over ssh, aes128-gcm"
    [tar]="tar over ssh, aes128-gcm")
# PART:TOOL, and how many times as fast as that m2y has to be.
declare -A PROMISED=([ram-large:scp]=3 [ram-large:curl]=1.5 [ram-large:socat]=0.95 [ram-small:rsync]=1)

for part in $PARTS; do [ -n "${RUN[$part]:-}" ] || die "PARTS=$PARTS: there are ${!RUN[*]}"; done
mkdir -p "$DIR"
DIR=$(realpath "$DIR")
[[ $DIR$RAM != *[[:space:]]* ]] || die "ssh and nginx need paths without white space: DIR=$DIR RAM=$RAM"
PATH=$PATH:/usr/sbin

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
W=$(mktemp -d "$RAM/m2y-bench.XXXXXX")
[[ $PARTS != *disk-* ]] || DISK=$(mktemp -d "$DIR/m2y-bench.XXXXXX")

# ---- the peers
MISSING=""
missing() { note "left out: $1"; MISSING+="Left out: $1."$'\n'; }
wanted() { # TOOL: in a part that runs
    local part
    [[ " m2y ${TOOLS:-$1} " == *" $1 "* ]] || return 1
    for part in $PARTS; do [[ " ${RUN[$part]} " != *" $1 "* ]] || return 0; done
    return 1
}
have() { # TOOL PROGRAM ...
    local program
    wanted "$1" || return 1
    for program in "${@:2}"; do
        command -v "$program" >/dev/null || { missing "$1 ($program is not installed)"; return 1; }
    done
}
up() { # COMMAND ...: waits until it succeeds
    for _ in {1..25}; do
        "$@" >/dev/null 2>"$W/up.log" && return
        sleep 0.2
    done
    return 1
}

start_nginx() {
    local port
    port=$(free_port)
    WEB=https://127.0.0.1:$port
    CURL=(curl -sS -f --tlsv1.3 --tls13-ciphers TLS_AES_128_GCM_SHA256 --cacert "$W/tls.pem")
    mkdir "$W/nginx"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1 \
        -addext subjectAltName=IP:127.0.0.1 -keyout "$W/tls.key" -out "$W/tls.pem" 2>/dev/null
    cat >"$W/nginx/nginx.conf" <<END
$([ "$(id -u)" != 0 ] || echo "user root;")
daemon off; master_process off; pid $W/nginx/pid; error_log $W/nginx/error.log;
events {}
http {
    access_log off; sendfile on;
    client_body_temp_path $W/nginx/a; proxy_temp_path $W/nginx/b; fastcgi_temp_path $W/nginx/c;
    uwsgi_temp_path $W/nginx/d; scgi_temp_path $W/nginx/e;
    server {
        listen 127.0.0.1:$port ssl;
        ssl_certificate $W/tls.pem; ssl_certificate_key $W/tls.key;
        ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        location = /up { return 204; }
        location / { root $W; }
    }
}
END
    nginx -e "$W/nginx/error.log" -p "$W/nginx" -c "$W/nginx/nginx.conf" 2>/dev/null &
    PIDS+=($!)
    SERVERS+=($!)
    up "${CURL[@]}" "$WEB/up" && return
    missing "curl ($(tail -qn 1 "$W/up.log" "$W/nginx/error.log" | tr '\n' ' '))"
    return 1
}
start_sshd() {
    local port
    port=$(free_port)
    ssh-keygen -q -t ed25519 -N '' -f "$W/host"
    ssh-keygen -q -t ed25519 -N '' -f "$W/id"
    [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
    cat >"$W/sshd_config" <<END
Port $port
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
 Port $port
 IdentityFile $W/id
 IdentitiesOnly yes
 UserKnownHostsFile $W/known
 GlobalKnownHostsFile /dev/null
 StrictHostKeyChecking yes
 BatchMode yes
 LogLevel ERROR
 Ciphers aes128-gcm@openssh.com
END
    echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$W/host.pub")" >"$W/known"
    "$(command -v sshd)" -D -e -f "$W/sshd_config" 2>"$W/sshd.log" &
    SSHD=$!
    PIDS+=("$SSHD")
    SERVERS+=("$SSHD")
    up ssh -F "$W/ssh_config" bench true && return
    missing "scp, rsync and tar over ssh ($(tail -qn 1 "$W/up.log" "$W/sshd.log" | tr '\n' ' '))"
    return 1
}

SERVERS=() SSHD="" READY=" m2y m2y-onmeta m2y-none "
! have socat socat || READY+="socat "
! have curl curl nginx openssl || ! start_nginx || READY+="curl "
over_ssh=" "
for tool in scp scp-sync rsync rsync-fsync tar; do
    ! have $tool sshd ssh ssh-keygen "${tool%%-*}" || over_ssh+="$tool "
done
if [[ $over_ssh == *rsync-fsync* ]] && ! rsync --help | grep -e --fsync >/dev/null; then
    missing "rsync-fsync (this rsync has no --fsync)"
    over_ssh=${over_ssh/ rsync-fsync / }
fi
[ "$over_ssh" = " " ] || ! start_sshd || READY+=$over_ssh

# ---- one run of each, of a file or a directory; its clock starts at T0
transfer() { # TOOL SOURCE
    local port server
    case $1 in
    m2y*)
        "$M2Y" send --no-progress --root "$ROOT" --server "$ADDRESS" \
            --from zhenqiang --to roland-frei --folder "$NAME" --recursive "$2"
        ;;
    socat)
        port=$(free_port)
        socat -u -b 262144 "TCP-LISTEN:$port,bind=127.0.0.1,reuseaddr" "OPEN:$DST/${2##*/},creat,trunc" &
        server=$!
        sleep 0.3
        T0=$(now)
        socat -u -b 262144 "OPEN:$2,rdonly" "TCP:127.0.0.1:$port,retry=50,interval=0.02" && wait $server
        ;;
    curl) "${CURL[@]}" -O --output-dir "$DST" "$WEB/${2#"$W"/}" ;;
    scp) scp -q -r -F "$W/ssh_config" "$2" "bench:$DST/" ;;
    scp-sync) transfer scp "$2" && sync "$DST/${2##*/}" ;;
    rsync) rsync -aW -e "ssh -F $W/ssh_config" "$2" "bench:$DST/" ;;
    rsync-fsync) rsync -aW --fsync -e "ssh -F $W/ssh_config" "$2" "bench:$DST/" ;;
    tar) tar -C "$SRC" -cf - "${2##*/}" | ssh -F "$W/ssh_config" bench "tar -C '$DST' -xf -" ;;
    esac
}
run() { # PART TOOL
    local file
    case $1 in
    *-small) transfer "$2" "$SRC/small" ;;
    *-large) transfer "$2" "$SRC/big.bin" ;;
    fresh) for file in "$SRC/small"/*; do transfer "$2" "$file" || return; done ;;
    esac
}

# Each run has a directory or a folder of its own: on ext4 new files cost more CPU where others
# were deleted in the last seconds.
# Last, memory is touched and freed. A virtual machine may get a page from its host only when
# it first touches it, at less than the speed of a transfer, and give it back seconds later.
ready() { # TOOL
    mkdir "$DST"
    case $1 in
    m2y) folder "$ROOT" "$NAME" OnMeta OnReceived ;;
    m2y-onmeta) folder "$ROOT" "$NAME" OnMeta ;;
    m2y-none) folder "$ROOT" "$NAME" ;;
    esac
    find "$SRC" -type f -exec cat {} + >/dev/null
    sync -f "$DST"
    dd if=/dev/zero of=/dev/null bs="${TOUCH_MIB}M" count=1 iflag=fullblock status=none
}

# CPU time of what we waited for, and of the servers with what they waited for, in clock ticks.
cpu() {
    local pid stat sum=0
    for pid in $$ "$SERVER" "${SERVERS[@]}"; do
        stat=$(<"/proc/$pid/stat")
        # What follows the name, which is in brackets and may hold anything.
        read -r -a stat <<<"${stat##*) }"
        # utime, stime, cutime, cstime are 14 to 17 of the whole; the first two of this
        # script belong to no program.
        [ "$pid" = $$ ] || sum=$((sum + stat[11] + stat[12]))
        sum=$((sum + stat[13] + stat[14]))
    done
    CPU=$sum
}
# sshd's counts a session when it has seen it end; others may have something left to do.
ended() {
    local children=""
    for _ in {1..40}; do
        [ -z "$SSHD" ] || children=$(cat "/proc/$SSHD/task/$SSHD/children" 2>/dev/null || true)
        [ -n "$children" ] || break
        sleep 0.05
    done
    sleep 0.2
}

# The contents arrived, and with m2y every hook has left its word in every .meta.
check() { # TOOL
    local event inbox=$ROOT/user/roland-frei/$NAME events="" seen
    case $1 in
    m2y | m2y-onmeta | m2y-none) sums "$inbox" .data ;;
    *) sums "$DST" .bin ;;
    esac | cmp - "$W/sums" || return 1
    case $1 in m2y) events="OnMeta OnReceived" ;; m2y-onmeta) events=OnMeta ;; esac
    for event in $events; do
        seen=$(find "$inbox" -name '*.meta' -exec grep -l "seenAt$event" {} + | wc -l)
        [ "$seen" = "$FILES" ] || { note "the hook at $event left its word in $seen of $FILES metas"; return 1; }
    done
}

once() { # PART TOOL ROUND
    local c0 took
    NAME=$2-$3 DST=$PLACE/$2-$3
    ready "$2"
    cpu; c0=$CPU
    T0=$(now)
    run "$1" "$2" >"$W/out.log" 2>&1 || die "$2 failed ($1): $(tail -qn 3 "$W/out.log" "$W/serve.log")"
    took=$(($(now) - T0))
    ended
    cpu
    check "$2" || die "$2: the file that arrived differs from the one sent ($1)"
    [ "$3" = 0 ] || echo "$took $((CPU - c0))" >>"$W/result.$1.$2"
    [ "$1" = disk-small ] || rm -rf "$DST" "$ROOT"/user/*/"$NAME"
}

# Sources, two people, a server, and all rounds of a part.
measure() { # PART TOOL ...
    local part=$1 n=$(($# - 1)) at i r
    PLACE=$W/$part
    [[ $part != disk-* ]] || PLACE=$DISK/$part
    ROOT=$PLACE/root SRC=$PLACE/src
    mkdir -p "$SRC/small"
    case $part in
    *-large) FILES=1; head -c $((BIG_MIB << 20)) /dev/urandom >"$SRC/big.bin" ;;
    disk-small) FILES=$DISK_FILES ;;
    ram-small) FILES=$RAM_FILES ;;
    fresh) FILES=$FRESH ;;
    esac
    case $part in
    *-small) SIZE=$FSIZE ;;
    fresh) SIZE=4096 ;;
    *) SIZE=$((BIG_MIB << 20)) ;;
    esac
    [ -e "$SRC/big.bin" ] || head -c $((FILES * SIZE)) /dev/urandom |
        split -b "$SIZE" -a 6 -d --additional-suffix=.bin - "$SRC/small/f"
    sums "$SRC" .bin >"$W/sums"
    people "$ROOT"
    serve "$ROOT"
    for ((r = 0; r <= RUNS; r++)); do
        note "$part: round $r of $RUNS"
        for ((i = 0; i < n; i++)); do
            at=$(((r + i) % n + 2))
            once "$part" "${!at}" "$r"
        done
    done
    PEAK=$(memory VmHWM "$SERVER")
    end "$SERVER"
    rm -rf "$PLACE"
}

TICK=$(getconf CLK_TCK)
table() { # PART TITLE UNIT UNITS CPU-UNIT CPU-UNITS TOOL ...
    local part=$1 title=$2 unit=$3 units=$4 cpu_unit=$5 cpu_units=$6 tool time cpu ratio promised=""
    echo "| $title | s | $unit | CPU s per $cpu_unit, both sides | time relative to m2y |"
    echo "| --- | --- | --- | --- | --- |"
    for tool in "${@:7}"; do
        time=$(cut -d' ' -f1 "$W/result.$part.$tool" | spread)
        cpu=$(cut -d' ' -f2 "$W/result.$part.$tool" | spread)
        # Within a round, where both met the same conditions.
        ratio=$(paste -d' ' "$W/result.$part.$tool" "$W/result.$part.m2y" | awk '{ print $1 / $3 }' | spread)
        awk -v name="${SAYS[$tool]}" -v units="$units" -v cpu_units="$cpu_units" -v tick="$TICK" \
            -v all="$time $cpu $ratio" -v own="$([ "$tool" = m2y ] && echo 1)" '
            function f(x) { return sprintf(x < 10 ? "%.2f" : x < 100 ? "%.1f" : "%.0f", x) }
            function three(min, median, max) { return f(median) " (" f(min) " to " f(max) ")" }
            BEGIN {
                split(all, x, " ")
                for (i = 1; i <= 3; i++) { s[i] = x[i] / 1e6; c[i] = x[i + 3] / tick / cpu_units }
                printf "| %s | %s | %s | %s | %s |\n", name, three(s[1], s[2], s[3]),
                    three(units / s[3], units / s[2], units / s[1]), three(c[1], c[2], c[3]),
                    own ? "1" : three(x[7], x[8], x[9])
            }'
        [ -z "${PROMISED[$part:$tool]:-}" ] ||
            promised+=$(awk -v want="${PROMISED[$part:$tool]}" -v have="$(cut -d' ' -f2 <<<"$ratio")" -v tool="$tool" \
                'BEGIN { printf "Promised: at least %s times as fast as %s; %s.", want, tool, (have >= want ? "kept" : "NOT kept") }')$'\n'
    done
    printf '\n%s%s\n\n' "$promised" "Peak memory of the m2y server: $(awk -v k="$PEAK" 'BEGIN { printf "%.0f", k / 1024 }') MiB."
}

machine
echo "\`RUNS=$RUNS PARTS=\"$PARTS\" benches/side_by_side.sh\`: median of $RUNS rounds (minimum to maximum). The others run no hooks."
echo "Peers: $(for peer in "ssh -V" "rsync --version" "socat -V" "nginx -v" "curl --version"; do
    # shellcheck disable=SC2086 # words of a command
    ! command -v "${peer%% *}" >/dev/null || $peer 2>&1 | grep -m 1 -E '[0-9]\.[0-9]' | cut -d' ' -f1-4
done | paste -sd';' | sed 's/;/; /g')."
printf '%s\n' "$MISSING"
for part in $PARTS; do
    tools=()
    for tool in ${RUN[$part]}; do
        [[ $READY != *" $tool "* ]] || [[ " m2y ${TOOLS:-$tool} " != *" $tool "* ]] || tools+=("$tool")
    done
    measure "$part" "${tools[@]}"
    place="in RAM"
    [[ $part != disk-* ]] || place="on a disk ($(df --output=fstype "$DISK" | tail -n 1))"
    case $part in
    *-small) table "$part" "$FILES files of $SIZE bytes, $place" files/s "$FILES" "10,000 files" "$(awk -v n="$FILES" 'BEGIN { print n / 1e4 }')" "${tools[@]}" ;;
    *-large) mb=$(awk -v n="$SIZE" 'BEGIN { print n / 1e6 }')
        table "$part" "one file of $BIG_MIB MiB, $place" MB/s "$mb" GB "$(awk -v mb="$mb" 'BEGIN { print mb / 1e3 }')" "${tools[@]}" ;;
    fresh) table "$part" "$FILES files of 4 KiB, a new process and connection for each" sends/s "$FILES" "100 sends" "$(awk -v n="$FILES" 'BEGIN { print n / 100 }')" "${tools[@]}" ;;
    esac
done
