//! Owns the writing of accounts, for `grus login` and `grus logout`: into the files Podman reads, or into
//! the credential helper named there. It refuses to leave a half-written file, one that others can read, or
//! one that lost what it does not understand.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use serde_json::{Map, Value};

use super::credential_helper;
use super::credentials::{ask, is_dockers, names_of, read, stored, text, AuthFile, Stored};
use super::error::{Kind, RegistryError};
use super::secret::Secret;
use super::settings::Paths;

/// Where an account was stored or forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This file.
    File(PathBuf),
    /// `docker-credential-NAME`.
    Helper(String),
}

/// Stores an account for `registry`: where Podman would look for it first, but not in a directory that
/// goes away at logout, unless it has an entry there already.
pub fn store(
    paths: &Paths,
    registry: &str,
    username: &str,
    password: &Secret,
) -> Result<Place, RegistryError> {
    if username.is_empty() || username.contains(':') {
        return Err(RegistryError::new(Kind::Refused, "a user name cannot be empty or have a ':' in it"));
    }
    let file = target(paths, registry)?;
    let mut document = own_document(&file)?;
    if let Some((name, servers)) = helper_of(&document, registry) {
        let server = servers.first().map_or(registry, String::as_str);
        credential_helper::store(&name, server, username, password, paths.helper_path.as_deref())?;
        return Ok(Place::Helper(name));
    }
    let pair = Secret::new(format!("{username}:{}", password.expose()));
    let auth = base64::engine::general_purpose::STANDARD.encode(pair.expose());
    let auths = document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(auths) = auths else { return Err(wrong(&file, &"'auths' is not an object")) };
    auths.insert(registry.to_owned(), serde_json::json!({ "auth": auth }));
    write(&file, &document)?;
    Ok(Place::File(file))
}

/// Forgets `registry` in all of Podman's files and their helpers. Docker's config.json is Docker's: it is
/// left as it is. Returns where something was forgotten.
pub fn erase(paths: &Paths, registry: &str) -> Result<Vec<Place>, RegistryError> {
    let mut places = Vec::new();
    for file in paths.auth_files.iter().filter(|f| !is_dockers(f)) {
        let mut document = document(file)?;
        if let Some((name, servers)) = helper_of(&document, registry) {
            let mut erased = false;
            for server in &servers {
                erased |= credential_helper::erase(&name, server, paths.helper_path.as_deref())?;
            }
            if erased {
                places.push(Place::Helper(name));
            }
        }
        let Some(Value::Object(auths)) = document.get_mut("auths") else { continue };
        let before = auths.len();
        for name in names_of(registry) {
            auths.remove(name);
        }
        if auths.len() < before {
            write(file, &document)?;
            places.push(Place::File(file.clone()));
        }
    }
    Ok(places)
}

/// The file of Docker's that has an account for `registry` still: pulls go on using it. A helper that fails is an
/// error here: nobody can tell what it has.
pub fn left_to_docker(paths: &Paths, registry: &str) -> Result<Option<PathBuf>, RegistryError> {
    let helper_path = paths.helper_path.as_deref();
    for file in paths.auth_files.iter().filter(|f| is_dockers(f)) {
        let has_one = match stored(file, registry, "")? {
            Some(Stored::Here(_)) => true,
            Some(Stored::Helper { name, servers }) => {
                credential_helper::is_installed(&name, helper_path)?
                    && ask(&name, &servers, helper_path)?.is_some()
            }
            None => false,
        };
        if has_one {
            return Ok(Some(file.clone()));
        }
    }
    Ok(None)
}

/// The first file that has `registry` itself already; else the first that survives a logout.
fn target(paths: &Paths, registry: &str) -> Result<PathBuf, RegistryError> {
    let own: Vec<&PathBuf> = paths.auth_files.iter().filter(|f| !is_dockers(f)).collect();
    for file in &own {
        let document = document(file)?;
        let entry = |name: &&str| document.get("auths").is_some_and(|a| a.get(*name).is_some());
        if names_of(registry).iter().any(entry) || helper_of(&document, registry).is_some() {
            return Ok((*file).clone());
        }
    }
    // The runtime directory, /run/user/UID, is emptied when the last session ends.
    let lasting = own.iter().find(|f| !f.starts_with("/run"));
    lasting.or(own.first()).map(|f| (*f).clone()).ok_or_else(|| {
        RegistryError::new(Kind::Site, "there is no place to store an account")
            .hint("set HOME, or REGISTRY_AUTH_FILE to a file of yours")
    })
}

/// The helper that keeps `registry` and what it may know it as, the best first, by the rules of reading.
fn helper_of(document: &Map<String, Value>, registry: &str) -> Option<(String, Vec<String>)> {
    let mut without_auths = document.clone();
    without_auths.remove("auths");
    let file: AuthFile = serde_json::from_value(Value::Object(without_auths)).ok()?;
    match file.lookup(registry, "") {
        Ok(Some(Stored::Helper { name, servers })) => Some((name, servers)),
        _ => None,
    }
}

/// What is in a file; nothing in one that is not for this user.
fn document(file: &Path) -> Result<Map<String, Value>, RegistryError> {
    parse(file, read(file)?)
}

/// What is in a file that is to be replaced: one that cannot be read would lose its accounts, and what is no regular
/// file, such as /dev/null, would become one for everybody.
fn own_document(file: &Path) -> Result<Map<String, Value>, RegistryError> {
    let text = text(file).map_err(|e| {
        wrong(file, &e).hint("set REGISTRY_AUTH_FILE to a file of yours, or make this one yours to read")
    })?;
    parse(file, text)
}

fn parse(file: &Path, text: Option<Secret>) -> Result<Map<String, Value>, RegistryError> {
    let Some(text) = text else { return Ok(Map::new()) };
    serde_json::from_str(text.expose()).map_err(|_| wrong(file, &"it is not a JSON object"))
}

fn wrong(file: &Path, why: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::new(Kind::Site, format!("cannot store accounts in {}: {why}", file.display()))
        .hint("mend or remove the file; see containers-auth.json(5)")
}

/// Replaces the file by a rename, readable for its owner only. A symbolic link is followed, not replaced.
fn write(file: &Path, document: &Map<String, Value>) -> Result<(), RegistryError> {
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let text = serde_json::to_string_pretty(document).map(Secret::new).map_err(|e| wrong(&file, &e))?;
    let replace = || -> io::Result<()> {
        let dir = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let new = dir.join(format!(".auth.json.{}", std::process::id()));
        // A left-over of a process of the same id that died.
        let _ = fs::remove_file(&new);
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        let written = out
            .write_all(text.expose().as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.sync_all())
            .and_then(|()| fs::rename(&new, &file));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    };
    replace().map_err(|e| wrong(&file, &e))
}

#[cfg(test)]
mod tests {
    use super::super::credentials::{find, Account, DOCKER_HUB_KEY};
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    fn paths(dir: &Path) -> Paths {
        let auth_files = vec![dir.join("containers/auth.json"), dir.join("docker/config.json")];
        Paths { auth_files, helper_path: Some(dir.into()), ..Paths::default() }
    }

    #[test]
    fn what_is_stored_is_found_and_what_is_erased_is_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let paths = paths(dir.path());
        let place = store(&paths, "a.example:5000", "u", &Secret::new("p:w")).expect("stored");
        assert_eq!(place, Place::File(paths.auth_files[0].clone()));
        let mode = fs::metadata(&paths.auth_files[0]).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let account = Account::Password { username: "u".into(), password: Secret::new("p:w") };
        let found = |registry: &str| find(&paths, registry, "x").expect("readable").account;
        assert_eq!(found("a.example:5000"), Some(account));
        assert_eq!(erase(&paths, "a.example:5000").expect("erased").len(), 1);
        assert_eq!(found("a.example:5000"), None);
        assert_eq!(erase(&paths, "a.example:5000").expect("nothing to do"), []);
        assert_eq!(fs::read_dir(dir.path().join("containers")).expect("dir").count(), 1, "a left-over");
    }

    #[test]
    fn what_is_not_understood_is_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let paths = paths(dir.path());
        let (file, real) = (&paths.auth_files[0], dir.path().join("real.json"));
        fs::create_dir_all(file.parent().expect("parent")).expect("dir");
        fs::write(&real, r#"{"auths":{"b.example":{"auth":"dTpw","x":1}},"detachKeys":"^"}"#).expect("write");
        std::os::unix::fs::symlink(&real, file).expect("link");
        store(&paths, "a.example", "u", &Secret::new("p")).expect("stored");
        let text = fs::read_to_string(&real).expect("the link's target");
        assert!(
            text.contains("detachKeys") && text.contains("\"x\": 1") && text.contains("a.example"),
            "{text}"
        );
        assert!(file.symlink_metadata().expect("there").is_symlink());
        fs::write(&real, "{ broken").expect("write");
        let error = store(&paths, "a.example", "u", &Secret::new("p")).expect_err("broken");
        assert_eq!(error.kind, Kind::Site);
        assert_eq!(fs::read_to_string(&real).expect("there"), "{ broken");
    }

    #[test]
    fn what_is_no_regular_file_is_not_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let paths = paths(dir.path());
        let (file, device) = (&paths.auth_files[0], dir.path().join("null"));
        // Stands for /dev/null, to which the file may lead.
        let _socket = std::os::unix::net::UnixListener::bind(&device).expect("bound");
        fs::create_dir_all(file.parent().expect("parent")).expect("dir");
        std::os::unix::fs::symlink(&device, file).expect("link");
        let error = store(&paths, "a.example", "u", &Secret::new("p")).expect_err("no file");
        assert!(error.kind == Kind::Site && error.what.contains("not a regular file"), "{error}");
        assert!(error.hint.as_ref().is_some_and(|h| h.contains("REGISTRY_AUTH_FILE")), "{error:?}");
        assert!(fs::symlink_metadata(&device).expect("there").file_type().is_socket());
        // It holds no account, which is no error.
        assert_eq!(erase(&paths, "a.example"), Ok(vec![]));
        assert_eq!(find(&paths, "a.example", "x").expect("nothing").account, None);
    }

    #[test]
    fn what_cannot_be_read_is_not_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let paths = paths(dir.path());
        let file = &paths.auth_files[0];
        fs::create_dir_all(file.parent().expect("parent")).expect("dir");
        fs::write(file, b"{\"auths\":{\"\xff\":{}}}").expect("write");
        let error = store(&paths, "a.example", "u", &Secret::new("p")).expect_err("no text");
        assert!(error.kind == Kind::Site && error.what.contains("UTF-8"), "{error}");
        assert!(fs::read(file).expect("there").contains(&0xff));
        fs::write(file, r#"{"auths":{"b.example":{"auth":"dTpw"}}}"#).expect("write");
        fs::set_permissions(file, fs::Permissions::from_mode(0o000)).expect("chmod");
        if fs::read(file).is_ok() {
            return println!("the rest is skipped: root reads everything");
        }
        let error = store(&paths, "a.example", "u", &Secret::new("p")).expect_err("not ours to read");
        assert!(error.kind == Kind::Site && error.what.contains("Permission denied"), "{error}");
        // For a pull or a logout it is another user's.
        assert_eq!(erase(&paths, "b.example"), Ok(vec![]));
        assert_eq!(find(&paths, "b.example", "x").expect("passed over").account, None);
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(fs::read_to_string(file).expect("there").contains("b.example"));
    }

    #[test]
    fn a_named_helper_gets_the_account() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let paths = paths(dir.path());
        let program = dir.path().join("docker-credential-keep");
        let script = "cd \"$(dirname \"$0\")\"
            [ $1 = get ] || exec cat >$1
            [ -e store ] && [ ! -e erase ] && [ \"$(cat)\" = https://index.docker.io/v1/ ] || {
                echo credentials not found in native keychain
                exit 1
            }
            cat store";
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::create_dir_all(dir.path().join("containers")).expect("dir");
        fs::write(&paths.auth_files[0], r#"{"credsStore":"keep"}"#).expect("write");
        assert_eq!(erase(&paths, "docker.io").expect("nothing is there"), []);
        let place = store(&paths, "docker.io", "u", &Secret::new("hidden")).expect("stored");
        assert_eq!(place, Place::Helper("keep".into()));
        assert!(fs::read_to_string(dir.path().join("store")).expect("ran").contains(DOCKER_HUB_KEY));
        assert!(!fs::read_to_string(&paths.auth_files[0]).expect("there").contains("hidden"));
        assert_eq!(erase(&paths, "docker.io").expect("erased"), [Place::Helper("keep".into())]);
        assert_eq!(fs::read_to_string(dir.path().join("erase")).expect("ran"), DOCKER_HUB_KEY);
        assert_eq!(erase(&paths, "docker.io").expect("nothing is there any more"), []);
    }

    #[test]
    fn what_is_dockers_is_left_and_told() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let paths = paths(dir.path());
        let file = &paths.auth_files[1];
        fs::create_dir_all(file.parent().expect("parent")).expect("dir");
        let text = r#"{"auths":{"a.example":{"auth":"dTpw"}},"credsStore":"nowhere"}"#;
        fs::write(file, text).expect("write");
        assert_eq!(erase(&paths, "a.example").expect("nothing of ours"), []);
        assert_eq!(left_to_docker(&paths, "a.example").expect("readable"), Some(file.clone()));
        assert_eq!(left_to_docker(&paths, "b.example").expect("its helper is not here"), None);
        assert_eq!(fs::read_to_string(file).expect("there"), text);
        let program = dir.path().join("docker-credential-nowhere");
        fs::write(&program, "#!/bin/sh\nexit 1\n").expect("write");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        assert!(left_to_docker(&paths, "b.example").is_err(), "nobody can tell");
    }

    #[test]
    fn a_user_name_that_cannot_be_stored_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        for bad in ["", "a:b"] {
            assert!(store(&paths(dir.path()), "a.example", bad, &Secret::new("p")).is_err(), "{bad}");
        }
    }
}
