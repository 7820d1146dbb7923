//! The node's devices in a plan: golden plans of each vendor's files (`core/tests/cdi`), what hooks would do, libraries
//! that do not fit, and hostile files.

use super::stack::{swap, swapped};
use super::*;
use crate::cdi::Source;
use crate::ldcache::{self, Cache};

const NVIDIA: &str = include_str!("../../../tests/cdi/nvidia.yaml");
const AMD: &str = include_str!("../../../tests/cdi/amd.json");
const INTEL: &str = include_str!("../../../tests/cdi/intel.yaml");
const LIB: &str = "/usr/lib/x86_64-linux-gnu";
/// Slurm gave the second GPU, and constrains devices.
const SECOND: &[(&str, &str)] =
    &[("SLURM_STEP_GPUS", "1"), ("CUDA_VISIBLE_DEVICES", "0"), ("ROCR_VISIBLE_DEVICES", "0")];

fn registry(text: &str) -> Registry {
    Registry::of(vec![vec![Source { path: path("/etc/cdi/devices"), content: Ok(text.into()) }]])
}

/// A library by SONAME with the nodes it needs of libc.
fn library(soname: &str, nodes: &[&str]) -> Object {
    Object {
        machine: "x86_64".into(),
        soname: Some(soname.into()),
        needed: vec!["libc.so.6".into()],
        requires: [("libc.so.6".to_owned(), nodes.iter().map(|n| (*n).to_owned()).collect())].into(),
        ..Object::default()
    }
}

/// What the files of `core/tests/cdi` name, as a node has it.
fn node() -> Files {
    let mut files = Files::node();
    let devices = [
        "nvidia0",
        "nvidia1",
        "nvidia-modeset",
        "nvidia-uvm",
        "nvidia-uvm-tools",
        "nvidiactl",
        "kfd",
        "dri/card0",
        "dri/card1",
        "dri/card2",
        "dri/renderD128",
        "dri/renderD129",
    ];
    let by_path = ["0000:18:00.0", "0000:2a:00.0"]
        .iter()
        .flat_map(|pci| ["card", "render"].map(|kind| format!("dri/by-path/pci-{pci}-{kind}")));
    let devices = devices.iter().map(|d| (*d).to_owned()).chain(by_path);
    files.kinds.extend(devices.map(|d| (&*format!("/dev/{d}").leak(), Kind::Device)));
    for name in ["cuda", "nvidia-ml", "nvidia-ptxjitcompiler", "nvidia-opticalflow", "nvidia-allocator"] {
        let file = &*format!("{LIB}/lib{name}.so.575.57.08").leak();
        files.kinds.insert(file, Kind::File);
        files.libraries.insert(file, library(&format!("lib{name}.so.1"), &["GLIBC_2.2.5", "GLIBC_2.17"]));
    }
    let vdpau = "/usr/lib/x86_64-linux-gnu/vdpau/libvdpau_nvidia.so.575.57.08";
    files.kinds.extend([(vdpau, Kind::File), ("/usr/bin/nvidia-smi", Kind::File)]);
    files.libraries.insert(vdpau, library("libvdpau_nvidia.so.1", &["GLIBC_2.2.5"]));
    files.kinds.insert("/lib/firmware/nvidia/575.57.08/gsp_ga10x.bin", Kind::File);
    files.kinds.insert("/run/nvidia-persistenced/socket", Kind::Other);
    files.kinds.insert("/proc/driver/nvidia/params", Kind::File);
    files.texts.insert("/proc/driver/nvidia/params", "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\n");
    files
}

fn case(text: &str, options: &'static [&'static str]) -> Case {
    let mut case = Case::of(options);
    case.devices = Some(registry(text));
    case.variables = SECOND;
    case.files = node();
    case
}

/// The loader's cache of a plan: name and path.
fn cached(plan: &LaunchPlan) -> Vec<(String, String)> {
    let text = plan.mounts.iter().find_map(|op| match op {
        Op::Text { destination, content, .. } if destination.as_str() == "/etc/ld.so.cache" => Some(content),
        _ => None,
    });
    let cache = text.map(|text| ldcache::parse(text).expect("a cache")).unwrap_or_default();
    cache.entries.into_iter().map(|entry| (entry.name, entry.path)).collect()
}

fn warned(plan: &LaunchPlan) -> String {
    plan.warnings.join("\n")
}

#[test]
fn golden_plans_of_each_vendor() {
    case(NVIDIA, &[]).golden("nvidia");
    case(NVIDIA, &["container-gpu=all", "container-writable"]).golden("nvidia_writable");
    case(AMD, &[]).golden("amd");
    case(INTEL, &[]).golden("intel");
}

#[test]
fn without_gpus_nothing_is_looked_for_and_nothing_changes() {
    let site = Site::defaults();
    let environment =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let mut request = Request::default();
    assert!(!wants_devices(&request, &site, &environment(&[("SLURM_JOB_ID", "1")])));
    assert!(wants_devices(&request, &site, &environment(SECOND)));
    request.set(by_name("container-gpu").expect("known").opt, "none", &AbsPath::root()).expect("set");
    assert!(!wants_devices(&request, &site, &environment(SECOND)));
    let mut idle = case(NVIDIA, &[]);
    idle.variables = &[];
    assert_eq!(idle.decide().expect("a plan"), Case::of(&[]).decide().expect("a plan"));
    // A step that has GPUs on a node that describes none: the device nodes are there, as everything of /dev.
    let mut bare = case(NVIDIA, &[]);
    bare.devices = Some(Registry::default());
    let plan = bare.decide().expect("a plan");
    assert!(warned(&plan).contains("no file of this node describes it"), "{plan}");
    bare.files.kinds.remove("/dev/nvidiactl");
    assert_eq!(warned(&bare.decide().expect("a plan")), "");
}

#[test]
fn the_loader_finds_the_drivers_libraries_whatever_else_changes_its_cache() {
    let mut both = case(NVIDIA, &[]);
    both.swap = Some(swap());
    both.tree = swapped(&[]).tree;
    let plan = both.decide().expect("a plan");
    let names: Vec<String> = cached(&plan).into_iter().map(|(name, _)| name).collect();
    for name in ["libcuda.so.1", "libvdpau_nvidia.so.1", "libmpi.so.12", "libcxi.so.1"] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
    // The image's own is replaced, and its other entries stay.
    let mut old = case(NVIDIA, &[]);
    let entry = |name: &str, path: &str| ldcache::Entry {
        name: name.into(),
        path: path.into(),
        flags: 0x303,
        osversion: 0,
        hwcaps: None,
        hwcap: 0,
    };
    let cache = Cache {
        entries: vec![entry("libcuda.so.1", "/stub/libcuda.so.1"), entry("libz.so.1", "/lib/libz.so.1")],
    };
    old.tree = Tree::debian().with(Kind::File, &["/etc/ld.so.cache"]);
    old.tree.contents.insert("/etc/ld.so.cache".into(), cache.write());
    let cached = cached(&old.decide().expect("a plan"));
    assert!(cached.contains(&("libcuda.so.1".into(), format!("{LIB}/libcuda.so.1"))), "{cached:?}");
    assert!(cached.contains(&("libz.so.1".into(), "/lib/libz.so.1".into())), "{cached:?}");
}

#[test]
fn the_images_newer_cuda_takes_the_place_of_the_drivers() {
    let compat = |version: &str| {
        let mut case = case(NVIDIA, &[]);
        let tree =
            Tree::debian().with(Kind::Directory, &["/usr/local/cuda-13.0", "/usr/local/cuda-13.0/compat"]);
        let link = format!("/usr/local/cuda-13.0/compat/libcuda.so.1 -> libcuda.so.{version}");
        let file = format!("/usr/local/cuda-13.0/compat/libcuda.so.{version}");
        case.tree =
            tree.with(Kind::Symlink, &["/usr/local/cuda -> cuda-13.0", &link]).with(Kind::File, &[&file]);
        let plan = case.decide().expect("a plan");
        let cuda = cached(&plan).into_iter().find(|(name, _)| name == "libcuda.so.1").expect("an entry").1;
        (cuda, plan.devices.join("\n"))
    };
    let (newer, shown) = compat("580.65.06");
    assert_eq!(newer, "/usr/local/cuda-13.0/compat/libcuda.so.1");
    assert!(
        shown.contains("CUDA of /usr/local/cuda-13.0/compat, newer than the node's driver 575"),
        "{shown}"
    );
    for older in ["575.99.01", "550.54.15", "x.1"] {
        assert_eq!(compat(older).0, format!("{LIB}/libcuda.so.1"), "{older}");
    }
}

/// Debian's tree with a libc of these version nodes. Real enough to be read: a test's own libc would be as new as its
/// machine's.
#[cfg(target_arch = "x86_64")]
fn with_libc(case: &mut Case, file: &'static str) {
    let libc = std::fs::read(file).expect("this machine's libc");
    case.tree = Tree::debian().with(Kind::Directory, &["/lib", "/lib/x86_64-linux-gnu"]);
    case.tree = std::mem::take(&mut case.tree).with(Kind::File, &["/lib/x86_64-linux-gnu/libc.so.6"]);
    case.tree.contents.insert("/lib/x86_64-linux-gnu/libc.so.6".into(), libc);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_library_that_needs_a_newer_glibc_is_left_out_or_refused() {
    let cuda = "/usr/lib/x86_64-linux-gnu/libcuda.so.575.57.08";
    let mut newer = case(NVIDIA, &[]);
    with_libc(&mut newer, "/lib/x86_64-linux-gnu/libc.so.6");
    newer.files.libraries.insert(cuda, library("libcuda.so.1", &["GLIBC_2.2.5", "GLIBC_2.99"]));
    let plan = newer.decide().expect("a plan");
    let why = format!(
        "{cuda} does not fit the image: it needs GLIBC_2.99 of libc.so.6, and the image has glibc 2."
    );
    assert!(warned(&plan).starts_with(&why), "{}", warned(&plan));
    let shown = plan.to_string();
    assert!(
        !shown.contains(" on /usr/lib/x86_64-linux-gnu/libcuda.so.575")
            && shown.contains("libnvidia-ml.so.575"),
        "{shown}"
    );
    newer.options = &["container-gpu=all"];
    let refusal = newer.refused();
    assert!(refusal.what.starts_with(&why) && refusal.hint.is_some(), "{refusal}");
    // The others fit this machine's.
    let mut fits = case(NVIDIA, &["container-gpu=all"]);
    with_libc(&mut fits, "/lib/x86_64-linux-gnu/libc.so.6");
    assert!(fits.decide().is_ok());
    // Another architecture's libraries are not the image's affair.
    let foreign = Object { machine: "i386".into(), ..library("libcuda.so.1", &["GLIBC_2.99"]) };
    fits.files.libraries.insert(cuda, foreign);
    assert!(fits.decide().is_ok());
}

#[test]
#[cfg(target_arch = "x86_64")]
fn on_musl_only_what_needs_no_glibc_comes_and_the_environment_leads_to_it() {
    let mut musl = case(NVIDIA, &[]);
    musl.tree =
        Tree::debian().with(Kind::Directory, &["/lib"]).with(Kind::File, &["/lib/ld-musl-x86_64.so.1"]);
    let own = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.575.57.08";
    let bare = Object { needed: vec![], requires: [].into(), ..library("libnvidia-ml.so.1", &[]) };
    musl.files.libraries.insert(own, bare);
    let plan = musl.decide().expect("a plan");
    let shown = plan.to_string();
    assert!(
        shown.contains(own) && !shown.contains(" on /usr/lib/x86_64-linux-gnu/libcuda.so.575"),
        "{shown}"
    );
    assert!(
        warned(&plan).contains("needs GLIBC_2.17 of libc.so.6, and the image has musl, and 4 more"),
        "{shown}"
    );
    assert_eq!(plan.environment.set["LD_LIBRARY_PATH"], LIB);
    assert!(cached(&plan).is_empty());
}

#[test]
fn parts_of_the_driver_are_those_the_image_names() {
    let mut some = case(NVIDIA, &[]);
    some.image.env.push("NVIDIA_DRIVER_CAPABILITIES=compute,utility".into());
    let shown = some.decide().expect("a plan").to_string();
    assert!(shown.contains("libcuda.so.575") && shown.contains("nvidia-smi"), "{shown}");
    assert!(!shown.contains("libnvidia-opticalflow.so.575") && !shown.contains("vdpau"), "{shown}");
    some.options = &["container-env=NVIDIA_DRIVER_CAPABILITIES=all"];
    assert!(some.decide().expect("a plan").to_string().contains("libnvidia-opticalflow.so.575"));
}

#[test]
fn a_stale_file_is_told_once_or_refused() {
    let mut stale = case(NVIDIA, &[]);
    stale.files.kinds.retain(|file, _| !file.contains(".575."));
    let plan = stale.decide().expect("a plan");
    let warning =
        "/usr/lib/x86_64-linux-gnu/libcuda.so.575.57.08 of the device's driver: No such file or directory, \
                   and 5 more";
    assert_eq!(warned(&plan), warning);
    stale.options = &["container-device=nvidia.com/gpu=1"];
    let refusal = stale.refused();
    assert!(refusal.what.contains("libcuda.so.575.57.08 of the device's driver"), "{refusal}");
    assert!(refusal.hint.expect("a way out").contains("nvidia-ctk cdi generate"));
}

#[test]
fn device_nodes_by_their_paths() {
    let fuse = case(NVIDIA, &["container-device=/dev/fuse"]).decide().expect("a plan");
    assert!(fuse.devices.contains(&"/dev/fuse".into()), "{fuse}");
    for (options, why) in [
        (&["container-device=/dev/nvidia0"][..], "it is of a GPU that Slurm did not give this step"),
        (&["container-device=/dev/gone"], "No such file or directory"),
        (&["container-device=/data/file"], "it is no device node"),
    ] {
        let refusal = case(NVIDIA, options).refused();
        assert_eq!(refusal.what, format!("--{}: {why}", options[0]));
        assert!(refusal.hint.is_some());
    }
    // Beside /dev, it is bound.
    let mut beside = case(NVIDIA, &["container-device=/scratch/null"]);
    beside.files.kinds.insert("/scratch/null", Kind::Device);
    let shown = beside.decide().expect("a plan").to_string();
    assert!(shown.contains("bind      /scratch/null on /scratch/null (rw,norec,dev)"), "{shown}");
}

/// A file of one device with these edits.
fn spec(edits: &str) -> String {
    format!(
        r#"{{"cdiVersion":"0.7.0","kind":"a.b/c","devices":[{{"name":"0","containerEdits":{{{edits}}}}}]}}"#
    )
}

#[test]
fn what_cannot_be_done_is_told() {
    let edits = r#""additionalGids":[50,4242],"intelRdt":{},"env":["HOME=/x","TUNED=1"],
        "hooks":[{"hookName":"prestart","path":"/usr/bin/vendor-hook","args":["vendor-hook","--all"]}]"#;
    let plan = case(&spec(edits), &["container-device=a.b/c=0"]).decide().expect("a plan");
    let warnings = [
        "hooks are never run: /usr/bin/vendor-hook --all",
        "a device is for members of group 4242, in which the user is not; no group is given here",
        "intelRdt of a device's file has no effect",
    ];
    assert_eq!(plan.warnings, warnings);
    assert_eq!(plan.environment.set["TUNED"], "1");
    assert!(!plan.environment.set.contains_key("HOME"), "the user's own stays");
}

#[test]
fn a_hostile_file_reaches_nothing_that_its_image_and_user_do_not() {
    // A link of the image leads the destination about inside the image (CVE-2024-0132 followed it out of it).
    let mount = r#""mounts":[{"hostPath":"/data/file","containerPath":"/evil/libx.so"}]"#;
    let mut evil = case(&spec(mount), &["container-device=a.b/c=0"]);
    evil.tree = Tree::debian().with(Kind::Symlink, &["/evil -> ../../../../../../opt"]);
    let shown = evil.decide().expect("a plan").to_string();
    assert!(shown.contains("bind      /data/file on /opt/libx.so (rw)"), "{shown}");
    // The loader's cache is a text beside the image's, wherever a link of its name leads (CVE-2025-23267).
    let hook = |args: &str| {
        spec(&format!(
            r#""hooks":[{{"hookName":"createContainer","path":"/usr/bin/nvidia-cdi-hook","args":["nvidia-cdi-hook",{args}]}}]"#
        ))
    };
    let library = r#""mounts":[{"hostPath":"/data/lib.so","containerPath":"/usr/lib/libx.so"}]"#;
    let text = hook(r#""update-ldcache","--folder","/usr/lib""#)
        .replace(r#""hooks""#, &format!("{library},\"hooks\""));
    let mut linked = case(&text, &["container-device=a.b/c=0"]);
    linked.files.kinds.insert("/data/lib.so", Kind::File);
    linked.files.libraries.insert("/data/lib.so", super::devices::library("../../etc/x", &[]));
    linked.tree = Tree::debian().with(Kind::Symlink, &["/etc/ld.so.cache -> ../../../tmp/target"]);
    let plan = linked.decide().expect("a plan");
    assert!(cached(&plan).is_empty() && !plan.to_string().contains("/tmp/target"), "{plan}");
    assert!(!plan.to_string().contains("link "), "a SONAME names a file: {plan}");
    // A source that only root can reach is out of reach.
    let secret = spec(r#""mounts":[{"hostPath":"/secret","containerPath":"/x"}]"#);
    let refusal = case(&secret, &["container-device=a.b/c=0"]).refused();
    assert_eq!(refusal.what, "/secret of the device's driver: Permission denied");
    // Links do not hide what the image has.
    let over = hook(r#""create-symlinks","--link","/tmp::/usr""#);
    let refusal = case(&over, &["container-device=a.b/c=0"]).refused();
    assert_eq!(
        refusal.what,
        "link /usr of the device's driver cannot be made: the image has a directory there"
    );
}
