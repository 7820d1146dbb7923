//! Owns the reading of WWW-Authenticate (RFC 9110, 11.6.1; distribution spec, token authentication): pure
//! text in, challenges out. It refuses nothing: what it cannot read is no challenge.

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A user name and a password.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// What to call the registry there.
        service: Option<String>,
        /// What to ask for, e.g. `repository:library/ubuntu:pull`.
        scope: Option<String>,
    },
}

/// Longest header that is read, in bytes.
const LONGEST: usize = 8 << 10;

/// All challenges that can be answered, in their order; `headers` are the values of one response.
pub fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    headers.into_iter().filter(|h| h.len() <= LONGEST).flat_map(parse_one).collect()
}

/// One header value. It may hold several challenges: `Basic realm="x", Bearer realm="y",service="z"`. A
/// word followed by a space and a parameter begins a challenge; a word followed by `=` is a parameter.
fn parse_one(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word_end = rest.find(|c: char| c == '=' || c == ',' || c.is_whitespace()).unwrap_or(rest.len());
        if rest.is_empty() || word_end == 0 {
            break;
        }
        let (word, after) = rest.split_at(word_end);
        match after.trim_start().strip_prefix('=') {
            Some(after) => {
                let Some((value, after)) = value(after.trim_start()) else { break };
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            None => {
                found.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    found.into_iter().filter_map(|(scheme, parameters)| challenge(&scheme, &parameters)).collect()
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |name: &str| {
        parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).filter(|v| !v.is_empty())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
        }
        _ => None,
    }
}

/// A token or a quoted string at the beginning of `text`, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut out = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &quoted[at + 1..])),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn challenges_as_registries_send_them() {
        let hub = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",\
                   scope=\"repository:library/ubuntu:pull\"";
        let scope = "repository:library/ubuntu:pull";
        for (header, expected) in [
            (hub, vec![bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some(scope))]),
            ("Basic realm=\"x\"", vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            ("BEARER Realm=https://a/t , service = b", vec![bearer("https://a/t", Some("b"), None)]),
            (
                "Basic realm=\"a, Bearer realm=b\", Bearer realm=\"https://c\\\"d\"",
                vec![Challenge::Basic, bearer("https://c\"d", None, None)],
            ),
            ("Negotiate, Basic realm=\"x\"", vec![Challenge::Basic]),
            (
                "Bearer realm=\"https://a\",scope=\"repository:a/b:pull,push\"",
                vec![bearer("https://a", None, Some("repository:a/b:pull,push"))],
            ),
        ] {
            assert_eq!(parse([header]), expected, "{header}");
        }
        assert_eq!(parse(["Negotiate", "Basic realm=x"]), [Challenge::Basic]);
    }

    #[test]
    fn hostile_headers_are_no_challenge_and_no_panic() {
        for header in [
            "",
            ",",
            "=",
            "\"",
            "Bearer",
            "Bearer realm",
            "Bearer realm=",
            "Bearer realm=\"",
            "Bearer realm=\"\"",
            "Bearer realm=\"a\\",
            "Bearer =x",
            "Bearer service=\"x\"",
            "Bear\u{e9}r realm=\u{1f980}",
            &"Bearer realm=x,".repeat(4096),
        ] {
            assert_eq!(parse([header]), [], "{header:.40}");
        }
    }
}
