//! Facts of this node and step that a container depends on and no SPANK item tells.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use grus_core::path::AbsPath;

use crate::abi;

/// Where a step's daemon lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's name in Slurm.
    pub node: String,
    /// SlurmdSpoolDir with `%n` and `%h` filled in; None where it cannot be found.
    pub spool: Option<PathBuf>,
    /// The number of the step's component, where a step in an ordinary allocation has several.
    pub part: Option<usize>,
}

/// A component of a heterogeneous job is a job of its own, named in the environment of them all (srun(1)). srun itself
/// still uses the old name on some releases.
const COMPONENTS: [&str; 2] = ["SLURM_JOB_ID_HET_GROUP_", "SLURM_JOB_ID_PACK_GROUP_"];

impl Place {
    /// Finds it, as root.
    ///
    /// slurmstepd listens on `SlurmdSpoolDir/NODE_JOB.STEP` for as long as it lives (Slurm's
    /// src/common/stepd_api.c), so its own socket names both. slurm.conf need not be found and read.
    pub fn find(job: u32) -> Self {
        let found = abi::bound_sockets().into_iter().find_map(|socket| from_socket(&socket, job));
        found.unwrap_or_else(|| {
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            Self { node: host.trim().split('.').next().unwrap_or_default().into(), spool: None, part: None }
        })
    }

    /// Which component of a heterogeneous job or step this step is, by number; None where it is none.
    pub fn component(&self, job: u32, environment: &[&OsStr]) -> Option<usize> {
        let number = |variable: &&OsStr| {
            let variable = variable.to_str()?;
            let (number, id) =
                COMPONENTS.iter().find_map(|name| variable.strip_prefix(name))?.split_once('=')?;
            (id.parse() == Ok(job)).then(|| number.parse().ok()).flatten()
        };
        self.part.or_else(|| environment.iter().find_map(number))
    }

    /// Paths that the launch of this step's tasks needs: PMIx's sockets (Slurm's
    /// src/plugins/mpi/pmix/pmixp_info.c; releases differ in whether the user id is in the name) and the files
    /// of mpi/cray_shasta. Those that do not exist.
    pub fn launch_paths(&self, job: u32, step: u32, uid: u32) -> Vec<AbsPath> {
        let tmp = abi::tmp_fs(&self.node).unwrap_or_else(|| "/tmp".into());
        launch_paths(self.spool.as_deref(), &tmp, job, step, uid)
            .into_iter()
            .filter(|path| path.exists())
            .filter_map(|path| AbsPath::parse(path.to_str()?).ok())
            .collect()
    }
}

/// The job's own mount namespace where job_container/tmpfs keeps one, with the job's private /tmp and /dev/shm.
///
/// Up to 24.05 slurmstepd itself stays outside of it. Slurm's src/plugins/job_container/tmpfs binds it on
/// `BasePath/.../JOB/.ns`, and only root can mount a namespace's file anywhere.
pub fn private_directories(job: u32) -> Option<PathBuf> {
    namespace_of(&fs::read_to_string("/proc/self/mountinfo").ok()?, job)
}

/// From mountinfo (proc(5)): fields by spaces, the fifth is the mount point, after ` - ` comes the type.
fn namespace_of(mountinfo: &str, job: u32) -> Option<PathBuf> {
    let end = format!("/{job}/.ns");
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let is_jobs = file_system.starts_with("nsfs ") && root.starts_with("mnt:[") && point.ends_with(&end);
        // The kernel writes white space in paths as octal; nobody names a BasePath like that.
        (is_jobs && !point.contains('\\')).then(|| point.into())
    })
}

/// `SPOOL/NODE_JOB.STEP[.COMPONENT]`; a node's name may have a `_` in it.
fn from_socket(socket: &Path, job: u32) -> Option<Place> {
    let (node, id) = socket.file_name()?.to_str()?.rsplit_once('_')?;
    let (number, step) = id.split_once('.')?;
    let part = step.split_once('.').and_then(|(_, part)| part.parse().ok());
    (number == job.to_string() && socket.is_absolute() && !node.is_empty()).then(|| Place {
        node: node.into(),
        spool: socket.parent().map(Path::to_owned),
        part,
    })
}

fn launch_paths(spool: Option<&Path>, tmp: &Path, job: u32, step: u32, uid: u32) -> Vec<PathBuf> {
    let mut paths = vec![
        tmp.join(format!("spmix_appdir_{uid}_{job}.{step}")),
        tmp.join(format!("spmix_appdir_{job}.{step}")),
    ];
    if let Some(spool) = spool {
        paths.push(spool.join(format!("pmix.{job}.{step}")));
        paths.push(spool.join(format!("mpi_cray_shasta/{job}.{step}")));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurmstepds_socket_names_spool_and_node() {
        let place = |node: &str, spool: &str| {
            Some(Place { node: node.into(), spool: Some(spool.into()), part: None })
        };
        assert_eq!(from_socket("/var/spool/slurmd/n1_17.0".as_ref(), 17), place("n1", "/var/spool/slurmd"));
        assert_eq!(from_socket("/s/a_b_17.4294967291".as_ref(), 17), place("a_b", "/s"));
        let part = from_socket("/s/n1_17.0.2".as_ref(), 17).expect("a component's");
        assert_eq!((part.node.as_str(), part.part), ("n1", Some(2)));
        let environment = ["SLURM_JOB_ID_HET_GROUP_0=17", "SLURM_JOB_ID_PACK_GROUP_1=18", "SLURM_JOB_ID=17"];
        let environment = environment.map(OsStr::new);
        let alone = Place { part: None, ..part.clone() };
        assert_eq!((alone.component(18, &environment), alone.component(19, &environment)), (Some(1), None));
        assert_eq!(part.component(17, &environment), Some(2));
        for other in ["/run/munge/socket", "/s/n1_18.0", "/s/_17.0", "n1_17.0", "/s/n1_17", "/"] {
            assert_eq!(from_socket(other.as_ref(), 17), None, "{other}");
        }
    }

    #[test]
    fn a_jobs_namespace_is_found_among_mounts() {
        let mounts = "\
            22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            64 42 0:4 mnt:[4026532170] /var/jc/n1/16/.ns rw - nsfs nsfs rw\n\
            65 42 0:4 mnt:[4026532177] /var/jc/n1/17/.ns rw - nsfs nsfs rw\n\
            66 42 0:4 net:[4026532178] /run/netns/18/.ns rw shared:7 - nsfs nsfs rw\n\
            67 42 0:4 /x /home/user/19/.ns rw - fuse.x y rw\n";
        assert_eq!(namespace_of(mounts, 17), Some("/var/jc/n1/17/.ns".into()));
        for job in [7, 18, 19, 20] {
            assert_eq!(namespace_of(mounts, job), None, "{job}");
        }
    }

    #[test]
    fn launch_paths_are_those_of_the_step() {
        let paths = launch_paths(Some("/s".as_ref()), "/t".as_ref(), 17, 3, 1000);
        let shown: Vec<&str> = paths.iter().filter_map(|path| path.to_str()).collect();
        let expected =
            ["/t/spmix_appdir_1000_17.3", "/t/spmix_appdir_17.3", "/s/pmix.17.3", "/s/mpi_cray_shasta/17.3"];
        assert_eq!(shown, expected);
    }
}
