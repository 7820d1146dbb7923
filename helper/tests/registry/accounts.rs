//! Accounts: every way to have one, every way to be refused, and to whom they are never shown.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use grus_helper::registry::{auth_store, Client, Kind, Login, RegistryError, Secret, Settings};

use super::image::Content;
use super::server::{Answer, How, Request, Server};
use super::{paths, pull, settings};

const PASSWORD: &str = "right horse";

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn login(server: &Server, password: &str) -> Settings {
    let login = Login { registry: server.host(), username: "u".into(), password: Secret::new(password) };
    Settings { login: Some(login), ..settings() }
}

/// A registry that wants the account `u` by Basic.
fn basic_registry() -> (Server, Content) {
    let content = Content::image(&[100_000, 200_000]);
    let mine = content.clone();
    let server = Server::start(move |r| match r.header("authorization") {
        Some(given) if given == basic("u", PASSWORD) => match r.path.as_str() {
            "/v2/" => Answer::ok(b"{}".to_vec()),
            _ => mine.answer(r),
        },
        _ => Answer::status(401).header("WWW-Authenticate", "Basic realm=\"private\""),
    });
    (server, content)
}

#[track_caller]
fn refused(settings: Settings, name: &str) -> RegistryError {
    let error = pull(settings, name).map(drop).expect_err("refused");
    assert!(
        error.kind == Kind::Auth && error.hint.as_ref().is_some_and(|h| h.contains("grus login")),
        "{error:?}"
    );
    error
}

#[test]
fn basic_by_option_file_and_helper() {
    let (server, content) = basic_registry();
    let home = tempfile::tempdir().expect("temporary directory");
    assert!(pull(login(&server, PASSWORD), &server.image()).expect("by option").0 == content.layers);
    let error = refused(login(&server, "wrong"), &server.image());
    assert!(!format!("{error:?}").contains("wrong"));
    let stored = Settings { paths: paths(home.path()), ..settings() };
    refused(stored.clone(), &server.image());

    auth_store::store(&stored.paths, &server.host(), "u", &Secret::new(PASSWORD)).expect("stored");
    assert!(pull(stored.clone(), &server.image()).expect("by file").0 == content.layers);
    auth_store::erase(&stored.paths, &server.host()).expect("erased");
    refused(stored.clone(), &server.image());

    let bin = home.path().join("bin");
    fs::create_dir(&bin).expect("dir");
    let helper = bin.join("docker-credential-test");
    let script = format!("#!/bin/sh\necho '{{\"Username\":\"u\",\"Secret\":\"{PASSWORD}\"}}'\n");
    fs::write(&helper, script).expect("write");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::write(home.path().join("config.json"), "{\"credsStore\":\"test\"}").expect("write");
    assert!(pull(stored, &server.image()).expect("by helper").0 == content.layers);
}

#[test]
fn a_helper_of_dockers_that_is_not_here_matters_to_private_images_only() {
    let home = tempfile::tempdir().expect("temporary directory");
    fs::write(home.path().join("config.json"), r#"{"credsStore":"desktop"}"#).expect("write");
    let stored = || Settings { paths: paths(home.path()), ..settings() };
    let registry = bearer_registry(10_000, true, |_, a| a);
    assert!(pull(stored(), &registry.server.image()).expect("public").0 == registry.content.layers);
    let names_it = |error: RegistryError| {
        let hint = error.hint.as_deref().unwrap_or_default();
        assert!(hint.contains("config.json") && hint.contains("'desktop', which is not installed"), "{hint}");
    };
    names_it(refused(stored(), &basic_registry().0.image()));
    names_it(refused(stored(), &bearer_registry(10_000, false, |_, a| a).server.image()));
    // A token for everybody, with which the image is not to be had.
    let denied = bearer_registry(10_000, true, |_, _| Answer::status(403));
    names_it(refused(stored(), &denied.server.image()));
}

#[test]
fn a_helper_of_dockers_that_fails_matters_to_private_images_only() {
    let home = tempfile::tempdir().expect("temporary directory");
    let bin = home.path().join("bin");
    fs::create_dir(&bin).expect("dir");
    let helper = bin.join("docker-credential-secretservice");
    fs::write(&helper, "#!/bin/sh\necho Cannot autolaunch D-Bus\nexit 1\n").expect("write");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("chmod");
    let text = r#"{"credsStore":"secretservice"}"#;
    fs::write(home.path().join("config.json"), text).expect("write");
    let stored = || Settings { paths: paths(home.path()), ..settings() };
    let registry = bearer_registry(10_000, true, |_, a| a);
    assert!(pull(stored(), &registry.server.image()).expect("public").0 == registry.content.layers);
    let names_it = |error: RegistryError| {
        let hint = error.hint.as_deref().unwrap_or_default();
        assert!(hint.contains("config.json") && hint.contains("'secretservice'"), "{hint}");
        assert!(hint.contains("Cannot autolaunch D-Bus"), "{hint}");
    };
    names_it(refused(stored(), &basic_registry().0.image()));
    names_it(refused(stored(), &bearer_registry(10_000, false, |_, a| a).server.image()));
    // Some registries say of what is private that it is not there.
    let hidden = bearer_registry(10_000, true, |_, _| Answer::status(404));
    let error = pull(stored(), &hidden.server.image()).map(drop).expect_err("hidden");
    assert_eq!(error.kind, Kind::NotFound);
    names_it(error);
    // Whoever set one up for Podman wants it used.
    fs::write(home.path().join("auth.json"), text).expect("write");
    let error = pull(stored(), &registry.server.image()).map(drop).expect_err("Podman's");
    assert!(error.kind == Kind::Site && error.what.contains("D-Bus"), "{error:?}");
}

#[test]
fn a_login_is_checked() {
    let (server, _) = basic_registry();
    let check = |password| Client::new(login(&server, password)).expect("client").check_login(&server.host());
    assert_eq!(check(PASSWORD), Ok(()));
    assert_eq!(check("wrong").expect_err("wrong").kind, Kind::Auth);
}

/// Query and body of a token request, and its Authorization.
type Asked = (String, Option<String>);

/// A registry with a token server of its own, whose tokens are good for `uses` requests.
struct Bearer {
    server: Server,
    content: Content,
    asked: Arc<Mutex<Vec<Asked>>>,
}

fn bearer_registry(
    uses: usize,
    anonymous: bool,
    fault: impl Fn(usize, Answer) -> Answer + Send + Sync + 'static,
) -> Bearer {
    let content = Content::image(&[100_000, 700_000]);
    let (mine, asked) = (content.clone(), Arc::new(Mutex::new(Vec::new())));
    let (notes, issued, left, count) =
        (asked.clone(), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let server = Server::start(move |r| {
        if r.path == "/token" {
            let given = r.header("authorization").map(str::to_owned);
            notes.lock().expect("unpoisoned").push((format!("{}{}", r.query, r.body), given.clone()));
            let known = given == Some(basic("u", PASSWORD)) || r.body.contains("refresh_token=refresh%2B");
            if !(known || anonymous && given.is_none()) {
                return Answer::status(401)
                    .body(b"{\"details\":\"incorrect username or password\"}".to_vec());
            }
            let n = issued.fetch_add(1, Ordering::SeqCst) + 1;
            left.store(uses, Ordering::SeqCst);
            return Answer::ok(
                format!("{{\"access_token\":\"secret-{n}\",\"expires_in\":300}}").into_bytes(),
            );
        }
        let good = format!("Bearer secret-{}", issued.load(Ordering::SeqCst));
        let fresh = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        let direct = r.header("authorization") == Some("Bearer registry-token");
        match direct || (r.header("authorization") == Some(&good) && fresh) {
            true => fault(count.fetch_add(1, Ordering::SeqCst), mine.answer(r)),
            false => {
                let realm = format!("http://{}/token", r.header("host").unwrap_or_default());
                let scope = "repository:team/app:pull";
                let challenge = format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"{scope}\"");
                Answer::status(401).header("WWW-Authenticate", &challenge)
            }
        }
    });
    Bearer { server, content, asked }
}

impl Bearer {
    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("unpoisoned").clone()
    }
}

#[test]
fn one_token_serves_all_connections() {
    let registry = bearer_registry(10_000, true, |_, a| a);
    assert!(pull(settings(), &registry.server.image()).expect("anonymous").0 == registry.content.layers);
    let asked = registry.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1, None);
    assert!(
        asked[0].0.contains("service=test") && asked[0].0.contains("scope=repository%3Ateam%2Fapp%3Apull"),
        "{asked:?}"
    );
}

#[test]
fn a_token_that_expires_in_the_middle_is_renewed() {
    // Good for 8 requests, and every fifth body breaks off.
    let fault = |n, answer: Answer| {
        if n % 5 == 4 {
            let at = answer.body.len() / 2;
            answer.how(How::Cut(at))
        } else {
            answer
        }
    };
    let registry = bearer_registry(8, true, fault);
    assert!(pull(settings(), &registry.server.image()).expect("renewed").0 == registry.content.layers);
    assert!(registry.asked().len() > 2);
}

#[test]
fn accounts_reach_the_token_server_and_only_it() {
    let registry = bearer_registry(10_000, false, |_, a| a);
    let image = registry.server.image();
    assert!(
        pull(login(&registry.server, PASSWORD), &image).expect("by password").0 == registry.content.layers
    );
    assert_eq!(registry.asked()[0].1, Some(basic("u", PASSWORD)));
    let sent =
        |r: &Request| r.path != "/token" && r.header("authorization").is_some_and(|a| a.starts_with("Basic"));
    assert!(!registry.server.log().iter().any(sent), "the password went to the registry");
    let error = refused(login(&registry.server, "wrong"), &image);
    assert!(error.what.contains("incorrect username"), "{error:?}");
    refused(settings(), &image);
}

#[test]
fn identity_and_registry_tokens_are_used() {
    let registry = bearer_registry(10_000, false, |_, a| a);
    let home = tempfile::tempdir().expect("temporary directory");
    let stored = Settings { paths: paths(home.path()), ..settings() };
    for entry in ["\"identitytoken\":\"refresh+\"", "\"registrytoken\":\"registry-token\""] {
        let text = format!("{{\"auths\":{{\"{}\":{{{entry}}}}}}}", registry.server.host());
        fs::write(home.path().join("auth.json"), text).expect("write");
        assert!(pull(stored.clone(), &registry.server.image()).expect(entry).0 == registry.content.layers);
    }
    let asked = registry.asked();
    assert_eq!(asked.len(), 1, "the registry's token needs no token server");
    assert!(asked[0].0.contains("grant_type=refresh_token") && asked[0].1.is_none(), "{asked:?}");
}

#[test]
fn a_token_server_elsewhere_must_speak_https() {
    let server = Server::start(|_| {
        Answer::status(401).header("WWW-Authenticate", "Bearer realm=\"http://192.0.2.1/token?key=hidden\"")
    });
    let error = pull(login(&server, PASSWORD), &server.image()).map(drop).expect_err("plain HTTP");
    assert!(error.kind == Kind::Refused && error.what.contains("not HTTPS"), "{error:?}");
    assert!(!error.what.contains("hidden"), "{error:?}");
}

#[test]
fn challenges_nobody_can_answer_are_clear() {
    for challenge in ["Negotiate", "Bearer service=\"x\"", ""] {
        let challenge = challenge.to_owned();
        let server = Server::start(move |_| Answer::status(401).header("WWW-Authenticate", &challenge));
        let error = pull(settings(), &server.image()).map(drop).expect_err("no way in");
        assert_eq!(error.kind, Kind::Auth, "{error:?}");
    }
    for body in ["", "{}", "{\"token\":\"\"}", "{\"token\":\"a\\nb\"}", "<html>"] {
        let server = Server::start(move |r| match r.path.as_str() {
            "/token" => Answer::ok(body.as_bytes().to_vec()),
            _ => {
                let realm = format!("Bearer realm=\"http://{}/token\"", r.header("host").unwrap_or_default());
                Answer::status(401).header("WWW-Authenticate", &realm)
            }
        });
        let error = pull(settings(), &server.image()).map(drop).expect_err("no token");
        assert_eq!(error.kind, Kind::Refused, "{body}: {error:?}");
    }
}

/// A registry with Basic that keeps its blobs on another server, at addresses that expire after `uses`.
fn redirecting(uses: usize) -> (Server, Server, Content) {
    let content = Content::image(&[100_000, 700_000]);
    let (mine, elsewhere) = (content.clone(), content.clone());
    let used: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let store = Server::start(move |r| {
        let mut used = used.lock().expect("unpoisoned");
        let count = used.entry(r.query.clone()).or_default();
        *count += 1;
        if *count > uses {
            Answer::status(403)
        } else {
            elsewhere.answer(r)
        }
    });
    let (host, given) = (store.host(), AtomicUsize::new(0));
    let server = Server::start(move |r| {
        if r.header("authorization") != Some(&basic("u", PASSWORD)) {
            return Answer::status(401).header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if !r.path.contains("/blobs/") {
            return mine.answer(r);
        }
        let n = given.fetch_add(1, Ordering::SeqCst);
        Answer::status(307).header("Location", &format!("http://{host}{}?signature=hidden-{n}", r.path))
    });
    (server, store, content)
}

#[test]
fn credentials_never_follow_a_redirect_to_another_host() {
    let (server, store, content) = redirecting(1_000_000);
    assert!(pull(login(&server, PASSWORD), &server.image()).expect("redirected").0 == content.layers);
    assert!(store.log().len() > 3);
    for request in store.log() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
        assert_eq!(request.header("cookie"), None);
    }
    // The address is kept for the layer's other ranges.
    let asked = server.log().iter().filter(|r| r.path.contains("/blobs/")).count();
    assert!(asked < store.log().len(), "{asked}");
}

#[test]
fn an_address_that_expires_is_asked_for_again() {
    let (server, _store, content) = redirecting(3);
    assert!(pull(login(&server, PASSWORD), &server.image()).expect("asked again").0 == content.layers);
}

#[test]
fn redirects_within_the_registry_keep_the_account() {
    let (registry, content) = basic_registry();
    let host = registry.host();
    let front_content = content.clone();
    // One origin: the path changes only.
    let server = Server::start(move |r| {
        if r.header("authorization") != Some(&basic("u", PASSWORD)) {
            return Answer::status(401).header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        match r.path.strip_prefix("/moved") {
            Some(path) => front_content.answer(&Request { path: path.to_owned(), ..r.clone() }),
            None => Answer::status(302).header("Location", &format!("/moved{}", r.path)),
        }
    });
    assert!(server.host() != host);
    assert!(pull(login(&server, PASSWORD), &server.image()).expect("same origin").0 == content.layers);
}

#[test]
fn redirects_that_lead_nowhere_good_are_refused() {
    for (location, words) in [
        ("http://192.0.2.1/x?signature=hidden", "plain HTTP"),
        ("file:///etc/passwd", "no usable address"),
        ("http://", "no usable address"),
        ("http://u:hidden@127.0.0.1:1/", "password"),
        ("/v2/team/app/manifests/1", "circles"),
    ] {
        let server = Server::start(move |_| Answer::status(307).header("Location", location));
        let error = pull(settings(), &server.image()).map(drop).expect_err(location);
        assert!(error.kind == Kind::Refused && error.what.contains(words), "{error:?}");
        assert!(!error.what.contains("hidden"), "{error:?}");
    }
}

#[test]
fn a_failing_redirect_target_is_named_without_its_signature() {
    let content = Content::image(&[1000]);
    let store = Server::start(|_| Answer::status(418));
    let host = store.host();
    let server = Server::start(move |r| match r.path.contains("/blobs/") {
        true => Answer::status(307).header("Location", &format!("http://{host}/b?X-Signature=hidden")),
        false => content.answer(r),
    });
    let error = pull(settings(), &server.image()).map(drop).expect_err("418");
    assert!(error.what.contains(&store.host()) && !error.what.contains("hidden"), "{error:?}");
}
