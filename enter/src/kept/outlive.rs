//! Kept containers' servers outlive the step that started them.

use std::fs;
use std::path::{Path, PathBuf};

use grus_core::server::Server;

use crate::server::runs;

/// Moves it out of the step's and the job's control groups: Slurm would find those in use when the step ends, or end
/// the server with it. It goes to where Slurm keeps its own processes, above the jobs. Where that fails it stays:
/// the container works, and breaks with the step at worst, which a later step is told.
///
/// A group is written a number, which its user can have another process take. So it is asked before and after, and who
/// is not the server goes back to where he belongs.
pub fn outlive_step(server: Server) {
    let pid = server.pid;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for (controllers, group) in groups.lines().filter_map(of_job) {
        let Some(root) = hierarchy(&mounts, controllers) else { continue };
        let above = root.join(group.above.trim_start_matches('/'));
        let join = |place: &Path| fs::write(place.join("cgroup.procs"), pid.to_string()).is_ok();
        // Version 2 allows processes in leaves only; slurmd has one of this name.
        let places = [above.join("system"), above, root.clone()];
        let _ = runs(server) && places.iter().any(|place| join(place));
        if !runs(server) {
            join(&root.join(group.own.trim_start_matches('/')));
        }
    }
}

/// A control group of a job's.
#[derive(Debug, PartialEq, Eq)]
struct Group<'a> {
    own: &'a str,
    /// The one above the job's.
    above: &'a str,
}

/// Controllers and group, of a line of /proc/PID/cgroup (cgroups(7)) that lies in a job's:
/// `4:memory:/slurm/uid_1000/job_7/step_0` or `0::/system.slice/slurmstepd.scope/job_7/step_0/slurm`.
fn of_job(line: &str) -> Option<(&str, Group<'_>)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, group) = rest.split_once(':')?;
    let end = group.find("/uid_").into_iter().chain(group.find("/job_")).min()?;
    Some((controllers, Group { own: group, above: &group[..end] }))
}

/// Where a hierarchy is mounted: version 2 if there are no controllers, else the one whose options name them.
fn hierarchy(mountinfo: &str, controllers: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        let mut fields = file_system.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let ours = match controllers {
            "" => kind == "cgroup2",
            _ => {
                let has = |name: &str| options.split(',').any(|option| option == name);
                kind == "cgroup" && controllers.split(',').all(has)
            }
        };
        ours.then(|| Path::new(point).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_above_the_job_is_found() {
        for (line, found) in [
            ("4:memory:/slurm/uid_1000/job_7/step_0", Some(("memory", "/slurm"))),
            ("3:cpu,cpuacct:/slurm_n1/uid_0/job_7", Some(("cpu,cpuacct", "/slurm_n1"))),
            (
                "0::/system.slice/slurmstepd.scope/job_7/step_0/slurm",
                Some(("", "/system.slice/slurmstepd.scope")),
            ),
            ("0::/system.slice/slurmd.service", None),
            ("", None),
        ] {
            let group = of_job(line);
            assert_eq!(
                group.as_ref().map(|(controllers, group)| (*controllers, group.above)),
                found,
                "{line}"
            );
            assert!(group.is_none_or(|(_, group)| line.ends_with(group.own)));
        }
    }

    #[test]
    fn a_hierarchy_is_found_by_its_controllers() {
        let mounts = "\
            30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        assert_eq!(hierarchy(mounts, ""), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(hierarchy(mounts, "cpu,cpuacct"), Some("/sys/fs/cgroup/cpu".into()));
        assert_eq!(hierarchy(mounts, "name=systemd"), Some("/sys/fs/cgroup/systemd".into()));
        assert_eq!(hierarchy(mounts, "memory"), None);
    }
}
