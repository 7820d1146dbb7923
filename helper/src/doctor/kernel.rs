//! The kernel: its age, the calls and file systems, the devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use grus_enter::probe::{self, Tried};

use super::ask::ask;
use super::{program, Check, Patient};
use crate::failure::reason;

/// The oldest kernel: mount_setattr(2) came with it.
const OLDEST: (u32, u32) = (5, 12);

/// /dev/fuse is always this character device (kernel: Documentation/admin-guide/devices.txt, 10 char, 229).
const FUSE: (u32, u32) = (10, 229);

/// Fewer mounts than this in a namespace can be too few for a container with many binds.
const FEW_MOUNTS: u64 = 1000;

pub fn checks(patient: &Patient) -> Vec<Check> {
    let mut all = vec![version(&release()), calls()];
    all.push(file_system(patient, "overlay", true));
    all.push(file_system(patient, "squashfs", patient.needs_kernel_mounts()));
    all.push(loop_devices(patient));
    all.push(fuse(Path::new("/dev/fuse"), patient.needs_fuse()));
    all.push(squashfuse(patient));
    all.push(limits());
    all.push(confinement());
    all
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The first two numbers of `6.1.0-23-amd64`.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn version(release: &str) -> Check {
    let found = format!("Linux {release}");
    match numbers(release) {
        Some(version) if version >= OLDEST => Check::ok("kernel.version", found),
        _ => Check::fails("kernel.version", found)
            .means("containers need Linux 5.12 or newer")
            .mend("install a newer kernel and start the machine anew"),
    }
}

fn calls() -> Check {
    let (mut names, mut missing) = (vec![], vec![]);
    for (call, since, tried) in probe::calls() {
        names.push(call);
        match tried {
            Tried::Missing => missing.push(format!("{call} (Linux {since})")),
            // openat2 and opening a tree need no privilege: who refuses them is a filter.
            Tried::Denied(why) if call != "mount_setattr" => missing.push(format!("{call} ({why})")),
            _ => {}
        }
    }
    match missing.is_empty() {
        true => Check::ok("kernel.calls", format!("it has {}", names.join(", "))),
        false => Check::fails("kernel.calls", format!("it does not do {}", missing.join(", ")))
            .means("no container can be built")
            .mend("install a newer kernel; in a container or VM sandbox, its seccomp filter must allow these calls"),
    }
}

fn file_system(patient: &Patient, kind: &'static str, needed: bool) -> Check {
    let name = if kind == "overlay" { "kernel.overlay" } else { "kernel.squashfs" };
    let what = match kind {
        "overlay" => "no container can be built",
        _ => "images of the system repository cannot be mounted by the kernel",
    };
    let missing = || {
        Check::bad(name, needed, format!("this kernel has no {kind}"))
            .means(what)
            .mend(format!("modprobe {kind}; to keep it: echo {kind} > /etc/modules-load.d/grus.conf"))
    };
    let listed = fs::read_to_string("/proc/filesystems")
        .is_ok_and(|all| all.lines().any(|line| line.rsplit('\t').next() == Some(kind)));
    if listed {
        return Check::ok(name, format!("{kind} is here"));
    }
    match (patient.is_root(), probe::file_system(kind)) {
        (_, Tried::Works) => Check::ok(name, format!("{kind} is here")),
        (_, Tried::Missing) | (true, _) => missing(),
        (false, Tried::Denied(_)) if module(kind) => {
            Check::ok(name, format!("{kind} is a module that the kernel loads when it is needed"))
        }
        (false, Tried::Denied(_)) => missing(),
    }
}

/// Whether the running kernel has a module of this name, or has it built in.
fn module(name: &str) -> bool {
    let dir = Path::new("/lib/modules").join(release());
    let of = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let ends = |line: &str| {
        let path = line.split(':').next().unwrap_or_default();
        path.rsplit('/').next().is_some_and(|file| file.split('.').next() == Some(name))
    };
    of("modules.dep").lines().any(ends) || of("modules.builtin").lines().any(ends)
}

fn loop_devices(patient: &Patient) -> Check {
    let needed = patient.needs_kernel_mounts();
    let bad = |found: String| {
        Check::bad("kernel.loop", needed, found)
            .means("images of the system repository, scratch directories and volatile ones on disk cannot be mounted")
            .mend("modprobe loop; to keep it: echo loop > /etc/modules-load.d/grus-loop.conf")
    };
    match fs::metadata("/dev/loop-control") {
        Err(e) => bad(format!("/dev/loop-control: {}", reason(&e))),
        Ok(meta) if !meta.file_type().is_char_device() => bad("/dev/loop-control is no device".into()),
        Ok(_) if !patient.is_root() => Check::ok("kernel.loop", "there are loop devices (root can try them)"),
        Ok(_) => match probe::loop_device() {
            Ok(()) => Check::ok("kernel.loop", "there are loop devices"),
            Err(why) => bad(format!("no loop device can be had: {why}")),
        },
    }
}

fn fuse(device: &Path, needed: bool) -> Check {
    let name = "fuse.device";
    let bad = |found: String| {
        Check::bad(name, needed, found)
            .means("images that users pulled themselves do not run")
            .mend("modprobe fuse; to keep it: echo fuse > /etc/modules-load.d/grus-fuse.conf")
    };
    let shown = device.display();
    let meta = match fs::metadata(device) {
        Ok(meta) => meta,
        Err(e) => return bad(format!("{shown}: {}", reason(&e))),
    };
    let number = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    if !meta.file_type().is_char_device() || number != FUSE {
        return bad(format!("{shown} is not the FUSE device"));
    }
    // Opened by slurmstepd as root; only then is a refusal an answer. ENXIO and ENODEV: the module is not there.
    match fs::OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Check::ok(name, format!("{shown} can be opened")),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Check::ok(name, format!("{shown} is there, for root to open"))
        }
        Err(e) => bad(format!("{shown}: {}", reason(&e))),
    }
}

fn squashfuse(patient: &Patient) -> Check {
    let name = "fuse.squashfuse";
    let path = patient.context.site.security.squashfuse.as_path();
    let shown = path.display();
    let bad = |found: String| {
        Check::bad(name, patient.needs_fuse(), found).means("images that users pulled themselves do not run")
    };
    if let Err(why) = program(path) {
        return bad(format!("{shown}: {why}")).mend(
            "apt install squashfuse (dnf install squashfuse), or set security.squashfuse in grus.toml",
        );
    }
    match probe::why_not_roots(path) {
        Ok(None) => {}
        Ok(Some(why)) | Err(why) => {
            return bad(format!("{shown} is not trusted: {why}")).mend(format!(
                "chown root:root {shown}; chmod 0755 {shown}; and so the directories above it"
            ))
        }
    }
    // It has no option that only tells its version; asked nothing, it tells how it is used.
    match ask(path, &["--help"], "", std::time::Duration::from_secs(5)) {
        Ok(said) if (said.out.clone() + &said.err).contains("squashfuse") => {
            let all = said.out + &said.err;
            let version = all.lines().find(|line| line.starts_with("squashfuse ")).unwrap_or_default();
            let version = version.split(" (").next().unwrap_or_default();
            let found = if version.is_empty() { shown.to_string() } else { format!("{shown}, {version}") };
            Check::ok(name, found)
        }
        Ok(said) => bad(format!("{shown} does not start: {}", said.last_words())).mend("install it anew"),
        Err(why) => bad(format!("{shown} does not start: {why:?}")).mend("install it anew"),
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Limits of namespaces(7) and mount(2) that a site may have set too low.
fn limits() -> Check {
    let name = "kernel.limits";
    if number("/proc/sys/user/max_mnt_namespaces") == Some(0) {
        return Check::fails(name, "mount namespaces are switched off (user.max_mnt_namespaces = 0)")
            .means("no container can be built")
            .mend("sysctl -w user.max_mnt_namespaces=15000; to keep it, a line in /etc/sysctl.d/");
    }
    match number("/proc/sys/fs/mount-max") {
        Some(most) if most < FEW_MOUNTS => {
            Check::warning(name, format!("a mount namespace may hold {most} mounts only (fs.mount-max)"))
                .means("containers with many mounts do not start")
                .mend("sysctl -w fs.mount-max=100000")
        }
        _ => Check::ok(name, "namespaces and mounts are not limited below what containers need"),
    }
}

/// What a security module does to this process. slurmstepd has its own word; this is the caller's.
fn confinement() -> Check {
    let name = "kernel.confinement";
    let enforcing = fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1");
    if enforcing {
        return Check::warning(name, "SELinux is enforcing")
            .means("Grus brings no policy; slurmd usually runs unconfined, and then nothing is to be done")
            .mend("if launches fail: ausearch -m avc -ts recent");
    }
    let profile = fs::read_to_string("/proc/self/attr/apparmor/current")
        .or_else(|_| fs::read_to_string("/proc/self/attr/current"))
        .unwrap_or_default();
    match profile.trim_matches(['\0', '\n', ' ']) {
        "" => Check::ok(name, "no security module confines this process"),
        "unconfined" => Check::ok(name, "AppArmor does not confine this process"),
        profile => Check::warning(name, format!("a security module confines this process: {profile}"))
            .means("mounts may be refused, if slurmd is confined likewise")
            .mend("aa-status shows the profile; exempt slurmd, slurmstepd and grus"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn an_old_kernel_fails_and_strange_names_are_read() {
        for (release, state) in [
            ("6.1.0-23-amd64", State::Ok),
            ("5.12.0", State::Ok),
            ("5.11.22-cray_shasta_c", State::Fails),
            ("4.18.0-553.el8_10.x86_64", State::Fails),
            ("unknown", State::Fails),
        ] {
            assert_eq!(version(release).state, state, "{release}");
        }
    }

    #[test]
    fn what_is_not_the_fuse_device_is_told() {
        assert_eq!(fuse(Path::new("/dev/null"), true).state, State::Fails);
        assert_eq!(fuse(Path::new("/dev/none"), false).state, State::Warning);
    }
}
