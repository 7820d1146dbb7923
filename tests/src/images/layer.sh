# layer.sh BASE UPPER WORK PACKAGE...: installs packages over BASE; the difference is left in UPPER.
# Runs in a mount namespace of its own. WORK keeps apt's lists and archives from one image to the next.
base=$1 upper=$2 work=$3
shift 3
root=$upper.root
rm -rf "$upper" "$upper.work"
mkdir -p "$upper" "$upper.work" "$root" "$work/apt-lists/partial" "$work/apt-cache/archives/partial"
options=redirect_dir=off,metacopy=off,index=off
mount -t overlay overlay -o "lowerdir=$base,upperdir=$upper,workdir=$upper.work,$options" "$root"
mkdir -p "$root/var/lib/apt/lists" "$root/var/cache/apt"
mount --bind "$work/apt-lists" "$root/var/lib/apt/lists"
mount --bind "$work/apt-cache" "$root/var/cache/apt"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"

# For the time of the installation: the host's names and proxies, and no daemon may start.
cp /etc/resolv.conf /etc/hosts "$root/etc/"
{ grep -rhis proxy /etc/apt/apt.conf.d /etc/apt/apt.conf || true; } >"$root/etc/apt/apt.conf.d/99proxy"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
inside() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" "$@"
}
inside apt-get -qq update
inside apt-get -qq install -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@"

rm -f "$root"/etc/{resolv.conf,hosts} "$root/etc/apt/apt.conf.d/99proxy" "$root/usr/sbin/policy-rc.d"
umount "$root/dev" "$root/proc" "$root/var/cache/apt" "$root/var/lib/apt/lists"
rm -rf "$root"/var/log/* "$root"/var/cache/ldconfig/aux-cache "$root"/var/cache/debconf/*-old
rm -rf "$root"/var/lib/dpkg/*-old "$root"/tmp/* "$root"/run/*
umount "$root"
rm -rf "$upper.work" "$root"
