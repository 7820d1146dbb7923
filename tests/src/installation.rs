//! Grus installed in a lab: the plugin, the `grus` program, a site file and a plugstack.conf, all under the lab's
//! directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::account::checked;
use crate::cluster::Cluster;
use crate::command::Cmd;
use crate::images::layout::manifest_digest;
use crate::images::ImageStore;

/// The plugstack.conf an administrator is told to write; `PLUGIN` and `SITE` stand for the lab's paths.
pub const REQUIRED: &str = "required PLUGIN config=SITE\n";
/// The same, where Slurm goes on without a plugin that fails to load.
pub const OPTIONAL: &str = "optional PLUGIN config=SITE\n";

impl Cluster {
    /// Installs the plugin and the program that were built into `built` (a cargo profile's directory).
    pub fn install_grus(&self, built: &Path) -> Result<()> {
        for (from, to) in [("grus", self.grus_program()), ("libspank_grus.so", self.plugin())] {
            let directory = to.parent().context("a path below the lab")?;
            fs::create_dir_all(directory)?;
            // By rename: a running slurmstepd may have the old file mapped.
            let new = directory.join("new");
            fs::copy(built.join(from), &new)
                .with_context(|| format!("cannot install {from}; build it first"))?;
            fs::rename(new, to)?;
        }
        self.write_site("")?;
        self.write_plugstack(REQUIRED)?;
        // slurmd looks once, when it starts, whether a plugin has an epilog.
        (1..=self.nodes()).try_for_each(|node| self.restart_slurmd(node))
    }

    /// The installed `grus`.
    pub fn grus_program(&self) -> PathBuf {
        self.dir().join("bin/grus")
    }

    /// The installed plugin.
    pub fn plugin(&self) -> PathBuf {
        self.dir().join("lib/spank_grus.so")
    }

    /// The site file that plugin and program read.
    pub fn site_file(&self) -> PathBuf {
        self.dir().join("etc/grus.toml")
    }

    /// The system repository: of root, so its images are mounted by the kernel.
    pub fn system_repository(&self) -> PathBuf {
        self.dir().join("images")
    }

    /// Writes the site file: the lab's own lines and `more`.
    pub fn write_site(&self, more: &str) -> Result<()> {
        let (repository, program) = (self.system_repository(), self.grus_program());
        // Not /run/grus, which all labs of a machine would share.
        let named = self.dir().join("named");
        let own = format!(
            "repository.system = {repository:?}\npull.command = {program:?}\nnamed.dir = {named:?}\n"
        );
        // A new file: owner and mode are right again, whatever a test made of the old one.
        fs::remove_file(self.site_file()).or_else(crate::daemon::ignore_missing)?;
        Ok(fs::write(self.site_file(), own + more)?)
    }

    /// Writes plugstack.conf with the lab's paths for `PLUGIN` and `SITE`.
    pub fn write_plugstack(&self, text: &str) -> Result<()> {
        let text = text.replace("PLUGIN", &self.plugin().to_string_lossy());
        self.set_plugstack(&text.replace("SITE", &self.site_file().to_string_lossy()))
    }

    /// Puts image `name` into the system repository, if it is not there yet, and returns its reference.
    pub fn system_image(&self, name: &str) -> Result<String> {
        let reference = format!("lab.test/{name}:1");
        if !self.system_file(name)?.exists() {
            let import = Cmd::new(self.grus_program()).env("GRUS_CONFIG", self.site_file());
            let import = import.args(["--system", "import", "--quiet"]);
            let import = if name == "other-arch" { import.arg("--platform=linux/s390x") } else { import };
            checked(import.arg(ImageStore::default().layout(name)?).arg(&reference))?;
        }
        Ok(reference)
    }

    /// The SquashFS file of image `name` in the system repository.
    pub fn system_file(&self, name: &str) -> Result<PathBuf> {
        let digest = manifest_digest(&ImageStore::default().layout(name)?)?;
        let hex = digest.strip_prefix("sha256:").context("a sha256 digest")?;
        Ok(self.system_repository().join(format!("images/sha256/{hex}.squashfs")))
    }
}
