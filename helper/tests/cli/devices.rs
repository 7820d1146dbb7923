//! The host's devices in `grus plan`, `grus explain` and `grus host scan`, from a CDI file with stand-ins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::archives::*;
use crate::mpi;
use crate::support::Lab;

/// A lab with image app:1, whose site has a CDI file. The file's directory is one that root alone can write, or
/// it would not be used.
fn lab() -> Option<(Lab, TempDir, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make a CDI file that is used");
        return None;
    }
    let lab = Lab::new();
    simple_layout(lab.path("layout"));
    let _ = lab.run(["import", "-q", "layout", "app:1"]).ok();
    let dir = tempfile::Builder::new().prefix("grus-cdi-").tempdir_in("/run").expect("a directory");
    let library = dir.path().join("libcuda.so.1");
    fs::copy("/lib/x86_64-linux-gnu/libz.so.1", &library).expect("a library of this machine");
    let text = format!(
        "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/full\n\
         containerEdits:\n  mounts:\n  - {{hostPath: {}, containerPath: /usr/lib/libcuda.so.1}}\n  - {{hostPath: /gone, containerPath: /gone}}\n",
        library.display()
    );
    fs::write(dir.path().join("gpu.yaml"), text).expect("a file");
    fs::write(lab.path("grus.toml"), format!("cdi.dirs = [{:?}]\n", dir.path())).expect("site file");
    Some((lab, dir, library))
}

#[test]
fn a_plan_shows_the_devices_of_the_job_it_is_made_in() {
    let Some((lab, dir, library)) = lab() else { return };
    let plan = lab.run(["plan", "app:1", "--container-gpu=all"]);
    plan.refused(78, "/gone of the device's driver: No such file or directory");
    let mut inside = lab.command(["plan", "app:1"]);
    let said =
        crate::support::Output::of(inside.env("SLURM_JOB_GPUS", "0").output().expect("grus starts")).ok();
    let file = dir.path().join("gpu.yaml");
    for line in [
        format!("device    nvidia.com/gpu=0 of {}\n", file.display()),
        format!("bind      {} on /usr/lib/libcuda.so.1 (rw)\n", library.display()),
        "warning   /gone of the device's driver: No such file or directory\n".into(),
    ] {
        assert!(said.out.contains(&line), "{line} is not in {}", said.out);
    }
    assert!(!lab.run(["plan", "app:1"]).ok().out.contains("device "), "outside of a job there is none");
}

/// `nvidia-container-cli` as far as a scan asks it, in the format of libnvidia-container's src/cli/list.c; libraries and
/// nodes of this machine stand for the driver's.
fn container_cli(lab: &Lab, library: &Path, fails: bool) -> PathBuf {
    let bin = lab.path("bin");
    fs::create_dir_all(&bin).expect("lab");
    let script = match fails {
        true => "#!/bin/sh\necho 'nvidia-container-cli: initialization error: driver error: failed to process request' >&2\nexit 1\n".into(),
        false => format!(
            "#!/bin/sh\ncase \"$*\" in\n'list --device=all --binaries --libraries --ipcs')\n\
             printf '%s\\n' /dev/nvidiactl /dev/nvidia-uvm /dev/nvidia0 /usr/bin/env {} /run/nvidia-persistenced/socket;;\n\
             *) echo 'unrecognized option' >&2; exit 64;;\nesac\n",
            library.display()
        ),
    };
    let program = bin.join("nvidia-container-cli");
    fs::write(&program, script).expect("lab");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("lab");
    bin
}

#[test]
fn an_old_toolkit_describes_its_gpus_through_scan() {
    let Some((lab, dir, library)) = lab() else { return };
    let scan = |args: &[&str], bin: &Path| {
        let mut command = lab.command([&["host", "scan", "--cdi"][..], args].concat());
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        crate::support::Output::of(command.output().expect("grus starts"))
    };
    let bin = container_cli(&lab, &library, false);
    // Two descriptions of one device are none.
    let there = dir.path().join("gpu.yaml");
    scan(&[], &bin).refused(2, &format!("{} describes NVIDIA's GPUs already", there.display()));
    fs::remove_file(there).expect("the file");
    scan(&[], Path::new("/nowhere")).refused(78, "it cannot be run: No such file or directory");
    scan(&[], &container_cli(&lab, &library, true)).refused(78, "driver error: failed to process request");
    let bin = container_cli(&lab, &library, false);
    let file = dir.path().join("nvidia-container-cli.json");
    assert_eq!(scan(&[], &bin).ok().out, format!("{}\n", file.display()));
    scan(&[], &bin).refused(2, "describes NVIDIA's GPUs already");
    let shown = fs::read_to_string(&file).expect("the file");
    let _ = scan(&["--replace"], &bin).ok();
    assert_eq!(fs::read_to_string(&file).expect("the file"), shown);
    let said = lab.run(["explain", "app:1"]).ok().out;
    assert!(said.contains(&format!("Devices nvidia.com/gpu of {}", file.display())), "it is used: {said}");
    let mut inside = lab.command(["plan", "app:1"]);
    let plan =
        crate::support::Output::of(inside.env("SLURM_JOB_GPUS", "0").output().expect("grus starts")).ok();
    assert!(plan.out.contains(&format!("device    nvidia.com/gpu=0 of {}\n", file.display())), "{plan:?}");
    assert!(plan.out.contains(&format!("bind      {} on ", library.display())), "{plan:?}");
}

#[test]
fn explain_and_scan_tell_what_is_described() {
    let Some((lab, dir, _)) = lab() else { return };
    let file = dir.path().join("gpu.yaml");
    let said = lab.run(["explain", "app:1"]).ok().out;
    let told =
        format!("Devices nvidia.com/gpu of {}: 1 programs and libraries fit the image.\n", file.display());
    assert!(said.contains(&told) && said.contains("  not on this host: /gone\n"), "{said}");
    let json: serde_json::Value =
        serde_json::from_str(&lab.run(["explain", "app:1", "--json"]).ok().out).expect("JSON");
    assert_eq!(
        (&json["devices"][0]["fitting"], &json["devices"][0]["missing"][0]),
        (&1.into(), &"/gone".into())
    );
    mpi::libfabric(&lab, "host/lib", 2);
    mpi::mpich(&lab, "host/lib", "3.4.3", &[]);
    fs::write(dir.path().join("other.json"), "{").expect("a file");
    let said = lab.run(["host", "scan", "--output", "-", "host"]).ok();
    assert!(said.err.contains(&format!("devices: {}: nvidia.com/gpu 0\n", file.display())), "{said:?}");
    assert!(said.err.contains("other.json is not used: EOF"), "{said:?}");
}
