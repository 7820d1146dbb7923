# hidden-devices.sh DIR PATTERN COMMAND...: runs COMMAND in a mount namespace whose /dev lacks what PATTERN matches,
# as on a node whose kernel has no such device. DIR is an empty directory to build it in.
dev=$1 hidden=$2
shift 2
mkdir -p "$dev"
mount -t tmpfs -o mode=0755 tmpfs "$dev"
for entry in /dev/*; do
    name=${entry##*/}
    # shellcheck disable=SC2053 # a pattern on purpose
    if [[ $name == $hidden ]]; then
        continue
    elif [ -d "$entry" ] && [ ! -L "$entry" ]; then
        mkdir "$dev/$name"
        mount --rbind "$entry" "$dev/$name"
    else
        cp -a "$entry" "$dev/$name"
    fi
done
mount --rbind "$dev" /dev
exec "$@"
