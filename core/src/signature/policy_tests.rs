use super::*;

fn policy(text: &str) -> Result<Policy, Refusal> {
    Policy::parse(text.as_bytes(), "policy.json")
}

fn scope(policy: &Policy, image: &str) -> String {
    policy.of(&Reference::parse(image).expect(image)).scope
}

const ACCEPT: &str = r#"[{"type":"insecureAcceptAnything"}]"#;
const REJECT: &str = r#"[{"type":"reject"}]"#;

#[test]
fn the_most_specific_scope_alone_decides() {
    let text = format!(
        r#"{{"default":{REJECT},"transports":{{
            "dir":{{"":[{{"type":"of the future"}}]}},
            "docker":{{"x.y/ns/app:1":{ACCEPT},"x.y/ns/app":{ACCEPT},"x.y":{ACCEPT},"*.example.org":{ACCEPT},
                       "*.org":{REJECT},"a.example.org":{REJECT}}}}}}}"#
    );
    let found = policy(&text).expect("well formed");
    for (image, expected) in [
        ("x.y/ns/app:1", "x.y/ns/app:1"),
        ("x.y/ns/app:2", "x.y/ns/app"),
        ("x.y/ns/application:2", "x.y"),
        ("x.y:5000/ns/app:1", "default"),
        ("a.example.org/b", "a.example.org"),
        ("b.example.org:5000/b", "*.example.org"),
        ("example.org/b", "*.org"),
        ("busybox", "default"),
    ] {
        assert_eq!(scope(&found, image), expected, "{image}");
    }
    let whole = policy(&format!(r#"{{"default":{REJECT},"transports":{{"docker":{{"":{ACCEPT}}}}}}}"#));
    assert_eq!(scope(&whole.expect("well formed"), "busybox"), "docker");
    assert_eq!(
        scope(&policy(&format!(r#"{{"default":{REJECT}}}"#)).expect("well formed"), "busybox"),
        "default"
    );
}

fn requirement(text: &str) -> Requirement {
    let policy = policy(&format!(r#"{{"default":[{text}]}}"#)).expect(text);
    policy.default[0].clone()
}

#[test]
fn requirements_name_keys_and_an_identity() {
    let file = |path: &str| Key::File(AbsPath::parse(path).expect("static"));
    assert_eq!(
        requirement(r#"{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/a","/b"]}"#),
        Requirement::Openpgp(vec![file("/a"), file("/b")], Identity::default())
    );
    assert_eq!(
        requirement(
            r#"{"type":"sigstoreSigned","keyData":"a2V5","signedIdentity":{"type":"matchRepository"}}"#
        ),
        Requirement::Sigstore(vec![Key::Data(b"key".to_vec())], Identity::MatchRepository {})
    );
}

#[test]
fn what_cannot_be_checked_is_a_requirement_that_nothing_meets() {
    for (text, what) in [
        (r#"{"type":"sigstoreSigned","fulcio":{"caPath":"/ca"},"rekorPublicKeyPath":"/r"}"#, "fulcio"),
        (r#"{"type":"sigstoreSigned","keyPath":"/k","rekorPublicKeyPath":"/r"}"#, "Rekor"),
        (r#"{"type":"sigstoreSigned","keyPath":"/k","rekorPublicKeyDatas":["aa"]}"#, "Rekor"),
        (r#"{"type":"sigstoreSigned","pki":{"caRootsPath":"/r"}}"#, "pki"),
        (r#"{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}"#, "base layer"),
    ] {
        let Requirement::Unsupported(said) = requirement(text) else { panic!("{text}") };
        assert!(said.contains(what), "{said}");
    }
}

#[test]
fn a_malformed_policy_is_refused_as_a_whole() {
    let one = |requirement: &str| format!(r#"{{"default":[{requirement}]}}"#);
    for (text, why) in [
        (String::new(), "EOF"),
        ("{}".into(), "missing field `default`"),
        ("[]".into(), ""),
        (r#"{"default":[]}"#.into(), "empty"),
        (format!(r#"{{"default":{ACCEPT},"default":{ACCEPT}}}"#), "duplicate field"),
        (format!(r#"{{"default":{ACCEPT},"more":1}}"#), "unknown field"),
        (format!(r#"{{"default":{ACCEPT}}} x"#), "trailing"),
        (format!(r#"{{"default":{ACCEPT},"transports":{{"docker":{{"x.y":[]}}}}}}"#), "empty"),
        (
            format!(r#"{{"default":{ACCEPT},"transports":{{"docker":{{"x.y":{REJECT},"x.y":{ACCEPT}}}}}}}"#),
            "'x.y' is there twice",
        ),
        (
            format!(r#"{{"default":{ACCEPT},"transports":{{"docker":{{"x.y":{REJECT}}},"docker":{{}}}}}}"#),
            "'docker' is there twice",
        ),
        (one(r#"{"type":"insecureAcceptAnythin"}"#), "unknown variant"),
        (one(r#"{"type":"reject","keyPath":"/k"}"#), "unknown field"),
        (one(r#"{"type":"reject","type":"insecureAcceptAnything"}"#), "duplicate field"),
        (one(r#"{"type":"signedBy","keyPath":"/k"}"#), "keyType"),
        (one(r#"{"type":"signedBy","keyType":"X509Certificates","keyPath":"/k"}"#), "unknown variant"),
        (one(r#"{"type":"signedBy","keyType":"GPGKeys"}"#), "names no key"),
        (one(r#"{"type":"signedBy","keyType":"GPGKeys","keyPaths":[]}"#), "list of keys is empty"),
        (one(r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"k"}"#), "not an absolute path"),
        (one(r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k","keyData":"aaaa"}"#), "two ways"),
        (one(r#"{"type":"sigstoreSigned"}"#), "names no key"),
        (one(r#"{"type":"sigstoreSigned","keyData":"%"}"#), "base64"),
        (one(r#"{"type":"sigstoreSigned","keyPath":"/k","keypath":"/k"}"#), "unknown field"),
        (
            one(
                r#"{"type":"sigstoreSigned","keyPath":"/k","signedIdentity":{"type":"exactReference","dockerReference":"x"}}"#,
            ),
            "is not a name with a tag",
        ),
        (" ".repeat(MAX_POLICY + 1), "larger"),
    ] {
        let refusal = policy(&text).expect_err(&text);
        assert!(
            refusal.what.starts_with("the signature policy policy.json is ") && refusal.what.contains(why),
            "{refusal}"
        );
        assert!(refusal.hint.is_some() && !refusal.what.contains('\n'));
    }
}
