# extract.sh SUITE DIR PACKAGE,...: Debian's packages unpacked and not installed: no shell of their own, no ldconfig,
# seconds instead of minutes.
suite=$1 dir=$2 packages=$3
rm -rf "$dir"
mmdebstrap --quiet --variant=extract --include="$packages" "$suite" "$dir"
cd "$dir"
rm -rf var/lib/{apt,dpkg} var/cache/* var/log/* dev/* tmp/*
rm -rf usr/share/{doc,man,info,locale,lintian,perl5} usr/sbin usr/lib/x86_64-linux-gnu/gconv lib/x86_64-linux-gnu/security
mkdir -p bin usr/bin etc proc sys run home
cp /bin/busybox usr/bin/busybox
for applet in sh cat ls env printenv readlink stat true; do ln -sf /usr/bin/busybox "bin/$applet"; done
echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
echo "PRETTY_NAME=\"Debian's $suite, unpacked\"" >etc/os-release
