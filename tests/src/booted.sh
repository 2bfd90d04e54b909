# A machine with systemd as process 1, over this one's files: written by tests/src/booted.rs, which is told when all is in place by
# systemd itself. The first argument is an empty folder.
set -eu
place=$1
control=$place/cgroup
group=$control/pgherd-booted-$$

if [ "${2-}" != inside ]; then
    # A memory file system takes all that is written; the machine's own files are below it and only read.
    mount -t tmpfs -o mode=0755 tmpfs "$place"
    mkdir "$place/upper" "$place/work" "$place/root" "$control"
    mount -t overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" overlay "$place/root"
    # A group of its own becomes the root of what systemd sees.
    mount -t cgroup2 cgroup2 "$control"
    mkdir "$group"
    sh -c 'echo $$ >"$0/cgroup.procs"; exec setpriv --pdeathsig KILL unshare --cgroup --pid --net --ipc --uts --mount --fork --kill-child -- sh "$@"' \
        "$group" "$0" "$place" inside || true
    # Bottom up; a process that was killed leaves its group a moment later.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && exit
        sleep 0.2
    done
    exit 1
fi

root=$place/root
mount -t proc proc "$root/proc"
# What belongs to the kernel and not to a namespace stays as it is.
for fixed in sys sysrq-trigger; do
    [ -e "$root/proc/$fixed" ] || continue
    mount --bind "$root/proc/$fixed" "$root/proc/$fixed"
    mount -o remount,bind,ro "$root/proc/$fixed"
done
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for memory in run tmp dev; do
    mount -t tmpfs tmpfs "$root/$memory"
done
chmod 0755 "$root/run" "$root/dev"
chmod 1777 "$root/tmp"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ip link set lo up
hostname booted
mkdir "$root/before"
cd "$root"
pivot_root . before
umount -l /before
# Nothing of what this machine would start by itself: no timers, no servers.
exec env -i container=pgherd PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=sysinit.target --show-status=no --log-target=null </dev/null >/dev/null 2>&1
