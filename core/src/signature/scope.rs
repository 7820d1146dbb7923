//! The scopes of an image, most specific first: containers-policy.json(5), "docker:", and the same in
//! containers-registries.d(5).

use crate::reference::Reference;

/// `host/ns/repo:tag` (or `@digest`), `host/ns/repo`, `host/ns`, `host`, and wildcards for the host's domains.
pub fn scopes(reference: &Reference) -> Vec<String> {
    let mut name = reference.name();
    let mut all = vec![match (&reference.digest, &reference.tag) {
        (Some(digest), _) => format!("{name}@{digest}"),
        (None, tag) => format!("{name}:{}", tag.as_deref().unwrap_or("latest")),
    }];
    loop {
        all.push(name.clone());
        match name.rfind('/') {
            Some(at) => name.truncate(at),
            None => break,
        }
    }
    // Wildcards know no port.
    let host = name.split(':').next().unwrap_or(&name);
    let dots = host.match_indices('.').map(|(at, _)| format!("*{}", &host[at..]));
    all.extend(dots);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_those_of_the_man_page_most_specific_first() {
        let of = |text: &str| scopes(&Reference::parse(text).expect(text));
        assert_eq!(
            of("a.b.example.org:5000/ns/app:1"),
            [
                "a.b.example.org:5000/ns/app:1",
                "a.b.example.org:5000/ns/app",
                "a.b.example.org:5000/ns",
                "a.b.example.org:5000",
                "*.b.example.org",
                "*.example.org",
                "*.org",
            ]
        );
        assert_eq!(
            of("busybox"),
            [
                "docker.io/library/busybox:latest",
                "docker.io/library/busybox",
                "docker.io/library",
                "docker.io",
                "*.io"
            ]
        );
        let pinned = format!("x.y/a:1@sha256:{}", "0".repeat(64));
        assert_eq!(of(&pinned)[0], format!("x.y/a@sha256:{}", "0".repeat(64)), "the digest decides");
        assert_eq!(of("[::1]:5000/a:1"), ["[::1]:5000/a:1", "[::1]:5000/a", "[::1]:5000"]);
    }
}
