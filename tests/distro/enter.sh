#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command in a Debian tree. All files that the command writes are stored in an overlay. The caller must start
# this script in new mount and PID namespaces.
#
#     enter.sh TREE WORK [OPTIONS SOURCE TARGET]... -- COMMAND [ARGUMENT...]
#
# WORK contains the folders upper, work and root. Each TARGET is a path in the tree. SOURCE is bind-mounted at TARGET
# with the mount OPTIONS, for example `ro`. The script stays the first process of the PID namespace, and does not
# replace itself with the command, because bash reaps orphans.
set -euo pipefail
tree=$1 work=$2 root=$2/root
shift 2

# `ip netns` works only if / is a mount point.
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"

while [ "$1" != -- ]; do
    if [ -d "$2" ]; then
        mkdir -p "$root$3"
    elif [ ! -e "$root$3" ]; then # a folder that was mounted earlier may already contain the target
        mkdir -p "$(dirname "$root$3")"
        touch "$root$3"
    fi
    mount --bind -o "$1" "$2" "$root$3"
    shift 3
done
shift

# pivot_root makes the tree the root of the mount namespace, as on a real machine. In a chroot, the kernel refuses to
# create user namespaces, see unshare(2).
pivot_root "$root" "$root/mnt"
cd /
umount --lazy /mnt

status=0
"$@" || status=$?
exit "$status"
