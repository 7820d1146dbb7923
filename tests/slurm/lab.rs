//! The lab the tests share: two nodes with Grus installed, and an open registry.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use grus_tests::daemon::wait_until;
use grus_tests::installation::REQUIRED;
use grus_tests::{Cluster, Cmd, ImageStore, Registry};

/// What all tests stand on.
pub struct Lab {
    cluster: Cluster,
    registry: OnceLock<Registry>,
}

impl Deref for Lab {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Lab {
    /// Why there can be no lab here, if so.
    pub fn possible() -> Result<(), String> {
        if !rustix::process::getuid().is_root() {
            return Err("it needs root".into());
        }
        let programs =
            ["/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/sbin/munged", "/usr/bin/docker-registry"];
        match programs.into_iter().find(|program| !Path::new(program).exists()) {
            Some(missing) => Err(format!("there is no {missing}; run ci/packages")),
            None => Ok(()),
        }
    }

    /// Brings it up; a test that needs it fails if it does not come up.
    pub fn up() -> Self {
        let built = build().expect("plugin and program build");
        // Several test runs side by side, of different work trees, need names of their own.
        let name = std::env::var("GRUS_LAB_NAME").unwrap_or_else(|_| "test".into());
        let cluster = Cluster::builder(&name).up().expect("the lab comes up");
        cluster.install_grus(&built).expect("plugin and program can be installed");
        Self { cluster, registry: OnceLock::new() }
    }

    /// Takes it down.
    pub fn down(&self) -> Result<()> {
        self.cluster.down_by_reference()
    }

    /// `srun` as the user, one task on the first node unless `args` say more. Waits for jobs that are completing: their
    /// nodes are not chosen.
    pub fn srun(&self, args: &[&str]) -> Cmd {
        let completing = ["--noheader", "--states=COMPLETING"];
        let none = || self.user("squeue").args(completing).run().trimmed().is_empty();
        wait_until(Duration::from_secs(20), none);
        self.user("srun").args(args)
    }

    /// `grus` as the user.
    pub fn grus(&self, args: &[&str]) -> Cmd {
        let program = self.grus_program();
        self.user(&program.to_string_lossy()).env("GRUS_CONFIG", self.site_file()).args(args)
    }

    /// The open registry, started at first need.
    pub fn registry(&self) -> &Registry {
        self.registry.get_or_init(|| {
            Registry::builder(self.dir(), "registry").persistent().start().expect("the registry starts")
        })
    }

    /// Reference of image `name` in the system repository.
    pub fn system_image(&self, name: &str) -> String {
        self.cluster.system_image(name).expect("the image can be imported")
    }

    /// srun's option for image `name` as the kernel mounts it, and as the user's own, which FUSE serves.
    pub fn both_kinds(&self, name: &str) -> [String; 2] {
        let own = self.pushed_image(name);
        let _ = self.grus(&["pull", &own]).run().success();
        [self.system_image(name), own].map(|image| format!("--container-image={image}"))
    }

    /// SquashFS file of image `name` in the system repository.
    pub fn system_file(&self, name: &str) -> PathBuf {
        self.system_image(name);
        self.cluster.system_file(name).expect("a made image has a digest")
    }

    /// Pushes image `name` to the registry and returns its reference there.
    pub fn pushed_image(&self, name: &str) -> String {
        let layout = ImageStore::default().layout(name).expect("the image can be made");
        self.registry().push(&layout, &format!("{name}:1")).expect("skopeo can push")
    }

    /// Runs `body` under another site file: the lab's own lines and `more`.
    pub fn with_site<T>(&self, more: &str, body: impl FnOnce() -> T) -> T {
        let _restore = Restore { lab: self };
        self.write_site(more).expect("the site file can be written");
        body()
    }

    /// Runs `body` with these MPI stacks of the host; without, the site has none.
    pub fn with_stacks<T>(&self, names: &[&str], body: impl FnOnce() -> T) -> T {
        let _restore = Restore { lab: self };
        self.use_stacks(names).expect("the stacks can be installed");
        body()
    }

    /// Runs `body` under another plugstack.conf; `PLUGIN` and `SITE` in it stand for the lab's paths.
    pub fn with_plugstack<T>(&self, text: &str, body: impl FnOnce() -> T) -> T {
        let _restore = Restore { lab: self };
        self.write_plugstack(text).expect("plugstack.conf can be written");
        body()
    }
}

/// Puts back the lab's own configuration, also after a failed test.
struct Restore<'a> {
    lab: &'a Lab,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        let written = self.lab.write_site("").and_then(|()| self.lab.write_plugstack(REQUIRED));
        let written = written.and_then(|()| self.lab.use_stacks(&[]));
        if let Err(error) = written {
            eprintln!("the lab's configuration could not be put back: {error:#}");
        }
    }
}

/// Builds plugin and program in this test's own profile; returns the directory they are in.
fn build() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // <target>/<profile>/deps/slurm-<hash>
    let profile = test.ancestors().nth(2).context("a test lies in a target directory")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace: for two of its crates alone cargo would choose other features and build all anew.
    cargo.args(["build", "--quiet", "--locked", "--workspace", "--all-targets"]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // What cargo tells a test of its package, the build of ring takes for its own: it, and all that needs it, would be
    // built anew.
    let of_package = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|of| name.starts_with(of));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        cargo.env_remove(name);
    }
    ensure!(cargo.status()?.success(), "plugin and program do not build");
    Ok(profile.to_owned())
}
