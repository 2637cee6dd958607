#!/usr/bin/env bash
# Installs what the tests, the demo and the benchmark need and what is not there yet. Without arguments: rsync.
# With arguments: these tools, e.g. `scripts/install-test-tools.sh rsync lsyncd inotifywait`.
set -euo pipefail
# Where mkfs is, which only root has in its path.
PATH=$PATH:/usr/sbin:/sbin

# The package that has a tool, where the names differ.
package_of() {
    case $1 in
        inotifywait) echo inotify-tools ;;
        mkfs.ext4) echo e2fsprogs ;;
        mkfs.xfs) echo xfsprogs ;;
        mkfs.btrfs) echo btrfs-progs ;;
        ssh) if command -v dnf >/dev/null; then echo openssh-clients; else echo openssh-client; fi ;;
        sshd) echo openssh-server ;;
        *) echo "$1" ;;
    esac
}

[ $# -gt 0 ] || set -- rsync
tools=() packages=()
for tool in "$@"; do
    command -v "$tool" >/dev/null && continue
    tools+=("$tool")
    packages+=("$(package_of "$tool")")
done
[ ${#tools[@]} -gt 0 ] || exit 0

# As root without sudo, as anybody else with it.
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "install-test-tools: neither root nor sudo: please install ${packages[*]}" >&2; exit 1; }
    as_root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Quiet unless it fails.
quietly() {
    "$@" >>"$log" 2>&1 || { cat "$log" >&2; echo "install-test-tools: failed: $*" >&2; exit 1; }
}

if command -v apt-get >/dev/null; then
    echo "install-test-tools: installing ${packages[*]} with apt-get"
    quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q
    quietly "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"
elif command -v dnf >/dev/null; then
    echo "install-test-tools: installing ${packages[*]} with dnf"
    quietly "${as_root[@]}" dnf install -q -y "${packages[@]}"
elif command -v apk >/dev/null; then
    echo "install-test-tools: installing ${packages[*]} with apk"
    quietly "${as_root[@]}" apk add -q "${packages[@]}"
else
    echo "install-test-tools: none of apt-get, dnf and apk: please install ${packages[*]}" >&2
    exit 1
fi

for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || { echo "install-test-tools: $tool is still not there" >&2; exit 1; }
done
