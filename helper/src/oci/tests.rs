use super::*;

const D: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn index(entries: &[&str]) -> Index {
    let manifests: Vec<String> =
        entries.iter().map(|e| format!(r#"{{"digest":"{D}","size":1{e}}}"#)).collect();
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(","));
    match Document::parse(text.as_bytes(), "index").expect("an index") {
        Document::Index(index) => index,
        other => panic!("{other:?}"),
    }
}

fn platform(os: &str, arch: &str, variant: &str) -> String {
    format!(r#","platform":{{"os":"{os}","architecture":"{arch}","variant":"{variant}"}}"#)
}

#[test]
fn documents_are_told_apart_by_their_members() {
    let manifest =
        format!(r#"{{"config":{{"digest":"{D}","size":1}},"layers":[{{"digest":"{D}","size":2}}]}}"#);
    assert!(
        matches!(Document::parse(manifest.as_bytes(), "m"), Ok(Document::Manifest(m)) if m.layers.len() == 1)
    );
    for bad in ["{}", "[]", "x", r#"{"schemaVersion":1,"fsLayers":[]}"#, r#"{"layers":[],"manifests":[]}"#] {
        let e = Document::parse(bad.as_bytes(), "the\x1bthing").expect_err(bad);
        assert!(!e.what.contains('\x1b') && e.hint.is_some(), "{e}");
    }
}

#[test]
fn the_platform_decides_and_what_there_is_is_listed() {
    let all = index(&[
        &platform("unknown", "unknown", ""),
        &platform("linux", "arm", "v6"),
        &platform("linux", "arm", "v7"),
        &platform("linux", "amd64", ""),
    ]);
    let at = |p: &str| all.choose(&Platform::parse(p).expect(p), "x").map(|d| d.platform.clone());
    assert_eq!(at("linux/arm/v7").expect("v7").and_then(|p| p.variant).as_deref(), Some("v7"));
    assert_eq!(at("linux/arm").expect("any arm").and_then(|p| p.variant).as_deref(), Some("v6"));
    let e = at("linux/s390x").expect_err("not there");
    assert_eq!(
        e.hint.as_deref(),
        Some("platforms it has: linux/amd64, linux/arm/v6, linux/arm/v7; choose one with --platform")
    );
    let bare = index(&[""]);
    assert!(bare.choose(&Platform::here(), "x").is_ok(), "one manifest without a platform is taken");
}

#[test]
fn null_lists_and_unknown_members_are_borne() {
    let config = Config::parse(
        br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Labels":null,"Healthcheck":{}},
            "rootfs":{"type":"layers","diff_ids":null},"history":[{"x":1}]}"#,
        "c",
    )
    .expect("Docker writes such");
    assert_eq!(config.config.cmd, ["sh"]);
    assert_eq!(config.platform.known(), Platform::parse("linux/amd64").ok());
    assert!(Config::parse(br#"{"config":null,"rootfs":null}"#, "c").is_ok());
}

#[test]
fn an_artefact_is_not_an_image() {
    let text = format!(
        r#"{{"config":{{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"{D}","size":1}},
            "layers":[{{"digest":"{D}","size":2}}]}}"#
    );
    let e = Document::parse(text.as_bytes(), "chart").expect_err("a Helm chart");
    assert!(e.what.contains("not a container image"), "{e}");
}
