//! The lab the tests share: two nodes with the plugin installed, the `grus` program, an open registry, and images in
//! the system repository (of root: the kernel mounts them).

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{ensure, Context, Result};
use grus_tests::images::layout::manifest_digest;
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
        let cluster = Cluster::builder("test").up().expect("the lab comes up");
        let lab = Self { cluster, registry: OnceLock::new() };
        lab.install().expect("plugin and program can be installed");
        lab
    }

    /// Takes it down.
    pub fn down(&self) -> Result<()> {
        self.cluster.down_by_reference()
    }

    /// `srun` as the user, one task on one node unless `args` say more.
    pub fn srun(&self, args: &[&str]) -> Cmd {
        self.user("srun").args(args)
    }

    /// `grus` as the user.
    pub fn grus(&self, args: &[&str]) -> Cmd {
        let config = self.site_file();
        self.user(&self.program().to_string_lossy()).env("GRUS_CONFIG", config).args(args)
    }

    /// The installed `grus`.
    pub fn program(&self) -> PathBuf {
        self.dir().join("bin/grus")
    }

    /// The site file the plugin reads.
    pub fn site_file(&self) -> PathBuf {
        self.dir().join("etc/grus.toml")
    }

    /// The system repository.
    pub fn system_repository(&self) -> PathBuf {
        self.dir().join("images")
    }

    /// The open registry, started at first need.
    pub fn registry(&self) -> &Registry {
        self.registry.get_or_init(|| {
            Registry::builder(self.dir(), "registry").persistent().start().expect("the registry starts")
        })
    }

    /// Puts image `name` into the system repository and returns what to give to --container-image.
    pub fn system_image(&self, name: &str) -> String {
        let reference = format!("lab.test/{name}:1");
        let note = self.dir().join("log").join(format!("imported-{name}"));
        if !note.exists() {
            let layout = ImageStore::default().layout(name).expect("the image can be made");
            let import =
                Cmd::new(self.program()).arg("import").arg("--repository").arg(self.system_repository());
            let _ = import.arg(format!("oci:{}", layout.display())).arg(&reference).run().success();
            fs::write(note, "").expect("the lab's directory is writable");
        }
        reference
    }

    /// The SquashFS file of image `name` in the system repository.
    pub fn system_file(&self, name: &str) -> PathBuf {
        let layout = ImageStore::default().layout(name).expect("the image can be made");
        let digest = manifest_digest(&layout).expect("a layout has an index");
        let hex = digest.strip_prefix("sha256:").expect("a sha256 digest");
        self.system_repository().join(format!("images/sha256/{hex}.squashfs"))
    }

    /// Pushes image `name` to the registry and returns its reference there.
    pub fn pushed_image(&self, name: &str) -> String {
        let layout = ImageStore::default().layout(name).expect("the image can be made");
        self.registry().push(&layout, &format!("{name}:1")).expect("skopeo can push")
    }

    /// A fresh directory of the user's on the host, visible to both sides.
    pub fn fresh_dir(&self, name: &str) -> PathBuf {
        let dir = self.work_dir().join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).expect("what a test left can be removed");
        }
        fs::create_dir(&dir).expect("the work directory is there");
        self.give(&dir);
        dir
    }

    /// Makes a file or directory the user's.
    pub fn give(&self, path: &Path) {
        let account = self.account();
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).expect("root may chown");
    }

    /// Runs `body` under another site file: the lab's own lines and `more`.
    pub fn with_site<T>(&self, more: &str, body: impl FnOnce() -> T) -> T {
        let _restore = Restore { lab: self };
        self.write_site(more).expect("the site file can be written");
        body()
    }

    /// Runs `body` under another plugstack.conf; `PLUGIN` and `SITE` in it stand for the lab's paths.
    pub fn with_plugstack<T>(&self, text: &str, body: impl FnOnce() -> T) -> T {
        let _restore = Restore { lab: self };
        self.write_plugstack(text).expect("plugstack.conf can be written");
        body()
    }

    fn install(&self) -> Result<()> {
        let built = build()?;
        for (from, to) in [("grus", "bin/grus"), ("libspank_grus.so", "lib/spank_grus.so")] {
            let to = self.dir().join(to);
            fs::create_dir_all(to.parent().context("a path below the lab")?)?;
            fs::copy(built.join(from), &to).with_context(|| format!("cannot install {from}"))?;
        }
        self.write_site("")?;
        self.write_plugstack(REQUIRED)
    }

    /// Writes the site file: the lab's own lines and `more`. Tests call it inside `with_plugstack`, which puts the
    /// lab's file back.
    pub fn write_site(&self, more: &str) -> Result<()> {
        let repository = self.system_repository();
        let program = self.program();
        let own = format!("repository.system = {repository:?}\npull.command = {program:?}\n");
        Ok(fs::write(self.site_file(), own + more)?)
    }

    fn write_plugstack(&self, text: &str) -> Result<()> {
        let plugin = self.dir().join("lib/spank_grus.so");
        let text = text.replace("PLUGIN", &plugin.to_string_lossy());
        self.set_plugstack(&text.replace("SITE", &self.site_file().to_string_lossy()))
    }
}

/// The plugstack.conf of the lab: as an administrator is told to write it.
pub const REQUIRED: &str = "required PLUGIN config=SITE\n";
/// The same, where Slurm goes on without the plugin if it fails to load.
pub const OPTIONAL: &str = "optional PLUGIN config=SITE\n";

/// Puts back the lab's own configuration, also after a failed test.
struct Restore<'a> {
    lab: &'a Lab,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        // Made anew, so that owner and mode are right again too.
        let _ = fs::remove_file(self.lab.site_file());
        let written = self.lab.write_site("").and_then(|()| self.lab.write_plugstack(REQUIRED));
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
    cargo.args(["build", "--quiet", "--locked", "-p", "spank_grus", "-p", "grus"]);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    ensure!(cargo.status()?.success(), "plugin and program do not build");
    Ok(profile.to_owned())
}
