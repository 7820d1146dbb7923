//! Accounts as Docker and Podman store them, and hostile files.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn password(username: &str, password: &str) -> Option<Stored> {
    Some(Stored::Here(Account::Password { username: username.into(), password: Secret::new(password) }))
}

#[test]
fn the_most_specific_entry_wins() {
    // "dTpw" is u:p, "bjpx" is n:q, "ZDpy" is d:r
    let text = br#"{"auths":{
        "quay.example":{"auth":"dTpw"},
        "quay.example/team":{"auth":"bjpx"},
        "quay.example/team/app":{"username":"a","password":"s"},
        "https://index.docker.io/v1/":{"auth":"ZDpy"},
        "old.example/v1/":{"auth":"dTpw\n"},
        "token.example":{"auth":"PHRva2VuPjo=","identitytoken":"refresh"},
        "direct.example":{"registrytoken":"jwt"},
        "empty.example":{}},
        "unknown":{"key":[1,2]}}"#;
    let file = AuthFile::parse(text).expect("well formed");
    let identity = Some(Stored::Here(Account::Identity(Secret::new("refresh"))));
    let bearer = Some(Stored::Here(Account::Bearer(Secret::new("jwt"))));
    for (registry, repository, expected) in [
        ("quay.example", "team/app", password("a", "s")),
        ("quay.example", "team/app/deeper", password("a", "s")),
        ("quay.example", "team/other", password("n", "q")),
        ("quay.example", "teams/other", password("u", "p")),
        ("quay.example", "", password("u", "p")),
        ("quay.example:443", "team/app", None),
        ("docker.io", "library/ubuntu", password("d", "r")),
        ("old.example", "x", password("u", "p")),
        ("token.example", "x", identity),
        ("direct.example", "x", bearer),
        ("empty.example", "x", None),
        ("other.example", "x", None),
    ] {
        assert_eq!(file.lookup(registry, repository), Ok(expected), "{registry}/{repository}");
    }
}

#[test]
fn helpers_come_by_registry_then_for_all() {
    let text = br#"{"auths":{"a.example":{},"b.example":{"auth":"dTpw"}},
        "credHelpers":{"ecr.example":"ecr-login"},"credsStore":"pass"}"#;
    let file = AuthFile::parse(text).expect("well formed");
    let helper =
        |name: &str, server: &str| Some(Stored::Helper { name: name.into(), servers: vec![server.into()] });
    assert_eq!(file.lookup("ecr.example", "x"), Ok(helper("ecr-login", "ecr.example")));
    assert_eq!(file.lookup("a.example", "x"), Ok(helper("pass", "a.example")));
    assert_eq!(file.lookup("b.example", "x"), Ok(password("u", "p")));
    match file.lookup("docker.io", "library/x").expect("helper") {
        Some(Stored::Helper { servers, .. }) => assert_eq!(servers[0], DOCKER_HUB_KEY),
        other => panic!("{other:?}"),
    }
}

#[test]
fn hostile_files_are_refused_without_their_content() {
    for text in [
        "",
        "{",
        "{\"auths\":[]}",
        "{\"auths\":{\"a\":{\"auth\":5}}}",
        "{\"auths\":{\"hunter2\":\"hunter2\"}}",
    ] {
        let error = AuthFile::parse(text.as_bytes()).expect_err(text);
        assert!(!error.contains("hunter2"), "{error}");
    }
    for auth in ["!!!", "aHVudGVyMg==", "/////w=="] {
        let text = format!("{{\"auths\":{{\"a.example\":{{\"auth\":\"{auth}\"}}}}}}");
        let error = AuthFile::parse(text.as_bytes()).expect("json").lookup("a.example", "x").expect_err(auth);
        assert!(error.contains("a.example") && !error.contains("hunter2"), "{error}");
    }
    assert_eq!(AuthFile::parse(b"{}").expect("empty").lookup("a", "b"), Ok(None));
    assert_eq!(
        AuthFile::parse(b"{\"auths\":null,\"credsStore\":null}").expect("nulls").lookup("a", "b"),
        Ok(None)
    );
}

#[test]
fn a_secret_is_never_printed() {
    let account = Account::Password { username: "u".into(), password: Secret::new("hunter2") };
    assert!(!format!("{account:?}").contains("hunter2"));
    let file = AuthFile::parse(br#"{"auths":{"a":{"auth":"aHVudGVyMg=="}}}"#).expect("well formed");
    assert!(!format!("{file:?}").contains("aHVudGVyMg"));
}

#[test]
fn files_are_asked_in_order_and_a_broken_one_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let [none, empty, first, second] = ["none", "empty", "first", "second"].map(|n| dir.path().join(n));
    fs::write(&empty, "").expect("write");
    fs::write(&first, r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#).expect("write");
    fs::write(&second, "{ broken").expect("write");
    let paths = Paths { auth_files: vec![none, empty, first, second], ..Paths::default() };
    let found = find(&paths, "a.example", "x").expect("before the broken one");
    assert_eq!(found.account.map(Stored::Here), password("u", "p"));
    let error = find(&paths, "b.example", "x").expect_err("broken");
    assert!(error.kind == Kind::Site && error.what.contains("second"), "{error}");
}

/// What is told of a helper of this name in each way to name it: with no account missed in Docker's file, and the error in
/// Podman's, whose users want it used.
fn with_helper(dir: &std::path::Path, name: &str) -> Vec<(String, String)> {
    let [podmans, dockers] = ["auth.json", "config.json"].map(|n| dir.join(n));
    let texts =
        [format!(r#"{{"credsStore":"{name}"}}"#), format!(r#"{{"credHelpers":{{"a.example":"{name}"}}}}"#)];
    let told = |text: String| {
        fs::write(&dockers, &text).expect("write");
        let mut paths =
            Paths { auth_files: vec![dockers.clone()], helper_path: Some(dir.into()), ..Paths::default() };
        let found = find(&paths, "a.example", "x").expect("no account");
        assert!(found.account.is_none());
        fs::write(&podmans, text).expect("write");
        paths.auth_files.insert(0, podmans.clone());
        let error = find(&paths, "a.example", "x").expect_err("Podman's file");
        // An account that comes first is taken, and nothing missed.
        fs::write(&podmans, r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#).expect("write");
        let first = find(&paths, "a.example", "x").expect("Podman's account");
        assert!(first.account.is_some() && first.missed.is_none());
        (found.missed.expect("why"), error.what)
    };
    texts.into_iter().map(told).collect()
}

#[test]
fn a_helper_of_dockers_that_fails_is_remembered_and_no_error() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let program = dir.path().join("docker-credential-locked");
    fs::write(&program, "#!/bin/sh\necho the keyring is locked\nexit 1\n").expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    for (missed, error) in with_helper(dir.path(), "locked") {
        assert!(missed.contains("config.json") && missed.contains("'locked'"), "{missed}");
        assert!(missed.ends_with("the keyring is locked"), "{missed}");
        assert!(error.contains("the keyring is locked"), "{error}");
    }
}

#[test]
fn a_helper_of_dockers_that_is_not_here_is_remembered_and_no_error() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for (missed, error) in with_helper(dir.path(), "absent") {
        assert!(missed.contains("'absent', which is not installed"), "{missed}");
        assert!(error.contains("there is no docker-credential-absent in PATH"), "{error}");
    }
}
