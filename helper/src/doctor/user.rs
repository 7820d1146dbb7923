//! The caller: user namespaces, and the subordinate ids that other tools need and Grus does not.

use std::fs;

use grus_enter::probe;

use super::{Check, Patient};
use crate::failure::reason;

pub fn checks(patient: &Patient) -> Vec<Check> {
    let mut all = vec![user_namespace()];
    match patient.context.user() {
        Ok(user) => {
            all.push(home(&user.home));
            all.push(subordinate(&user.name, user.uid));
        }
        Err(failure) => all.push(
            Check::fails("user.account", failure.to_string())
                .means("no image is found and no container started for this user")
                .mend("id -un; the name service (nsswitch.conf, sssd) must know the user here"),
        ),
    }
    all
}

/// The switches that distributions have for this; the first that is off.
fn switched_off() -> Option<&'static str> {
    let is = |file: &str, value: &str| fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    [
        ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for grus with 'userns,'",
        ),
    ]
    .into_iter()
    .find(|(file, off, _)| is(file, off))
    .map(|(_, _, mend)| mend)
}

fn user_namespace() -> Check {
    let name = "user.namespaces";
    let means =
        "--container-remap-root and 'grus run' do not work here; nothing else in a Slurm step needs them";
    match (probe::user_namespace(), switched_off()) {
        (Ok(()), _) => Check::ok(name, "this user can have user namespaces"),
        (Err(why), Some(mend)) => {
            Check::warning(name, format!("no user namespace: {why}")).means(means).mend(mend)
        }
        (Err(why), None) => Check::warning(name, format!("no user namespace: {why}"))
            .means(means)
            .mend("the seccomp filter or security module of this session refuses them; try in a plain login"),
    }
}

/// Bound into every container unless the site or the user says otherwise.
fn home(home: &str) -> Check {
    match fs::metadata(home) {
        Ok(meta) if meta.is_dir() => Check::ok("user.home", format!("{home} is there")),
        Ok(_) => Check::warning("user.home", format!("{home} is no directory"))
            .means("containers start with --no-container-mount-home only")
            .mend("mount or make the home directory on this node"),
        Err(e) => Check::warning("user.home", format!("{home}: {}", reason(&e)))
            .means("containers start with --no-container-mount-home only")
            .mend("mount or make the home directory on this node"),
    }
}

/// subuid(5), for information: who comes from Podman looks for it.
fn subordinate(user: &str, uid: u32) -> Check {
    let text = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let uid = uid.to_string();
    let has = text.lines().any(|line| line.split(':').next().is_some_and(|who| who == user || who == uid));
    let found = if has { "there are" } else { "there are no" };
    Check::ok("user.subuid", format!("{found} subordinate ids for {user} in /etc/subuid; Grus needs none"))
}
