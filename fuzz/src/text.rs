//! Texts: what users type, what travels with a job, what registries send, what administrators write.

use std::collections::BTreeMap;

use grus_core::cdi::{choose, effects, Asked, Gpus, Grant, Question, Registry, Source};
use grus_core::mount::{Mount, What};
use grus_core::options::by_name;
use grus_core::path::AbsPath;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::request::Request;
use grus_core::signature::Policy;
use grus_core::site::Site;
use grus_core::stack::Stack;
use grus_core::Refusal;
use grus_helper::oci::{Config, Document};
use grus_helper::registry::manifest;

fn told(refusal: &Refusal) {
    super::printable(&refusal.to_string());
    super::printable(refusal.hint.as_deref().unwrap_or_default());
}

fn cwd() -> AbsPath {
    AbsPath::parse("/work/dir").expect("static")
}

/// Bytes as each of the documents that a registry sends: index, manifest, configuration.
pub fn document(data: &[u8]) {
    let platform = Platform::parse("linux/arm64/v8").expect("static");
    match manifest::parse(data, "x.y/app:1") {
        Ok(Document::Index(index)) => {
            let chosen = index.choose(&platform, "x.y/app:1");
            chosen.map(drop).unwrap_or_else(|error| super::printable(&error.to_string()));
        }
        Ok(Document::Manifest(manifest)) => assert!(manifest.layers.len() <= grus_helper::oci::MAX_LAYERS),
        Err(error) => super::printable(&format!("{error}{}", error.way_out().unwrap_or_default())),
    }
    if let Err(refusal) = Config::parse(data, "the configuration of x.y/app:1") {
        told(&refusal);
    }
}

/// Lines of `option value`, as srun hands them to the plugin. What they make arrives at the nodes as it was sent.
pub fn options(data: &[u8]) {
    let mut request = Request::default();
    for line in String::from_utf8_lossy(data).lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        let Some(spec) = by_name(name) else { continue };
        if let Err(refusal) = request.set(spec.opt, value, &cwd()) {
            told(&refusal);
        }
    }
    let _ = request.check().map_err(|refusal| told(&refusal));
    travels(&request);
}

/// Bytes as the text that travels with a job, which a user can write.
pub fn request(data: &[u8]) {
    match Request::decode(&String::from_utf8_lossy(data)) {
        Ok(request) => travels(&request),
        Err(refusal) => told(&refusal),
    }
}

fn travels(request: &Request) {
    match request.encode() {
        Ok(text) => assert_eq!(Request::decode(&text).as_ref(), Ok(request)),
        Err(refusal) => told(&refusal),
    }
}

/// Bytes as `--mount` and as `--container-mounts`. A mount written out again is the same mount.
pub fn mounts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let list = Mount::parse_list(&text, &cwd());
    let mounts = match (Mount::parse(&text, &cwd()), list) {
        (Ok(one), Ok(mut all)) => {
            all.push(one);
            all
        }
        (Ok(one), Err(_)) => vec![one],
        (Err(refusal), list) => {
            told(&refusal);
            list.map_err(|refusal| told(&refusal)).unwrap_or_default()
        }
    };
    for mount in mounts {
        let written = written(&mount);
        match Mount::parse(&written, &cwd()) {
            Ok(again) => assert_eq!(again, mount, "{written:?}"),
            Err(refusal) => panic!("{written:?} of {mount:?}: {refusal}"),
        }
        let json = serde_json::to_string(&mount).expect("a mount is JSON");
        assert_eq!(serde_json::from_str::<Mount>(&json).expect("our own JSON"), mount);
    }
}

/// The long form of a mount, each field quoted.
fn written(mount: &Mount) -> String {
    let mut fields = vec![format!("destination={}", mount.destination)];
    let (kind, more) = match &mount.what {
        What::Bind { source, recursive } => {
            ("bind", vec![format!("source={source}"), format!("recursive={recursive}")])
        }
        What::Squashfs { source } => ("squashfs", vec![format!("source={source}")]),
        What::Tmpfs(tmpfs) => {
            let mut more = vec![format!("mode={:o}", tmpfs.mode)];
            more.extend(tmpfs.size.map(|size| format!("size={}", size.bytes())));
            more.extend(tmpfs.huge.map(|huge| format!("huge={huge}")));
            ("tmpfs", more)
        }
        What::Scratch { size } => ("scratch", vec![format!("size={}", size.bytes())]),
        What::Nothing => ("umount", vec![]),
    };
    fields.push(format!("type={kind}"));
    fields.extend(more);
    for (on, name) in [(mount.readonly, "readonly"), (mount.noexec, "noexec"), (mount.optional, "optional")] {
        fields.extend(on.then(|| name.to_owned()));
    }
    let quoted = fields.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(",")
}

/// Bytes as an image's reference. Both of its printed forms mean the same image.
pub fn reference(data: &[u8]) {
    match Reference::parse(&String::from_utf8_lossy(data)) {
        Err(refusal) => told(&refusal),
        Ok(reference) => {
            for text in [reference.to_string(), reference.familiar()] {
                super::printable(&text);
                assert_eq!(Reference::parse(&text).as_ref(), Ok(&reference), "{text:?}");
            }
        }
    }
}

/// Bytes as grus.toml, alone and behind another one.
pub fn site(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let first = ("a.toml".to_owned(), "[pull]\npolicy = \"never\"\n".to_owned());
    let this = ("b.toml".to_owned(), text);
    for files in [vec![this.clone()], vec![first, this]] {
        match Site::parse(&files) {
            Ok(site) => drop(site.site_mounts()),
            Err(refusal) => told(&refusal),
        }
    }
}

/// Bytes as the profile of a host's stack. Written out, it is the same stack.
pub fn stack(data: &[u8]) {
    match Stack::parse("cluster", &String::from_utf8_lossy(data)) {
        Err(refusal) => told(&refusal),
        Ok(stack) => {
            let text = stack.to_toml();
            match Stack::parse("cluster", &text) {
                Ok(again) => assert_eq!(again, stack, "{text}"),
                Err(refusal) => panic!("{text}\n{refusal}"),
            }
        }
    }
}

/// Bytes as files that describe devices, a zero byte between two; the second is in a directory of its own. All that they
/// describe is chosen, as a user can and as Slurm has it; and their hooks are told.
pub fn cdi(data: &[u8]) {
    let path = |n: usize| AbsPath::parse(&format!("/etc/cdi/{n}.yaml")).expect("static");
    let files = data.splitn(3, |byte| *byte == 0).enumerate();
    let sources = files.map(|(n, text)| vec![Source { path: path(n), content: Ok(text.to_vec()) }]);
    let registry = Registry::of(sources.collect());
    registry.problems().iter().for_each(|problem| super::printable(problem));
    let names = |kind: &str| [format!("{kind}=all"), format!("{kind}=0")];
    let asked = registry.kinds().into_iter().flat_map(|kind| names(&kind.to_string()));
    let asked: Vec<Asked> = asked.map(|name| Asked::parse(&name).expect("a kind that was read")).collect();
    let of_slurm = [("SLURM_STEP_GPUS", "0,1"), ("CUDA_VISIBLE_DEVICES", "0,1")];
    let environment: BTreeMap<String, String> =
        of_slurm.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let grant = Grant::of(&environment);
    for (asked, grant, visible) in
        [(&asked[..], None, None), (&[], grant.as_ref(), None), (&[], grant.as_ref(), Some("0,GPU-1"))]
    {
        let gpus = Gpus::Auto;
        let question = Question {
            registry: &registry,
            gpus,
            said: false,
            asked,
            grant,
            environment: &environment,
            visible,
        };
        match choose(&question) {
            Ok(chosen) => chosen.warnings.iter().for_each(|warning| super::printable(warning)),
            Err(refusal) => told(&refusal),
        }
    }
    for (_, spec) in registry.files() {
        let all = std::iter::once(&spec.edits).chain(spec.devices.iter().map(|device| &device.edits));
        let effects = effects(all.flat_map(|edits| &edits.hooks));
        effects.unknown.iter().for_each(|hook| super::printable(hook));
    }
}

/// Bytes as a signature policy. Whatever it says, something is required of every image.
pub fn policy(data: &[u8]) {
    match Policy::parse(data, "policy.json") {
        Err(refusal) => told(&refusal),
        Ok(policy) => {
            for image in ["x.y/ns/app:1", "busybox", "a.example.org:5000/b"] {
                let image = Reference::parse(image).expect("static");
                assert!(!policy.of(&image).requirements.is_empty());
            }
        }
    }
}
