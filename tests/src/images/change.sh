# change.sh LOWERS UPPER WHAT [STEP]: changes a tree as the build step of an application would; LOWERS are directories
# separated by ':', top first, and the difference is left in UPPER. Runs in a mount namespace of its own.
lowers=$1 upper=$2 what=$3 step=${4-}
root=$upper.root
rm -rf "$upper" "$upper.work"
mkdir -p "$upper" "$upper.work" "$root"
mount -t overlay overlay -o "lowerdir=$lowers,upperdir=$upper,workdir=$upper.work,redirect_dir=off,metacopy=off,index=off" "$root"

# noise SEED BYTES: reproducible bytes that no method compresses.
noise() { { openssl enc -aes-128-ctr -pass "pass:$1" -nosalt -pbkdf2 -iter 1 -in /dev/zero 2>/dev/null || true; } | head -c "$2"; }

application() {
    rm -rf "$root"/usr/share/{doc,man,locale}
    mkdir -p "$root"/opt/app/{bin,data}
    noise model 200000000 >"$root/opt/app/data/weights.bin"
    head -c 50000000 /dev/zero >"$root/opt/app/data/zeros.bin"
    printf '#!/usr/bin/python3\nimport numpy\nprint(numpy.ones(3).sum())\n' >"$root/opt/app/bin/run"
    chmod 755 "$root/opt/app/bin/run"
}

small_step() {
    local srv=$root/srv f
    local before=$srv/step$((step - 1))
    mkdir -p "$srv/step$step/sub" "$srv/shared"
    for f in $(seq 60); do noise "$step.$f" $((f * 700)) | base64 >"$srv/step$step/sub/file$f.txt"; done
    noise "big$step" 1500000 >"$srv/shared/rewritten.bin"
    echo "step $step" >>"$srv/shared/log"
    ln "$srv/step$step/sub/file1.txt" "$srv/step$step/hard1"
    ln -s sub/file2.txt "$srv/step$step/sym"
    case $((step % 5)) in
        0) rm -rf "$before" ;;
        # An opaque directory.
        1) rm -rf "$before"; mkdir -p "$before/again"; echo new >"$before/again/x" ;;
        2) rm -f "$before/sub/file3.txt" ;;
        3) chmod 4755 "$before/sub/file4.txt" ;;
        4) rm -rf "$before/sub"; echo "was a directory" >"$before/sub" ;;
    esac
}

"$what"
umount "$root"
rm -rf "$upper.work" "$root"
