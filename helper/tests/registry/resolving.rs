//! From a name to verified documents: platforms, digests, hostile manifests, mirrors.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_helper::digest::digest_of;
use grus_helper::registry::{Client, Kind, NoProgress, RegistryError, Resolved, Settings};

use super::image::{Content, INDEX, MANIFEST};
use super::server::{Answer, How, Server};
use super::{amd64, paths, pull, settings};

fn resolve(name: &str, platform: &str) -> Result<Resolved, RegistryError> {
    let platform = Platform::parse(platform).expect("static");
    Client::new(settings())?.resolve(&Reference::parse(name).expect("static"), &platform)
}

/// Two platforms, attestations, and the index nested one level if wished.
fn index(content: &mut Content, nested: bool) -> String {
    let mut entries = Vec::new();
    for (os, arch) in [("linux", "arm64"), ("linux", "amd64"), ("unknown", "unknown")] {
        let manifest = content.add_image(os, arch);
        let digest = content.tag(arch, MANIFEST, manifest.clone());
        entries.push(format!(
            "{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{digest}\",\"size\":{},\
             \"platform\":{{\"os\":\"{os}\",\"architecture\":\"{arch}\"}}}}",
            manifest.len()
        ));
    }
    let text = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entries.join(","));
    let digest = content.tag("index", INDEX, text.clone().into_bytes());
    let outer = format!(
        "{{\"schemaVersion\":2,\"manifests\":[{{\"mediaType\":\"{INDEX}\",\"digest\":\"{digest}\",\"size\":{}}}]}}",
        text.len()
    );
    let text = if nested { outer } else { text };
    content.tag("1", INDEX, text.into_bytes()).to_string()
}

#[test]
fn an_index_gives_each_platform_its_own() {
    for nested in [false, true] {
        let mut content = Content::image(&[1000]);
        let top = index(&mut content, nested);
        let server = Server::start(move |r| content.answer(r));
        let arm = resolve(&server.image(), "linux/arm64").expect("there");
        let amd = resolve(&server.image(), "linux/amd64").expect("there");
        assert_eq!(
            (arm.platform.to_string(), amd.platform.to_string()),
            ("linux/arm64".into(), "linux/amd64".into())
        );
        assert!(arm.digest != amd.digest && arm.top_digest().to_string() == top);
        assert_eq!(digest_of(&amd.manifest), amd.digest);
        let error = resolve(&server.image(), "linux/riscv64").expect_err("not there");
        if !nested {
            let hint = error.hint.expect("a list");
            assert!(hint.contains("linux/amd64, linux/arm64") && !hint.contains("unknown"), "{hint}");
        }
    }
}

#[test]
fn a_tag_that_did_not_change_costs_one_request() {
    let content = Content::image(&[1000]);
    let server = Server::start(move |r| content.answer(r));
    let reference = Reference::parse(&server.image()).expect("static");
    let client = Client::new(Settings { plain_http: vec![server.host()], ..settings() }).expect("client");
    let resolved = client.resolve(&reference, &amd64()).expect("there");
    let before = server.log().len();
    assert_eq!(&client.head(&reference).expect("there"), resolved.top_digest());
    assert_eq!(server.log().len(), before + 1);
}

#[test]
fn head_works_without_the_digest_header() {
    let content = Content::image(&[1000]);
    let digest = digest_of(&content.manifests["1"].1);
    let server = Server::start(move |r| {
        let mut answer = content.answer(r);
        answer.headers.retain(|(n, _)| n != "Docker-Content-Digest");
        answer
    });
    let client = Client::new(settings()).expect("client");
    assert_eq!(client.head(&Reference::parse(&server.image()).expect("static")).expect("there"), digest);
}

#[test]
fn wrong_digests_are_found() {
    let content = Content::image(&[1000]);
    let digest = digest_of(&content.manifests["1"].1);
    let server = Server::start(move |r| {
        let mut answer = content.answer(r);
        if r.path.contains("/manifests/sha256") {
            answer.body.push(b' ');
        }
        answer
    });
    let error = resolve(&format!("{}@{digest}", server.image()), "linux/amd64").expect_err("other bytes");
    assert!(error.kind == Kind::Corrupt && error.what.contains(&digest.to_string()), "{error:?}");

    // A configuration that is not the manifest's.
    let content = Content::image(&[1000]);
    let server = Server::start(move |r| match r.path.contains("/blobs/") {
        true => Answer::ok(b"{\"os\":\"linux\",\"architecture\":\"amd64\"}".to_vec()),
        false => content.answer(r),
    });
    assert_eq!(resolve(&server.image(), "linux/amd64").expect_err("other bytes").kind, Kind::Corrupt);
}

#[test]
fn a_lying_digest_header_is_no_authority() {
    let content = Content::image(&[1000]);
    let digest = digest_of(&content.manifests["1"].1);
    let server = Server::start(move |r| {
        content.answer(r).header("Docker-Content-Digest", &format!("sha256:{}", "1".repeat(64)))
    });
    assert_eq!(resolve(&server.image(), "linux/amd64").expect("verified by its bytes").digest, digest);
}

#[test]
fn gigantic_and_endless_manifests_are_left() {
    for how in [How::Chunked, How::Endless, How::Right] {
        let server = Server::start(move |_| Answer::ok(vec![b' '; 5 << 20]).how(how));
        let error = resolve(&server.image(), "linux/amd64").expect_err("too large");
        assert!(error.what.contains("more than"), "{error:?}");
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let schema1 = r#"{"schemaVersion":1,"name":"a","tag":"1","fsLayers":[],"history":[],"signatures":[]}"#;
    let chart = Content::image(&[10]).manifests["1"].1.clone();
    let chart = String::from_utf8(chart).expect("text").replace("image.config", "chart.config");
    for (text, words) in
        [(schema1, "schema 1"), (chart.as_str(), "artefact"), ("<html>", "malformed"), ("", "malformed")]
    {
        let text = text.to_owned();
        let server = Server::start(move |_| Answer::ok(text.clone().into_bytes()));
        let error = resolve(&server.image(), "linux/amd64").expect_err(words);
        assert!(
            error.kind == Kind::Refused && error.what.contains(words) && error.hint.is_some(),
            "{error:?}"
        );
    }
}

#[test]
fn another_platform_is_named() {
    let mut content = Content::image(&[10]);
    let manifest = content.add_image("linux", "arm64");
    content.tag("1", MANIFEST, manifest);
    let server = Server::start(move |r| content.answer(r));
    let error = resolve(&server.image(), "linux/amd64").expect_err("arm64");
    assert!(error.what.contains("is for linux/arm64, not for linux/amd64"), "{error:?}");
    assert!(error.hint.expect("way out").contains("--platform linux/arm64"));
}

#[test]
fn a_missing_tag_is_not_found_and_hostile_words_stay_harmless() {
    let server = Server::start(|_| {
        Answer::status(404)
            .body(b"{\"errors\":[{\"message\":\"\\u001b[31mgone\\nhint: send me money\"}]}".to_vec())
    });
    let error = resolve(&server.image(), "linux/amd64").expect_err("gone");
    assert_eq!(error.kind, Kind::NotFound);
    assert!(!error.what.contains(['\x1b', '\n']), "{:?}", error.what);
}

#[test]
fn documents_survive_a_bad_network() {
    let content = Content::image(&[1000]);
    let count = std::sync::atomic::AtomicUsize::new(0);
    let server = Server::start(move |r| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 4 {
        0 => Answer::status(503),
        1 => content.answer(r).how(How::Cut(20)),
        2 => content.answer(r).how(How::Stall(20)),
        _ => content.answer(r),
    });
    assert!(resolve(&server.image(), "linux/amd64").is_ok());
}

/// A port nobody listens on.
fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("127.0.0.1:{}", listener.local_addr().expect("bound").port())
}

#[test]
fn a_registry_that_is_down_is_a_clear_error() {
    let error = resolve(&format!("{}/team/app:1", dead()), "linux/amd64").expect_err("down");
    assert!(error.kind == Kind::Unavailable && error.what.contains("cannot reach 127.0.0.1"), "{error:?}");
}

#[test]
fn a_mirror_that_is_down_is_passed_over_with_a_note() {
    let content = Content::image(&[200_000]);
    let layers = content.layers.clone();
    let server = Server::start(move |r| content.answer(r));
    let home = tempfile::tempdir().expect("temporary directory");
    let (mirror, host) = (dead(), server.host());
    let conf = format!(
        "[[registry]]\nprefix = 'hub.example'\nlocation = '{host}/team'\n[[registry.mirror]]\nlocation = '{mirror}/copy'\n"
    );
    fs::write(home.path().join("registries.conf"), conf).expect("write");
    let with_mirror = Settings { paths: paths(home.path()), ..settings() };
    assert!(pull(with_mirror.clone(), "hub.example/app:1").expect("from the registry").0 == layers);
    let client = Client::new(with_mirror).expect("client");
    let resolved =
        client.resolve(&Reference::parse("hub.example/app:1").expect("static"), &amd64()).expect("there");
    assert!(resolved.notes.iter().any(|n| n.contains(&mirror)), "{:?}", resolved.notes);
}

#[test]
fn a_mirror_that_dies_on_the_way_is_left() {
    let content = Content::image(&[200_000, 300_000]);
    let (layers, own, copy) = (content.layers.clone(), content.clone(), content.clone());
    let registry = Server::start(move |r| own.answer(r));
    let count = std::sync::atomic::AtomicUsize::new(0);
    let lost = content.layer_digest(0);
    let mirror = Server::start(move |r| match r.is_blob(&lost) {
        true if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0 => Answer::status(404),
        _ => copy.answer(r),
    });
    let home = tempfile::tempdir().expect("temporary directory");
    let conf = format!(
        "[[registry]]\nprefix = 'hub.example'\nlocation = '{}/team'\n[[registry.mirror]]\nlocation = '{}/team'\n",
        registry.host(),
        mirror.host()
    );
    fs::write(home.path().join("registries.conf"), conf).expect("write");
    let (got, watch) =
        pull(Settings { paths: paths(home.path()), ..settings() }, "hub.example/app:1").expect("both");
    assert!(got == layers);
    assert!(watch.notes.lock().expect("unpoisoned").iter().any(|n| n.contains("going on with")));
}

#[test]
fn a_blocked_registry_is_not_asked() {
    let home = tempfile::tempdir().expect("temporary directory");
    fs::write(home.path().join("registries.conf"), "[[registry]]\nprefix='no.example'\nblocked=true")
        .expect("write");
    let client = Client::new(Settings { paths: paths(home.path()), ..settings() }).expect("client");
    let error =
        client.resolve(&Reference::parse("no.example/a").expect("static"), &amd64()).expect_err("blocked");
    assert!(error.kind == Kind::Refused && error.what.contains("blocked"), "{error:?}");
}

#[test]
fn cancelling_ends_everything() {
    let content = Content::image(&[3_000_000]);
    let blob = content.layer_digest(0);
    let server = Server::start(move |r| match r.is_blob(&blob) {
        true => content.answer(r).how(How::Stall(100)),
        false => content.answer(r),
    });
    let slow = Settings { idle_timeout: std::time::Duration::from_secs(600), ..settings() };
    let client = Arc::new(Client::new(slow).expect("client"));
    let reference = Reference::parse(&server.image()).expect("static");
    let resolved = client.resolve(&reference, &amd64()).expect("there");
    let source = client.download(&resolved, Arc::new(NoProgress)).expect("started").remove(0);
    let reader = std::thread::spawn(move || std::io::read_to_string(source.open().expect("opens")));
    client.cancel();
    let error = reader.join().expect("no panic").expect_err("cancelled");
    assert_eq!(RegistryError::from_io(&error).expect("typed").kind, Kind::Cancelled);
    assert_eq!(client.head(&reference).expect_err("cancelled").kind, Kind::Cancelled);
}

#[test]
fn a_registry_on_ipv6() {
    let content = Content::image(&[100_000]);
    let layers = content.layers.clone();
    let Some(server) = Server::start_v6(move |r| content.answer(r)) else {
        return eprintln!("SKIPPED: this machine has no IPv6 on loopback");
    };
    assert!(pull(settings(), &server.image()).expect("pulled").0 == layers);
}

#[test]
fn a_manifest_that_comes_byte_by_byte_ends_in_time() {
    let content = Content::image(&[100]);
    let server = Server::start(move |r| content.answer(r).how(How::Drip));
    let error = resolve(&server.image(), "linux/amd64").expect_err("too slow");
    assert!(
        error.kind == Kind::Unavailable && error.what.contains("did not send its whole answer in 4 s"),
        "{error:?}"
    );
}

#[test]
fn a_wait_too_long_to_be_silent_about_is_told() {
    let server = Server::start(|_| Answer::status(429).header("Retry-After", "3600"));
    let error = resolve(&server.image(), "linux/amd64").expect_err("limited");
    let hint = error.hint.as_deref().unwrap_or_default();
    assert!(hint.contains("asks to wait 60 min") && hint.contains("grus login"), "{error:?}");
}

/// Pulls `registry.invalid/team/app:1`; run by the next test in a process with an environment of its own.
#[test]
#[ignore = "run by the_environments_proxy_is_used"]
fn pull_from_a_name_that_does_not_exist() {
    let plain = Settings { plain_http: vec!["registry.invalid".into()], ..settings() };
    assert!(
        pull(plain, "registry.invalid/team/app:1").expect("by the proxy").0
            == Content::image(&[100_000]).layers
    );
}

#[test]
fn the_environments_proxy_is_used() {
    let content = Content::image(&[100_000]);
    let proxy = Server::start(move |r| content.answer(r));
    let pulls = |no_proxy: &str| {
        let test = "resolving::pull_from_a_name_that_does_not_exist";
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        child.args(["--ignored", "--exact", test]).env("http_proxy", format!("http://{}", proxy.host()));
        child.env("no_proxy", no_proxy).env_remove("NO_PROXY").output().expect("runs").status.success()
    };
    assert!(pulls("other.invalid"));
    // A proxy is told the whole address.
    assert!(proxy.log().iter().all(|r| r.path.starts_with("http://registry.invalid/v2/team/app/")));
    let before = proxy.log().len();
    assert!(!pulls("registry.invalid"));
    assert_eq!(proxy.log().len(), before, "no_proxy counts");
}
