//! The cgroups of a step's tasks, for a program that Grus runs on the step's behalf: it then counts as the step's, is
//! limited as the step is, and ends with it. Without that, Slurm would wait for it in vain when the step is cancelled,
//! and drain the node.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;

/// Where systemd and everyone else mounts them.
const MOUNTED: &str = "/sys/fs/cgroup";

/// The `cgroup.procs` files of the cgroups that process `pid` is in; as root, while it lives.
pub fn of_process(pid: i32) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().filter_map(procs).collect()
}

/// From a line of proc_pid_cgroup(5): `HIERARCHY:CONTROLLERS:PATH`. The root of a hierarchy is nobody's.
fn procs(line: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let hierarchy = controllers.strip_prefix("name=").unwrap_or(controllers);
    let own =
        path.strip_prefix('/').filter(|own| !own.is_empty() && !own.split('/').any(|part| part == ".."))?;
    Some([MOUNTED, hierarchy, own, "cgroup.procs"].iter().collect())
}

/// Opens what is still there.
pub fn open(files: &[PathBuf]) -> Vec<File> {
    files.iter().filter_map(|file| OpenOptions::new().write(true).open(file).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_understood() {
        let of = |line| procs(line).map(|path| path.display().to_string());
        assert_eq!(
            of("5:freezer:/slurm_n1/uid_7/job_3/step_0").as_deref(),
            Some("/sys/fs/cgroup/freezer/slurm_n1/uid_7/job_3/step_0/cgroup.procs")
        );
        assert_eq!(of("0::/a.scope/b").as_deref(), Some("/sys/fs/cgroup/a.scope/b/cgroup.procs"));
        assert_eq!(of("1:name=systemd:/a").as_deref(), Some("/sys/fs/cgroup/systemd/a/cgroup.procs"));
        for nobodys in ["0::/", "3:cpu,cpuacct:/", "4:x:/../a", "", "x"] {
            assert_eq!(of(nobodys), None, "{nobodys}");
        }
    }
}
