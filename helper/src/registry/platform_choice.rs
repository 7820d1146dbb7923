//! Owns which manifest of an index a platform takes (image-spec, image-index.md; containerd's platform
//! order): pure. It refuses to guess across architectures: a near miss is an error that lists what there is.

use grus_core::platform::Platform;

use super::error::{Kind, RegistryError};
use crate::oci::{Descriptor, Document, Index, RawPlatform, INDEX_TYPES};

/// Platforms to try for `wanted`, the best first.
///
/// arm: lower variants run on higher ones (v7, v6, v5). arm64: no variant means v8. amd64: micro-architecture
/// levels, the exact one first, then lower ones; no variant means v1.
fn acceptable(wanted: &Platform) -> Vec<Option<&str>> {
    let variant = wanted.variant.as_deref();
    let from = |levels: &[&'static str], top: &str| -> Vec<Option<&str>> {
        levels.iter().skip_while(|l| **l != top).map(|l| Some(*l)).collect()
    };
    let mut list = match (wanted.architecture.as_str(), variant) {
        ("arm", v) => from(&["v8", "v7", "v6", "v5"], v.unwrap_or("v7")),
        ("arm64", None | Some("v8")) => vec![Some("v8")],
        ("amd64", v) => from(&["v4", "v3", "v2", "v1"], v.unwrap_or("v1")),
        _ => vec![],
    };
    if list.is_empty() {
        list.extend(variant.map(Some));
    }
    // What states no variant comes after the exact one and before lower ones; for v1 and v8 it is the same.
    list.insert(list.len().min(1), None);
    list
}

/// The entry of `index` for `wanted`, or a nested index to look into. `on` names the image.
pub fn choose<'a>(index: &'a Index, wanted: &Platform, on: &str) -> Result<&'a Descriptor, RegistryError> {
    let known: Vec<(&Descriptor, Platform)> = index
        .manifests
        .iter()
        .filter(|d| !is_index(d))
        .filter_map(|d| Some((d, d.platform.as_ref().and_then(RawPlatform::known)?)))
        .collect();
    let fits = |p: &Platform, variant: Option<&str>| {
        p.os == wanted.os && p.architecture == wanted.architecture && p.variant.as_deref() == variant
    };
    for variant in acceptable(wanted) {
        if let Some((descriptor, _)) = known.iter().find(|(_, p)| fits(p, variant)) {
            return Ok(descriptor);
        }
    }
    // A nested index, or a single manifest that does not say its platform: look inside.
    let unnamed =
        |d: &&Descriptor| d.platform.as_ref().and_then(RawPlatform::known).is_none() && !is_attestation(d);
    let nested = index.manifests.iter().find(|d| is_index(d));
    let single = match index.manifests.iter().filter(|d| !is_attestation(d)).collect::<Vec<_>>().as_slice() {
        [only] if unnamed(only) => Some(*only),
        _ => None,
    };
    nested.or(single).ok_or_else(|| absent(&known, wanted, on))
}

fn is_index(descriptor: &Descriptor) -> bool {
    INDEX_TYPES.contains(&descriptor.media_type.as_str())
}

/// BuildKit stores attestations as manifests of platform `unknown/unknown`.
fn is_attestation(descriptor: &Descriptor) -> bool {
    let unknown =
        descriptor.platform.as_ref().is_some_and(|p| p.os == "unknown" || p.architecture == "unknown");
    unknown || descriptor.annotations.contains_key("vnd.docker.reference.type")
}

fn absent(known: &[(&Descriptor, Platform)], wanted: &Platform, on: &str) -> RegistryError {
    let mut names: Vec<String> = known.iter().map(|(_, p)| p.to_string()).collect();
    names.sort();
    names.dedup();
    let list = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    RegistryError::new(Kind::Refused, format!("{on} has no image for {wanted}"))
        .hint(format!("platforms it has: {list}; choose one with --platform"))
}

/// Refuses the image of a lone manifest whose configuration says another platform than `wanted`. Returns
/// the platform it says; `wanted` where it says none.
pub fn check(said: &RawPlatform, wanted: &Platform, on: &str) -> Result<Platform, RegistryError> {
    let Some(platform) = said.known() else { return Ok(wanted.clone()) };
    must_fit(&platform, wanted, on).map(|()| platform)
}

/// Refuses an image for `platform` where that is not what `wanted` takes.
pub fn must_fit(platform: &Platform, wanted: &Platform, on: &str) -> Result<(), RegistryError> {
    let same = platform.os == wanted.os
        && platform.architecture == wanted.architecture
        && acceptable(wanted).contains(&platform.variant.as_deref());
    match same {
        true => Ok(()),
        false => Err(RegistryError::new(Kind::Refused, format!("{on} is for {platform}, not for {wanted}"))
            .hint(format!("to fetch it all the same: --platform {platform}"))),
    }
}

/// Whether a document of an index may be descended into: one level of nesting is enough for all builders.
pub fn nested(document: Document, depth: usize, on: &str) -> Result<Document, RegistryError> {
    match document {
        Document::Index(_) if depth > 1 => Err(RegistryError::new(
            Kind::Refused,
            format!("{on} is an index inside an index inside an index"),
        )),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(entries: &[&str]) -> Index {
        let manifests: Vec<String> = entries
            .iter()
            .enumerate()
            .map(|(n, entry)| {
                let mut parts = entry.split('/');
                let (os, arch) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
                let variant = parts.next().map(|v| format!(",\"variant\":\"{v}\"")).unwrap_or_default();
                let platform = match *entry {
                    "" | "index" => String::new(),
                    _ => format!(",\"platform\":{{\"os\":\"{os}\",\"architecture\":\"{arch}\"{variant}}}"),
                };
                let kind = if *entry == "index" {
                    INDEX_TYPES[0]
                } else {
                    "application/vnd.oci.image.manifest.v1+json"
                };
                format!(
                    "{{\"mediaType\":\"{kind}\",\"size\":{n},\"digest\":\"sha256:{}\"{platform}}}",
                    "0".repeat(64)
                )
            })
            .collect();
        let text = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", manifests.join(","));
        match Document::parse(text.as_bytes(), "test").expect("well formed") {
            Document::Index(index) => index,
            Document::Manifest(_) => unreachable!(),
        }
    }

    #[test]
    fn the_best_entry_is_taken() {
        for (wanted, entries, expected) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64"][..], Some(1)),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some(1)),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v3"], Some(1)),
            ("linux/amd64/v3", &["linux/amd64/v2", "linux/amd64/v1"], Some(0)),
            ("linux/amd64/v3", &["linux/amd64/v4", "linux/amd64"], Some(1)),
            ("linux/amd64", &["linux/amd64/v2"], None),
            ("linux/arm64", &["linux/arm64/v8"], Some(0)),
            ("linux/arm64/v8", &["linux/arm64"], Some(0)),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7"], None),
            ("linux/amd64", &["windows/amd64", "unknown/unknown"], None),
            ("linux/amd64", &["unknown/unknown", "linux/amd64"], Some(1)),
            ("linux/amd64", &["unknown/unknown", ""], Some(1)),
            ("linux/amd64", &["linux/arm64", "index"], Some(1)),
            ("linux/amd64", &["", ""], None),
            ("linux/amd64", &[], None),
        ] {
            let index = index(entries);
            let wanted = Platform::parse(wanted).expect("static");
            let chosen = choose(&index, &wanted, "x").map(|d| d.size as usize).ok();
            assert_eq!(chosen, expected, "{wanted} of {entries:?}");
        }
    }

    #[test]
    fn what_there_is_is_listed() {
        let wanted = Platform::parse("linux/riscv64").expect("static");
        let index = index(&["linux/arm64", "linux/amd64", "unknown/unknown"]);
        let error = choose(&index, &wanted, "app:1").expect_err("not there");
        assert_eq!(error.what, "app:1 has no image for linux/riscv64");
        assert_eq!(
            error.hint.as_deref(),
            Some("platforms it has: linux/amd64, linux/arm64; choose one with --platform")
        );
    }

    #[test]
    fn a_lone_manifest_must_be_for_the_platform() {
        let raw = |os: &str, architecture: &str| RawPlatform {
            os: os.into(),
            architecture: architecture.into(),
            variant: None,
        };
        let wanted = Platform::parse("linux/amd64").expect("static");
        assert_eq!(check(&raw("linux", "amd64"), &wanted, "x"), Ok(wanted.clone()));
        assert_eq!(check(&raw("", ""), &wanted, "x"), Ok(wanted.clone()));
        let error = check(&raw("linux", "arm64"), &wanted, "x").expect_err("another");
        assert_eq!(error.what, "x is for linux/arm64, not for linux/amd64");
    }
}
