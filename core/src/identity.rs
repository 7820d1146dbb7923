//! A passwd(5) and group(5) for the container: the image's own entries, with the job's user and all the
//! user's groups known by their names on the host.

/// The job's user, as the node's name service knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Real name and the like.
    pub gecos: String,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
    /// All groups, the primary one too.
    pub groups: Vec<Group>,
}

/// One of the user's groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub gid: u32,
    /// Its name; None where the name service knows none.
    pub name: Option<String>,
}

/// Largest passwd or group file of an image that is read, in bytes.
pub const MAX_DATABASE: usize = 1 << 20;

/// The container's passwd: `image`'s lines but those of the user's name or id, then the user's own. With `root`, the
/// user is shown as root, and the login name is another name for it.
pub fn passwd(image: &[u8], user: &User, root: bool) -> String {
    let shown = if root { (0, 0) } else { (user.uid, user.gid) };
    let names: &[&str] = if root { &["root", &user.name] } else { &[&user.name] };
    let mut text = kept(image, |name, id| !names.contains(&name) && id != Some(shown.0));
    for name in names {
        text.push_str(&record(&[
            name,
            "x",
            &shown.0.to_string(),
            &shown.1.to_string(),
            &user.gecos,
            &user.home,
            &user.shell,
        ]));
    }
    text
}

/// The container's group: `image`'s lines but those of the user's groups' names or ids, then these. With `root`, the
/// primary group is shown as root's, and its name is another name for it.
///
/// A group without a name gets the made-up name `g<gid>`, so that tools show no bare numbers.
pub fn group(image: &[u8], user: &User, root: bool) -> String {
    let named = user.groups.iter().map(|g| (g.gid, g.name.clone().unwrap_or_else(|| format!("g{}", g.gid))));
    let named: Vec<(u32, String)> = match root {
        false => named.collect(),
        true => {
            let others = named.filter(|(gid, _)| *gid != 0);
            let shown = others.map(|(gid, name)| (if gid == user.gid { 0 } else { gid }, name));
            std::iter::once((0, "root".to_owned())).chain(shown).collect()
        }
    };
    let mut text = kept(image, |name, id| named.iter().all(|(gid, n)| n != name && Some(*gid) != id));
    for (gid, name) in &named {
        text.push_str(&record(&[name, "x", &gid.to_string(), &user.name]));
    }
    text
}

/// The well-formed lines of a database that `keep` wants, by name and numeric id (third field).
fn kept(database: &[u8], keep: impl Fn(&str, Option<u32>) -> bool) -> String {
    let text = String::from_utf8_lossy(database);
    let mut out = String::with_capacity(text.len() + 256);
    for line in text.lines() {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or("");
        let id = fields.nth(1).and_then(|id| id.parse().ok());
        if !name.is_empty() && id.is_some() && keep(name, id) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// One line; what would break the format (`:` or a control character) becomes `_`.
fn record(fields: &[&str]) -> String {
    let clean = |f: &&str| f.replace(|c: char| c == ':' || c.is_control(), "_");
    let line: Vec<String> = fields.iter().map(clean).collect();
    line.join(":") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> User {
        User {
            name: "alice".into(),
            uid: 1000,
            gid: 1000,
            gecos: "Alice A.".into(),
            home: "/home/alice".into(),
            shell: "/bin/bash".into(),
            groups: vec![
                Group { gid: 1000, name: Some("alice".into()) },
                Group { gid: 50, name: Some("physics".into()) },
                Group { gid: 7777, name: None },
            ],
        }
    }

    #[test]
    fn the_user_replaces_whoever_had_the_name_or_the_id() {
        let image =
            b"root:x:0:0:root:/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\nalice:x:5:5::/:/\n";
        assert_eq!(
            passwd(image, &alice(), false),
            "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice A.:/home/alice:/bin/bash\n"
        );
    }

    #[test]
    fn every_group_of_the_user_has_its_name() {
        let image = b"root:x:0:\nstaff:x:50:\nphysics:x:9:\n";
        assert_eq!(
            group(image, &alice(), false),
            "root:x:0:\nalice:x:1000:alice\nphysics:x:50:alice\ng7777:x:7777:alice\n"
        );
    }

    #[test]
    fn a_user_shown_as_root_has_roots_name_and_the_own_home() {
        let image = b"root:x:0:0:root:/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n";
        assert_eq!(
            passwd(image, &alice(), true),
            "ubuntu:x:1000:1000::/home/ubuntu:/bin/sh\nroot:x:0:0:Alice A.:/home/alice:/bin/bash\n\
             alice:x:0:0:Alice A.:/home/alice:/bin/bash\n"
        );
        let image = b"root:x:0:\nusers:x:1000:\nstaff:x:50:\n";
        assert_eq!(
            group(image, &alice(), true),
            "users:x:1000:\nroot:x:0:alice\nalice:x:0:alice\nphysics:x:50:alice\ng7777:x:7777:alice\n"
        );
    }

    #[test]
    fn an_image_without_or_with_broken_databases_is_fine() {
        assert_eq!(passwd(b"", &alice(), false).lines().count(), 1);
        assert_eq!(passwd(b"\xff\xfe:::\n:x:0\n\n#c\nx:x:y:0\n", &alice(), false).lines().count(), 1);
    }

    #[test]
    fn a_hostile_name_service_cannot_add_lines() {
        let mut user = alice();
        user.gecos = "a:b\nroot::0:0::/:/bin/sh".into();
        assert_eq!(passwd(b"", &user, false).lines().count(), 1);
    }
}
