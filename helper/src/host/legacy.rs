//! The description of NVIDIA's GPUs from `nvidia-container-cli list`, for hosts whose toolkit is too old to write CDI files.
//!
//! That program prints a path a line: device nodes, programs, libraries, sockets, firmware (libnvidia-container,
//! src/cli/list.c). What it does in containers besides, links and the loader's cache, is told as the hooks that
//! nvidia-ctk would write, which Grus carries out itself.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use grus_core::cdi;
use grus_core::elf::is_library_name;
use grus_core::path::AbsPath;
use grus_core::refusal::{printable, Refusal};
use serde_json::{json, Value};

use crate::failure::reason;

/// The program.
const PROGRAM: &str = "nvidia-container-cli";

/// Links without version that it makes itself (src/nvc_mount.c), where the libraries are there.
const LINKS: [(&str, &str); 2] =
    [("libcuda.so.1", "libcuda.so"), ("libnvidia-opticalflow.so.1", "libnvidia-opticalflow.so")];

/// Asks the program, and writes down what it says as CDI.
pub fn described() -> Result<String, Refusal> {
    let mut listed = list(&["--device=all", "--binaries", "--libraries", "--ipcs"])?;
    // Old releases know no firmware.
    listed.push_str(&list(&["--firmwares"]).unwrap_or_default());
    let text = format!("{:#}\n", spec(&listed)?);
    cdi::parse(text.as_bytes()).map_err(|why| {
        Refusal::site(format!("what {PROGRAM} lists makes no CDI file: {}", printable(&why)))
    })?;
    Ok(text)
}

fn list(arguments: &[&str]) -> Result<String, Refusal> {
    let shown = format!("{PROGRAM} list {}", arguments.join(" "));
    let failed = |why: String| {
        Refusal::site(format!("{shown}: {}", printable(why.trim()))).hint(
            "with NVIDIA's container toolkit 1.12 or newer it is not needed: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
        )
    };
    let output = Command::new(PROGRAM).arg("list").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|e| failed(format!("it cannot be run: {}", reason(&e))))?;
    match output.status.success() {
        true => String::from_utf8(output.stdout).map_err(|_| failed("it lists what is no text".into())),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// A GPU's number: that of its node, by which gres.conf names it.
fn number(node: &str) -> Option<u32> {
    node.strip_prefix("/dev/nvidia")?.parse().ok()
}

/// The CDI file of a list.
fn spec(listed: &str) -> Result<Value, Refusal> {
    let paths = listed.lines().map(str::trim).filter(|line| !line.is_empty()).map(AbsPath::parse);
    let paths: BTreeSet<AbsPath> = paths.collect::<Result<_, _>>()?;
    let mut gpus: BTreeMap<u32, &str> = BTreeMap::new();
    let (mut common, mut mounts, mut folders) = (vec![], vec![], BTreeSet::new());
    let (mut links, mut version) = (vec![], None);
    for path in &paths {
        let (text, name) = (path.as_str(), path.components().next_back().unwrap_or_default());
        let Some(dir) = path.parent() else { continue };
        match number(text) {
            Some(number) => drop(gpus.insert(number, text)),
            None if text.starts_with("/dev/") => common.push(json!({ "path": text })),
            // Rights to MIG instances are device nodes, which containers have with the rest of /dev.
            None if text.starts_with("/proc/") => {}
            None => {
                mounts.push(json!({
                    "hostPath": text, "containerPath": text,
                    "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
                }));
            }
        }
        if is_library_name(name) {
            let of = LINKS
                .iter()
                .filter(|(soname, _)| name.starts_with(&format!("{}.", &soname[..soname.len() - 2])));
            links.extend(of.map(|(soname, link)| format!("{soname}::{dir}/{link}")));
            version = version.or_else(|| name.strip_prefix("libcuda.so.").filter(|v| v.contains('.')));
            folders.insert(dir);
        }
    }
    if gpus.is_empty() {
        return Err(Refusal::site(format!("{PROGRAM} lists no GPU")).hint("run it on a node that has GPUs"));
    }
    let node = |path: &&str| json!({ "path": path });
    let device =
        |name: &str, nodes: Vec<Value>| json!({ "name": name, "containerEdits": { "deviceNodes": nodes } });
    let mut devices: Vec<Value> =
        gpus.iter().map(|(number, path)| device(&number.to_string(), vec![node(path)])).collect();
    devices.push(device("all", gpus.values().map(node).collect()));
    Ok(json!({
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": devices,
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": common,
            "hooks": hooks(links, version, &folders),
            "mounts": mounts,
        },
    }))
}

/// The hooks that nvidia-ctk would write for it.
fn hooks(links: Vec<String>, version: Option<&str>, folders: &BTreeSet<AbsPath>) -> Vec<Value> {
    let hook = |words: Vec<String>| {
        let words: Vec<String> = std::iter::once("nvidia-cdi-hook".to_owned()).chain(words).collect();
        json!({ "hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": words })
    };
    let pairs = |name: &str, option: &str, values: Vec<String>| -> Vec<String> {
        let options = values.into_iter().flat_map(|value| [option.to_owned(), value]);
        std::iter::once(name.to_owned()).chain(options).collect()
    };
    let mut hooks = vec![hook(pairs("create-symlinks", "--link", links))];
    hooks.extend(
        version.map(|v| hook(vec!["enable-cuda-compat".into(), format!("--host-driver-version={v}")])),
    );
    let folders = folders.iter().map(AbsPath::to_string).collect();
    hooks.push(hook(pairs("update-ldcache", "--folder", folders)));
    hooks.push(hook(vec!["disable-device-node-modification".into()]));
    hooks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_becomes_a_file_of_devices() {
        let listed = "/dev/nvidiactl\n/dev/nvidia-uvm\n/dev/nvidia0\n/dev/nvidia11\n\
            /proc/driver/nvidia/capabilities/mig/config\n/usr/bin/nvidia-smi\n\
            /usr/lib64/libcuda.so.450.80.02\n/usr/lib64/libnvidia-ml.so.450.80.02\n/usr/lib64/vdpau/libvdpau_nvidia.so.450.80.02\n\
            /run/nvidia-persistenced/socket\n/lib/firmware/nvidia/450.80.02/gsp.bin\n";
        let spec = cdi::parse(spec(listed).expect("good").to_string().as_bytes()).expect("a CDI file");
        let names: Vec<&str> = spec.devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(
            (spec.kind.to_string().as_str(), names.as_slice()),
            ("nvidia.com/gpu", &["0", "11", "all"][..])
        );
        assert_eq!((spec.edits.nodes.len(), spec.edits.mounts.len()), (2, 6));
        let effects = cdi::effects(&spec.edits.hooks);
        let links: Vec<String> =
            effects.links.iter().map(|(link, target)| format!("{link} {target}")).collect();
        assert_eq!(links, ["/usr/lib64/libcuda.so /usr/lib64/libcuda.so.1"]);
        assert_eq!((effects.folders.len(), effects.unknown.len(), effects.device_files), (2, 0, true));
        assert!(effects.compat.is_some());
        for bad in ["", "/dev/nvidiactl\n", "libcuda.so\n"] {
            assert!(super::spec(bad).is_err(), "{bad}");
        }
    }
}
