//! Files in the form of the vendors' generators (`core/tests/cdi`), contradictions between them, and hostile ones; and what
//! is chosen of what they describe.

use std::collections::BTreeMap;

use super::*;
use crate::path::AbsPath;

const NVIDIA: &str = include_str!("../../tests/cdi/nvidia.yaml");
const MIG: &str = include_str!("../../tests/cdi/nvidia-mig.json");
const AMD: &str = include_str!("../../tests/cdi/amd.json");
const INTEL: &str = include_str!("../../tests/cdi/intel.yaml");

fn path(text: &str) -> AbsPath {
    AbsPath::parse(text).expect("static")
}

fn source(name: &str, text: &str) -> Source {
    Source { path: path(name), content: Ok(text.into()) }
}

fn registry(text: &str) -> Registry {
    Registry::of(vec![vec![source("/etc/cdi/one", text)]])
}

/// Names and, after a `-`, hidden nodes; or the refusal.
fn chosen(registry: &Registry, q: &Ask) -> String {
    let environment: BTreeMap<String, String> =
        q.job.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let asked: Vec<Asked> = q.asked.iter().map(|a| Asked::parse(a).expect(a)).collect();
    let grant = Grant::of(&environment);
    let choice = choose(&Question {
        registry,
        gpus: q.gpus,
        said: q.said,
        asked: &asked,
        grant: grant.as_ref(),
        environment: &environment,
        visible: q.visible,
    });
    match choice {
        Ok(chosen) => {
            let name = |p: &Pick| p.device.map_or("-".to_owned(), |d| d.name.clone());
            let mut words: Vec<String> = chosen.picks.iter().map(name).collect();
            words.extend(chosen.hidden.iter().map(|node| format!("-{}", node.path)));
            words.extend(chosen.warnings.iter().map(|w| format!("warning: {w}")));
            words.join(" ")
        }
        Err(refusal) => format!("refused: {refusal}"),
    }
}

#[derive(Default)]
struct Ask {
    gpus: Gpus,
    said: bool,
    asked: &'static [&'static str],
    job: &'static [(&'static str, &'static str)],
    visible: Option<&'static str>,
}

const SECOND: &[(&str, &str)] = &[("SLURM_STEP_GPUS", "1"), ("CUDA_VISIBLE_DEVICES", "0")];
const BOTH: &[(&str, &str)] = &[("SLURM_STEP_GPUS", "0,1"), ("CUDA_VISIBLE_DEVICES", "0,1")];

#[test]
fn every_generators_file_is_read() {
    let nvidia = parse(NVIDIA.as_bytes()).expect("nvidia");
    assert_eq!(nvidia.kind.to_string(), "nvidia.com/gpu");
    assert_eq!(nvidia.devices.len(), 5);
    assert_eq!((nvidia.edits.nodes.len(), nvidia.edits.mounts.len(), nvidia.edits.hooks.len()), (4, 9, 4));
    let smi = nvidia.edits.mounts.iter().find(|m| m.source == path("/usr/bin/nvidia-smi")).expect("a mount");
    assert!(smi.readonly && smi.nodev && smi.recursive && !smi.noexec);
    assert_eq!(nvidia.edits.env[1], ("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned()));
    assert_eq!(effects(&nvidia.edits.hooks).unknown.len(), 0);
    let amd = parse(AMD.as_bytes()).expect("amd");
    assert_eq!(
        amd.devices[1].edits.nodes.iter().map(|n| n.path.as_str()).collect::<Vec<_>>(),
        ["/dev/dri/card2", "/dev/dri/renderD129", "/dev/kfd"]
    );
    let intel = parse(INTEL.as_bytes()).expect("intel");
    assert_eq!(intel.devices[0].name, "0000-18-00-0-0x0bd5");
    assert!(!intel.devices[0].edits.mounts[0].recursive && !intel.devices[0].edits.mounts[0].readonly);
    assert_eq!(parse(MIG.as_bytes()).expect("mig").devices.len(), 7);
}

#[test]
fn every_field_of_the_specification_is_understood() {
    let text = r#"{"cdiVersion": "1.1.0", "kind": "vendor.com/nic", "annotations": {"a": "b"},
        "devices": [{"name": "0", "annotations": {}, "containerEdits": {
            "env": ["A=1=2", "B="],
            "deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/y", "type": "b", "major": 1, "minor": 3,
                "fileMode": 438, "permissions": "rwm", "uid": 0, "gid": 0}],
            "netDevices": [{"hostInterfaceName": "eth1", "name": "net0"}],
            "mounts": [{"hostPath": "/opt/x", "containerPath": "/opt/y", "options": ["bind", "noexec"], "type": "bind"}],
            "hooks": [{"hookName": "prestart", "path": "/bin/x", "args": ["x"], "env": ["C=1"], "timeout": 3}],
            "additionalGids": [44],
            "intelRdt": {"closID": "x"}}}]}"#;
    let spec = parse(text.as_bytes()).expect("a file");
    let edits = &spec.devices[0].edits;
    assert_eq!(edits.nodes, [Node { path: path("/dev/x"), host: path("/dev/y") }]);
    assert_eq!(edits.env[0].1, "1=2");
    assert!(edits.mounts[0].noexec && !edits.mounts[0].recursive);
    assert_eq!((edits.gids.as_slice(), edits.ignored.len(), edits.hooks.len()), (&[44][..], 2, 1));
    // Unquoted in YAML, a name and a mode are numbers.
    let yaml = "cdiVersion: 0.6\nkind: a/b\ndevices:\n- name: 0\n  containerEdits:\n    deviceNodes:\n    - {path: /dev/x, fileMode: 0o666, major: 195}\n";
    assert_eq!(parse(yaml.as_bytes()).expect("YAML").devices[0].name, "0");
}

#[test]
fn channels_for_memory_across_nodes_are_never_hidden() {
    let device = |n: u32| {
        format!("{{name: '{n}', containerEdits: {{deviceNodes: [{{path: /dev/nvidia{n}}}, {{path: /dev/nvidia-caps/nvidia-cap{n}}}, \
                 {{path: /dev/nvidia-caps-imex-channels/channel{n}}}]}}}}")
    };
    let text = format!("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: [{}, {}]\n", device(0), device(1));
    let ask = Ask { job: SECOND, ..Ask::default() };
    assert_eq!(chosen(&registry(&text), &ask), "1 -/dev/nvidia-caps/nvidia-cap0 -/dev/nvidia0");
}

#[test]
fn malformed_and_hostile_files_are_refused_with_the_reason() {
    let spec = |edits: &str| {
        format!(
            r#"{{"cdiVersion":"0.6.0","kind":"a.b/c","devices":[{{"name":"0","containerEdits":{{{edits}}}}}]}}"#
        )
    };
    for (text, why) in [
        ("", "it is empty"),
        ("{", "EOF"),
        ("[]", "invalid"),
        ("cdiVersion: 2.0.0\nkind: a/b\ndevices: [{name: x}]\n", "cdiVersion '2.0.0' is not known"),
        ("cdiVersion: 0.6.0\nkind: a/b\ndevices: []\n", "it describes no device"),
        ("cdiVersion: 0.6.0\nkind: a\ndevices: [{name: x}]\n", "no VENDOR/CLASS"),
        ("cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: ../x}]\n", "'../x' is no name of a device"),
        ("cdiVersion: 0.6.0\nkind: a/b\ndevices: [{name: x}, {name: x}]\n", "described twice"),
        (&spec(r#""mount":[]"#), "unknown field `mount`"),
        (&spec(r#""deviceNodes":[{"path":"/dev/../etc/shadow"}]"#), "has '..' in it"),
        (&spec(r#""deviceNodes":[{"path":"dev/x"}]"#), "is not an absolute path"),
        (&spec(r#""deviceNodes":[{"path":"/dev/x","type":"x"}]"#), "there is no type 'x'"),
        (&spec(r#""deviceNodes":[{"path":"/dev/x","permissions":"rx"}]"#), "permissions are of"),
        (&spec(r#""deviceNodes":[{"path":"/dev/x","major":"a"}]"#), "'a' is no whole number"),
        (&spec(r#""mounts":[{"hostPath":"/x","containerPath":"/usr/../../etc"}]"#), "has '..' in it"),
        (&spec(r#""mounts":[{"hostPath":"/x","containerPath":"/"}]"#), "'/' is no place"),
        (&spec(r#""mounts":[{"hostPath":"/x","containerPath":"/y","type":"overlay"}]"#), "type 'overlay'"),
        (&spec(r#""hooks":[{"hookName":"boot","path":"/x"}]"#), "there is no hook 'boot'"),
        (&spec(r#""env":["=x"]"#), "no NAME=VALUE"),
        (&spec(r#""additionalGids":[-1]"#), "-1 is no group"),
    ] {
        let said = parse(text.as_bytes()).expect_err(text);
        assert!(said.contains(why), "{text}: {said}");
    }
    assert!(parse(&[0xff; 8]).is_err() && parse(&vec![b' '; MAX_SPEC + 1]).is_err());
}

#[test]
fn damaged_files_end_in_an_answer() {
    // Every prefix, and every byte changed: no panic, whatever comes of it.
    for text in [NVIDIA, AMD, INTEL] {
        for end in (0..text.len()).step_by(7) {
            let _ = parse(&text.as_bytes()[..end]);
        }
        for at in (0..text.len()).step_by(5) {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 0x15;
            let _ = parse(&bytes);
        }
    }
}

#[test]
fn later_directories_win_and_equals_contradict_each_other() {
    let file = |node: &str| {
        format!(
            r#"{{"cdiVersion":"0.6.0","kind":"a.b/c","devices":[{{"name":"0","containerEdits":{{"deviceNodes":[{{"path":"{node}"}}]}}}}]}}"#
        )
    };
    let etc = |node| source("/etc/cdi/a.json", &file(node));
    let kind = Kind::parse("a.b/c").expect("static");
    let found =
        |registry: &Registry| registry.find(&kind, "0").map(|f| f.device.edits.nodes[0].path.to_string());
    let both =
        Registry::of(vec![vec![etc("/dev/etc")], vec![source("/var/run/cdi/a.json", &file("/dev/run"))]]);
    assert_eq!(found(&both), Ok("/dev/run".into()));
    let equals = Registry::of(vec![vec![etc("/dev/1"), source("/etc/cdi/b.json", &file("/dev/2"))]]);
    assert_eq!(found(&equals), Err("/etc/cdi/a.json and /etc/cdi/b.json both describe it".into()));
    assert!(equals.devices(&kind).is_empty());
    let mut broken = etc("/dev/1");
    broken.content = Err("/etc/cdi is writable by others".into());
    let broken = Registry::of(vec![vec![broken, source("/etc/cdi/b.json", "{"), etc("/dev/3")]]);
    assert_eq!(found(&broken), Ok("/dev/3".into()), "a file that is no good takes nothing from others");
    assert_eq!(broken.problems().len(), 2);
    assert_eq!(broken.problems()[0], "/etc/cdi/a.json is not used: /etc/cdi is writable by others");
}

#[test]
fn a_step_gets_what_slurm_gave_it_and_the_rest_is_hidden() {
    let nvidia = registry(NVIDIA);
    let of = |job, visible| chosen(&nvidia, &Ask { job, visible, ..Ask::default() });
    let others = "1 -/dev/dri/card1 -/dev/dri/renderD128 -/dev/nvidia0";
    assert_eq!(of(SECOND, None), others);
    assert_eq!(of(BOTH, Some("all")), "0 1");
    assert_eq!(of(&[], None), "", "a step without GPUs");
    // Where numbers count all of the node's, to hide some would give them another meaning.
    assert_eq!(of(&[("SLURM_STEP_GPUS", "1"), ("CUDA_VISIBLE_DEVICES", "1")], None), "1");
    // What the image wants, within what was given.
    assert_eq!(of(BOTH, Some("void")), "");
    assert_eq!(of(BOTH, Some("")), "");
    assert_eq!(of(BOTH, Some("none")), "-");
    assert_eq!(of(BOTH, Some("1")), others);
    assert_eq!(of(BOTH, Some("GPU-7a79f5d2-1b3c-2f42-6e0b-3d2a51f1a111")), others);
    let why = "warning: no GPU in the container: NVIDIA_VISIBLE_DEVICES=0 names none that Slurm gave";
    assert_eq!(of(SECOND, Some("0")), why);
    let none = Ask { gpus: Gpus::None, job: BOTH, ..Ask::default() };
    assert_eq!(chosen(&nvidia, &none), "");
    let all = |job| {
        chosen(&nvidia, &Ask { gpus: Gpus::All, said: true, job, visible: Some("void"), ..Ask::default() })
    };
    assert_eq!(all(SECOND), others, "an image's wish does not count");
    assert_eq!(all(&[]), "all", "Slurm keeps no account");
    let why = of(&[("SLURM_STEP_GPUS", "7")], None);
    assert!(why.contains("Slurm gave this step GPU 7, and this node has nvidia.com/gpu 0, 1"), "{why}");
}

#[test]
fn each_vendors_devices_are_found_by_slurms_numbers() {
    let amd = Ask { job: &[("SLURM_STEP_GPUS", "1"), ("ROCR_VISIBLE_DEVICES", "0")], ..Ask::default() };
    assert_eq!(
        chosen(&registry(AMD), &amd),
        "1 -/dev/dri/card1 -/dev/dri/renderD128",
        "/dev/kfd is everyone's"
    );
    let intel = Ask { job: &[("SLURM_STEP_GPUS", "1"), ("ZE_AFFINITY_MASK", "0")], ..Ask::default() };
    assert_eq!(chosen(&registry(INTEL), &intel), "0000-2a-00-0-0x0bd5 -/dev/dri/card0 -/dev/dri/renderD128");
    let mig = |job| chosen(&registry(MIG), &Ask { job, ..Ask::default() });
    let second = "-/dev/nvidia-caps/nvidia-cap30 -/dev/nvidia-caps/nvidia-cap31 -/dev/nvidia1";
    assert_eq!(mig(&[("SLURM_STEP_GPUS", "1")]), format!("0:1 {second}"), "by place");
    let by_name: &[_] =
        &[("SLURM_STEP_GPUS", "1"), ("CUDA_VISIBLE_DEVICES", "MIG-11111111-aaaa-5e5e-8b8b-000000000002")];
    assert_eq!(mig(by_name), format!("MIG-11111111-aaaa-5e5e-8b8b-000000000002 {second}"));
    assert!(mig(&[("SLURM_STEP_GPUS", "2")]).starts_with("1 "), "the GPU that is not divided");
    // Two vendors: the one whose variable Slurm set.
    let two = Registry::of(vec![vec![source("/etc/cdi/n", NVIDIA), source("/etc/cdi/a", AMD)]]);
    assert_eq!(chosen(&two, &amd), "1 -/dev/dri/card1 -/dev/dri/renderD128");
    let vague = chosen(&two, &Ask { job: &[("SLURM_STEP_GPUS", "1")], ..Ask::default() });
    assert!(vague.contains("amd.com/gpu and nvidia.com/gpu, and Slurm does not say which"), "{vague}");
}

#[test]
fn a_named_device_is_had_or_refused() {
    let nvidia = registry(NVIDIA);
    let of = |asked, job| chosen(&nvidia, &Ask { gpus: Gpus::None, asked, job, ..Ask::default() });
    assert_eq!(of(&["nvidia.com/gpu=1"], &[]), "1", "no account is kept");
    assert_eq!(
        of(&["nvidia.com/gpu=GPU-7a79f5d2-1b3c-2f42-6e0b-3d2a51f1a111"], BOTH).split(' ').next(),
        Some("GPU-7a79f5d2-1b3c-2f42-6e0b-3d2a51f1a111")
    );
    assert!(of(&["nvidia.com/gpu=all"], SECOND).starts_with("1 -"), "all that was given");
    for (asked, job, why) in [
        (&["nvidia.com/gpu=0"][..], SECOND, "nvidia.com/gpu=0: Slurm gave this step nvidia.com/gpu=1"),
        (&["nvidia.com/gpu=9"], &[], "nvidia.com/gpu=9: this node has nvidia.com/gpu 0, 1, GPU-"),
        (
            &["amd.com/gpu=0"],
            &[],
            "amd.com/gpu=0: this node's files describe nvidia.com/gpu and no amd.com/gpu",
        ),
    ] {
        let said = of(asked, job);
        assert!(said.starts_with(&format!("refused: --container-device={why}")), "{said}");
    }
    let said = Ask { gpus: Gpus::All, said: true, ..Ask::default() };
    assert_eq!(
        chosen(&Registry::default(), &said),
        "refused: --container-gpu=all: this node describes no GPU"
    );
    // Where the site wants all, a node without is no news.
    assert_eq!(chosen(&Registry::default(), &Ask { said: false, job: BOTH, ..said }), "");
}
