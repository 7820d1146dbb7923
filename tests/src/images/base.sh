# base.sh SUITE DIR: Debian's smallest tree, without what differs from run to run.
suite=$1 dir=$2
rm -rf "$dir"
mmdebstrap --quiet --variant=minbase "$suite" "$dir"
cd "$dir"
rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/* etc/machine-id etc/resolv.conf etc/hostname
rm -rf dev/* proc/* sys/* run/* tmp/*
