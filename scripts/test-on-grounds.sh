#!/usr/bin/env bash
# Runs the daemon tests on one file system after the other, with one backend after the other:
#
#     scripts/test-on-grounds.sh whole|selection [GROUND]...
#
# GROUND is `here` (where temporary files are by default), or ext4, xfs, btrfs or tmpfs: a fresh one, in an image on a loop
# device where it needs a device. Default: ext4 xfs btrfs tmpfs. `whole` is the whole suite, `selection` about 40 s of it.
# FANSYNC_TEST_BACKENDS: `inotify fanotify` by default. FANSYNC_TEST_ONLY: names of tests, in the place of the selection.
#
# What this machine does not allow is skipped, with one line that says why; the summary at the end says it again.
# Exit code: 0 when nothing failed, skipped or not; 1 when a combination failed.
#
# Nothing stays behind, however this ends: mounts and processes are in namespaces that end with their first process, and
# that one is killed when we end. An image has no name any more once it is mounted, and its loop device goes with the mount.
set -euo pipefail
# Where mkfs and mount are, which only root has in its path.
PATH=$PATH:/usr/sbin:/sbin

# What a file system or a backend can change the outcome of: names, deletes, moved and replaced roots, restarts.
SELECTION=(chaos::churn_ cold_start:: deletes:: direct:: local:: names:: restart:: shutdown:: source::)
# Of an image or a tmpfs. What is not written takes no room.
SIZE=6G
# The exit code of a first process that could not mount.
NOT_MOUNTED=77
# Bits of capabilities(7).
CAP_DAC_READ_SEARCH=2
CAP_SYS_ADMIN=21

self=$(readlink -f "${BASH_SOURCE[0]}")
cd "$(dirname "$self")/.."

# The first process of the namespaces: mounts the ground, says so, and runs the command there.
#   --inside GROUND FOLDER COMMAND...
if [ "${1:-}" = --inside ]; then
    ground=$2 folder=$3
    shift 3
    if [ "$ground" = tmpfs ]; then
        mount -t tmpfs -o "size=$SIZE" fansync-test "$folder/$ground" || exit $NOT_MOUNTED
    else
        mount -o loop "$folder/image" "$folder/$ground" || exit $NOT_MOUNTED
        # The kernel keeps it until it is unmounted.
        rm "$folder/image"
    fi
    # As /tmp: some agents and daemons are somebody else.
    chmod 1777 "$folder/$ground"
    # Not `exec`: the first process has to reap those that lost their parents.
    TMPDIR=$folder/$ground "$@"
    exit
fi

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$self" >&2; exit 2; }

mode=${1:-}
case $mode in whole | selection) shift ;; *) usage ;; esac
[ $# -gt 0 ] || set -- ext4 xfs btrfs tmpfs
for ground in "$@"; do
    case $ground in here | ext4 | xfs | btrfs | tmpfs) ;; *) usage ;; esac
done
read -ra backends <<<"${FANSYNC_TEST_BACKENDS:-inotify fanotify}"
filters=()
[ "$mode" = whole ] || filters=("${SELECTION[@]}")
[ -z "${FANSYNC_TEST_ONLY:-}" ] || read -ra filters <<<"$FANSYNC_TEST_ONLY"
tests=("${CARGO:-cargo}" test --quiet --test daemon -- "${filters[@]}")
"${CARGO:-cargo}" test --quiet --test daemon --no-run

scratch=$(mktemp -d "${TMPDIR:-/tmp}/fansync-grounds.XXXXXX")
chmod 755 "$scratch"
running=
clear_away() {
    # Everything in its namespaces dies with it. Nothing is mounted in ours.
    [ -z "$running" ] || { kill -KILL "$running" && wait "$running"; } 2>/dev/null || true
    rm -rf --one-file-system "$scratch"
}
trap clear_away EXIT
trap 'exit 130' INT TERM HUP

# Whether we have the capability of that bit.
capable() {
    local effective
    effective=$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status)
    (((0x$effective >> $1) & 1))
}

why_no_backend() {
    [ "$1" = fanotify ] || return 0
    { capable $CAP_SYS_ADMIN && capable $CAP_DAC_READ_SEARCH; } || echo "fanotify takes CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH"
}

# Makes the place of a ground anew. Prints why it cannot be had.
prepare() {
    [ "$1" != here ] || return 0
    capable $CAP_SYS_ADMIN || { echo "mounting takes root"; return; }
    mkdir -p "$scratch/$1"
    [ "$1" != tmpfs ] || return 0
    grep -qw "$1" /proc/filesystems || modprobe --quiet "$1" || { echo "this kernel has no $1"; return; }
    command -v "mkfs.$1" >/dev/null || { echo "no mkfs.$1: scripts/install-test-tools.sh mkfs.$1"; return; }
    rm -f "$scratch/image"
    truncate -s "$SIZE" "$scratch/image"
    "mkfs.$1" -q "$scratch/image" >"$scratch/words" 2>&1 || { echo "mkfs.$1 failed: $(tail -n 1 "$scratch/words")"; return; }
}

# In the background and waited for, so that a signal is answered at once.
run() {
    if [ "$1" = here ]; then
        "${tests[@]}" &
    else
        setpriv --pdeathsig KILL \
            unshare --mount --propagation private --pid --fork --kill-child=KILL --mount-proc \
            "$self" --inside "$1" "$scratch" "${tests[@]}" &
    fi
    running=$!
    local code=0
    wait "$running" || code=$?
    running=
    return $code
}

summary=() failed=0
tell() { echo "test-on-grounds: $1"; summary+=("$1"); }

for ground in "$@"; do
    for backend in "${backends[@]}"; do
        why=$(why_no_backend "$backend")
        [ -n "$why" ] || why=$(prepare "$ground")
        if [ -n "$why" ]; then
            tell "$ground, $backend: SKIPPED: $why"
            continue
        fi
        echo "test-on-grounds: $ground, $backend: $mode"
        code=0 began=$SECONDS
        FANSYNC_TEST_WATCH=$backend run "$ground" || code=$?
        case $code in
            0) tell "$ground, $backend: passed in $((SECONDS - began)) s" ;;
            $NOT_MOUNTED) tell "$ground, $backend: SKIPPED: it cannot be mounted here, see above" ;;
            *) tell "$ground, $backend: FAILED, exit code $code"; failed=1 ;;
        esac
    done
done

echo "test-on-grounds: summary"
printf '    %s\n' "${summary[@]}"
exit $failed
