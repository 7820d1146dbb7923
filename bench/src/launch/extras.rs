//! What each option costs on top of a plain launch: a row is a request's text.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, Context, Result};
use grus_core::options::by_name;
use grus_core::path::AbsPath;
use grus_core::site::Site;
use grus_enter::{remove_kept, Inputs};
use grus_tests::Cluster;
use serde_json::{Map, Value};

use super::gpu;
use super::setup::{build, inputs};
use crate::figures::{rounded, Samples};

/// Rounds; each builds every row once.
const ROUNDS: usize = 40;

/// Name, options of srun without `--`, lines of grus.toml. `ROOTS` and `USERS` stand for a SquashFS file of root's and
/// of the user's, `DISK` for a directory on the node's disk, `NAMED` for the one of named containers, `GPU` for that of a
/// CDI file. The launch itself is with an image of root's.
const ROWS: &[(&str, &[&str], &str)] = &[
    ("tmpfs", &["mount=type=tmpfs,dst=/extra"], ""),
    ("bind", &["mount=/usr:/extra:ro"], ""),
    ("squashfs_kernel", &["mount=type=squashfs,src=ROOTS,dst=/extra"], ""),
    ("squashfs_fuse", &["mount=type=squashfs,src=USERS,dst=/extra"], ""),
    ("scratch_10g", &["mount=type=scratch,dst=/extra,size=10g"], "scratch.dir = 'DISK'\n"),
    ("volatile_dir", &["writable-volatile=/opt/work"], ""),
    ("volatile_dir_on_disk", &["writable-volatile=/opt/work"], "volatile = { dir = 'DISK', size = '10g' }\n"),
    ("writable", &["container-writable"], ""),
    // Made once, and then taken as it is.
    ("named", &["container-name=bench"], "named.dir = 'NAMED'\n"),
    ("workdir_and_env", &["container-workdir=/opt/work", "container-env=A=1"], ""),
    ("remap_root", &["container-remap-root"], ""),
    ("unshare", &["container-unshare=net,ipc,uts"], ""),
    ("slurm", &["container-slurm"], ""),
    // The 60 files of a GPU's driver.
    ("gpu_driver", &["container-device=nvidia.com/gpu=0"], "cdi.dirs = ['GPU']\n"),
];

/// Microseconds, of the plain launch and of each row.
#[derive(Debug)]
pub struct Extras {
    plain: Samples,
    rows: Vec<(&'static str, Samples)>,
}

/// Measures all rows and the plain launch in turns.
pub fn measure(cluster: &Cluster, roots: &Path, users: &Path) -> Result<Extras> {
    let [disk, named, cdi] = ["disk", "named", "cdi"].map(|name| cluster.dir().join(name));
    std::fs::create_dir_all(&disk)?;
    gpu::driver(&cdi)?;
    let filled = |text: &str| {
        let of = |path: &Path| path.display().to_string();
        text.replace("ROOTS", &of(roots))
            .replace("USERS", &of(users))
            .replace("DISK", &of(&disk))
            .replace("NAMED", &of(&named))
            .replace("GPU", &of(&cdi))
    };
    let plain = inputs(cluster.account(), roots)?;
    let row = |options: &[&str], site: &str| -> Result<Inputs> {
        let mut asked = plain.clone();
        asked.site =
            Arc::new(Site::parse(&[("the bench's".into(), filled(site))]).map_err(|e| anyhow!("{e}"))?);
        for option in options {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let opt = by_name(name).with_context(|| format!("no option {name}"))?.opt;
            asked.request.set(opt, &filled(value), &AbsPath::root()).map_err(|e| anyhow!("{e}"))?;
        }
        Ok(asked)
    };
    let rows: Vec<Inputs> =
        ROWS.iter().map(|(_, options, site)| row(options, site)).collect::<Result<_>>()?;
    let empty = ROWS.iter().map(|(name, ..)| (*name, Samples::default())).collect();
    let mut extras = Extras { plain: Samples::default(), rows: empty };
    for _ in 0..ROUNDS {
        extras.plain.0.push(alone(&plain)?);
        for (inputs, (name, samples)) in rows.iter().zip(&mut extras.rows) {
            samples.0.push(alone(inputs).with_context(|| (*name).to_owned())?);
        }
    }
    let dir = AbsPath::parse(&named.to_string_lossy())?;
    let node = plain.node.as_deref().unwrap_or_default();
    remove_kept(&dir, node, plain.step.job, None).map_err(|failure| anyhow!("{}", failure.what()))?;
    Ok(extras)
}

/// One build, when the kernel has taken down what the one before has left.
fn alone(inputs: &Inputs) -> Result<f64> {
    std::thread::sleep(Duration::from_millis(30));
    Ok(build(inputs)?.1)
}

impl Extras {
    /// Medians of what each row takes more, in milliseconds.
    pub fn json(&self) -> Value {
        let extra = |samples: &Samples| rounded(samples.minus(&self.plain).median() / 1e3, 2);
        self.rows
            .iter()
            .map(|(name, samples)| ((*name).into(), extra(samples).into()))
            .collect::<Map<_, _>>()
            .into()
    }
}

impl fmt::Display for Extras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:21} {}", "plain", self.plain)?;
        self.rows.iter().try_for_each(|(name, samples)| {
            writeln!(f, "  {name:21} {samples}   more {:+9.1}", samples.minus(&self.plain).median())
        })
    }
}
