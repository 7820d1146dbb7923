//! The values of options that Docker writes in its own way.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use grus_core::identity::User;
use grus_core::refusal::{printable, Refusal};
use grus_core::request::Unshare;

use crate::failure::Failure;

/// `SRC:DST[:FLAG,...]` of Docker's -v in the short form of a mount.
pub(super) fn short(volume: &str) -> Result<String, Refusal> {
    let refuse = |why: &str, hint: &str| {
        Err(Refusal::user(format!("--volume={}: {why}", printable(volume))).hint(hint))
    };
    let mut parts = volume.splitn(3, ':');
    let (source, destination, flags) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let Some(destination) = destination else {
        return refuse("it names no place in the container", "write SRC:DST, for example /data:/data:ro");
    };
    if !source.starts_with(['/', '.']) {
        return refuse("no volumes are kept by name", "for a directory here write ./DIR:DST");
    }
    // SELinux labels, which are never changed here.
    let labels = ["z", "Z"];
    let flags: Vec<&str> =
        flags.iter().flat_map(|flags| flags.split(',')).filter(|f| !labels.contains(f)).collect();
    let path = |path: &str| path.contains([',', '=', '"']);
    if path(source) || path(destination) {
        return refuse(
            "a path has a ',', '=' or '\"' in it",
            "write it as --mount type=bind,\"source=...\",destination=...",
        );
    }
    Ok(match flags.is_empty() {
        true => format!("{source}:{destination}"),
        false => format!("{source}:{destination}:{}", flags.join("+")),
    })
}

/// All variables by name; the last one of a name holds. Names may be any that Docker takes, such as `discovery.type`.
pub(super) fn variables(
    files: &[PathBuf],
    words: &[String],
) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let mut all = BTreeMap::new();
    let mut add = |text: &str, from: &str| {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        if name.is_empty() || name.contains(char::is_whitespace) || text.contains('\0') {
            let what = format!("{from}: '{}' is no variable", printable(text));
            return Err(
                Refusal::user(what).hint("write NAME=VALUE, or NAME alone to keep the value it has here")
            );
        }
        all.insert(name.to_owned(), value.map(str::to_owned));
        Ok(())
    };
    for file in files {
        let text = fs::read_to_string(file).map_err(|e| Failure::io("read the variables in", file, &e))?;
        let lines =
            text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let from = format!("--env-file={}", printable(&file.display().to_string()));
        lines.into_iter().try_for_each(|line| add(line, &from))?;
    }
    words.iter().try_for_each(|word| add(word, "--env"))?;
    Ok(all)
}

/// Whether root is asked for; only the caller can be had beside.
pub(super) fn is_root(asked: &str, user: &User) -> Result<bool, Refusal> {
    let (name, group) = asked.split_once(':').map_or((asked, None), |(name, group)| (name, Some(group)));
    let is = |text: &str, id: u32, name: Option<&str>| text == id.to_string() || name == Some(text);
    let roots = is(name, 0, Some("root")) && group.is_none_or(|group| is(group, 0, Some("root")));
    let gids =
        |group: &str| user.groups.iter().any(|g| g.gid == user.gid && is(group, g.gid, g.name.as_deref()));
    let own = is(name, user.uid, Some(&user.name)) && group.is_none_or(gids);
    match (roots, own) {
        (true, _) => Ok(true),
        (false, true) => Ok(false),
        (false, false) => Err(Refusal::user(format!(
            "--user={}: without root you can be yourself ({}) or be shown as root",
            printable(asked),
            printable(&user.name)
        ))
        .hint("leave it out, or pass --user=root")),
    }
}

pub(super) fn namespaces(network: Option<&str>, hostname: Option<&str>) -> Result<Unshare, Refusal> {
    let net = match network {
        None | Some("host") => false,
        Some("none") => true,
        Some(other) => {
            return Err(Refusal::user(format!("--network={}: there is no such network", printable(other)))
                .hint("use host, the default, or none"))
        }
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    match hostname {
        Some(name) if name.is_empty() || name.len() > 64 || !name.chars().all(plain) => {
            Err(Refusal::user(format!("--hostname={} is no host name", printable(name)))
                .hint("use at most 64 letters, digits, '-' and '.'"))
        }
        hostname => Ok(Unshare { net, ipc: false, uts: hostname.is_some() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_mounts() {
        for (volume, mount) in [
            ("/a:/b", "/a:/b"),
            ("./a:/b:ro,z", "./a:/b:ro"),
            ("/a:/b:Z", "/a:/b"),
            ("../a:/b:ro,noexec", "../a:/b:ro+noexec"),
        ] {
            assert_eq!(short(volume).as_deref(), Ok(mount));
        }
        for (bad, why) in [
            ("/a", "--volume=/a: it names no place in the container"),
            ("data:/b", "--volume=data:/b: no volumes are kept by name"),
            ("/a,b:/c", "--volume=/a,b:/c: a path has a ',', '=' or '\"' in it"),
        ] {
            let refusal = short(bad).expect_err(bad);
            assert_eq!((refusal.what.as_str(), refusal.hint.is_some()), (why, true));
        }
    }

    #[test]
    fn the_last_variable_of_a_name_holds() {
        let dir = tempfile::tempdir().expect("tmp");
        let file = dir.path().join("env");
        fs::write(&file, "# comment\n\nA=file\n  B=x=y\nC\n").expect("written");
        let words = ["A=1", "A=word", "discovery.type=1,\"2\""].map(str::to_owned);
        let all = variables(std::slice::from_ref(&file), &words).expect("good");
        let expected =
            [("A", Some("word")), ("B", Some("x=y")), ("C", None), ("discovery.type", Some("1,\"2\""))];
        assert_eq!(all, expected.map(|(n, v)| (n.to_owned(), v.map(str::to_owned))).into());
        assert!(variables(&[dir.path().join("none")], &[]).is_err());
        for bad in ["", "=x", "A B=x", "A=\0"] {
            assert!(variables(&[], &[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nobody_but_root_and_oneself_can_be_had() {
        let group = |gid, name: &str| grus_core::identity::Group { gid, name: Some(name.into()) };
        let user = User {
            name: "u".into(),
            uid: 1000,
            gid: 100,
            gecos: String::new(),
            home: "/h".into(),
            shell: "/bin/sh".into(),
            groups: vec![group(100, "users"), group(50, "staff")],
        };
        for (asked, root) in [
            ("root", true),
            ("0", true),
            ("0:0", true),
            ("root:root", true),
            ("u", false),
            ("1000:100", false),
        ] {
            assert_eq!(is_root(asked, &user), Ok(root), "{asked}");
        }
        for other in ["www-data", "33:33", "1000:50", "root:50", "", "u:staff"] {
            assert!(is_root(other, &user).is_err(), "{other}");
        }
    }
}
