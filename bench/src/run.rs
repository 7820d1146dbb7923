//! `run`: what `grus run IMAGE true` takes as an ordinary user, in turns with its peers on the same image, and with the
//! least that a container without root can be.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use grus_tests::{Cluster, Cmd, Fuse, ImageStore};
use serde_json::json;

use crate::figures::{print_load, rounded, Samples};
use crate::lab;

const IMAGE: &str = "busybox";
const ROUNDS: usize = 40;

/// A way to run `true` in the image.
struct Way {
    name: &'static str,
    command: Box<dyn Fn() -> Cmd>,
    took: Samples,
}

/// Runs the bench and prints its figures.
pub fn run() -> Result<()> {
    print_load("before");
    let cluster = lab::up("bench", 1)?;
    let _fuse = Fuse::for_everyone(true);
    let reference = cluster.system_image(IMAGE)?;
    let mut ways = ways(&cluster, &reference)?;
    for round in 0..=ROUNDS {
        for way in &mut ways {
            let command = (way.command)();
            let start = Instant::now();
            let output = command.run();
            let took = start.elapsed().as_secs_f64() * 1e3;
            ensure!(output.status.success(), "{}: {output}", way.name);
            // The first one warms caches.
            if round > 0 {
                way.took.0.push(took);
            }
        }
    }
    println!("whole commands that run /bin/true, ms");
    for way in &ways {
        println!("  {:22} {}", way.name, way.took);
    }
    print_load("after");
    let of = |name: &str| ways.iter().find(|way| way.name == name).map(|way| way.took.median());
    let grus = of("grus run").context("grus run was measured")?;
    let ratio = |a: Option<f64>, b: f64| a.map(|a| rounded(a / b, 2));
    let line = json!({
        "bench": "run",
        "grus_ms": rounded(grus, 2),
        "podman_over_grus": ratio(of("podman run"), grus),
        "chrun_over_grus": ratio(of("ch-run, directory"), grus),
        "squashfuse_bwrap_over_grus": ratio(of("squashfuse + bwrap"), grus),
        "over_floor": of("bwrap, directory").map(|floor| rounded(grus / floor, 2)),
    });
    cluster.down()?;
    println!("{line}");
    Ok(())
}

fn installed(program: &str) -> bool {
    Path::new("/usr/bin").join(program).exists()
}

fn ways(cluster: &Cluster, reference: &str) -> Result<Vec<Way>> {
    let mut ways: Vec<Way> = vec![];
    let mut add =
        |name, command: Box<dyn Fn() -> Cmd>| ways.push(Way { name, command, took: Samples::default() });
    let account = cluster.account().clone();
    let (program, site, work) = (cluster.grus_program(), cluster.site_file(), cluster.work_dir());
    let (image, user, dir) = (reference.to_owned(), account.clone(), work.clone());
    add(
        "grus run",
        Box::new(move || {
            Cmd::as_user(&user, &program).env("GRUS_CONFIG", &site).cwd(&dir).args([
                "run",
                &image,
                "/bin/true",
            ])
        }),
    );
    let file = cluster.system_file(IMAGE)?;
    let tree = work.join("tree");
    ensure!(
        Cmd::new("unsquashfs").args(["-q", "-n", "-d"]).arg(&tree).arg(&file).run().status.success(),
        "unsquashfs"
    );
    if installed("bwrap") {
        let (user, at) = (account.clone(), tree.clone());
        add("bwrap, directory", Box::new(move || bwrap(&user, &at, &[])));
        let (user, mount) = (account.clone(), work.join("mount"));
        fs::create_dir_all(&mount)?;
        cluster.give(&mount);
        let file = file.clone();
        add(
            "squashfuse + bwrap",
            Box::new(move || {
                let script = "squashfuse_ll \"$1\" \"$2\" && bwrap --bind \"$2\" / --dev-bind /dev /dev --bind /proc /proc /bin/true \
                          && fusermount3 -u \"$2\"";
                Cmd::as_user(&user, "sh").args(["-c", script, "sh"]).arg(&file).arg(&mount)
            }),
        );
    }
    if installed("ch-run") {
        let (user, at) = (account.clone(), tree.clone());
        add(
            "ch-run, directory",
            Box::new(move || Cmd::as_user(&user, "ch-run").arg(&at).args(["--", "/bin/true"])),
        );
    }
    if installed("podman") {
        let storage = work.join("podman");
        let layout = ImageStore::default().layout(IMAGE)?;
        let name = format!("oci:{}", layout.display());
        let pulled = podman(&storage).args(["pull", "--quiet", &name]).run();
        ensure!(pulled.status.success(), "{pulled}");
        let id = pulled.trimmed().to_owned();
        add(
            "podman run",
            Box::new(move || podman(&storage).args(["run", "--rm", "--network=host", &id, "/bin/true"])),
        );
    }
    Ok(ways)
}

fn bwrap(user: &grus_tests::Account, tree: &Path, more: &[&str]) -> Cmd {
    let binds = ["--dev-bind", "/dev", "/dev", "--bind", "/proc", "/proc"];
    Cmd::as_user(user, "bwrap").arg("--bind").arg(tree).arg("/").args(binds).args(more).arg("/bin/true")
}

/// As root, the fastest way it has; its storage's own mounts end with the namespace.
fn podman(storage: &Path) -> Cmd {
    let flag = |name: &str, sub: &str| -> String { format!("--{name}={}", storage.join(sub).display()) };
    let own = [flag("root", "root"), flag("runroot", "run"), flag("tmpdir", "tmp")];
    let fixed = ["--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=none"];
    Cmd::new("unshare").args(["--mount", "--propagation=private", "podman"]).args(own).args(fixed)
}
