//! What a signature says: containers-signature(5), "Data format", which cosign uses as well. Only text whose signature
//! is good gets here; it is hostile all the same, as anyone with a key can sign anything.

use serde::de::IgnoredAny;
use serde::Deserialize;

use super::{Identity, Scheme};
use crate::digest::Digest;
use crate::reference::Reference;
use crate::refusal::printable;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Critical,
    // Creator, time and notes: nothing may depend on them.
    #[serde(default, rename = "optional")]
    _optional: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
    identity: Named,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Named {
    docker_reference: String,
}

/// Whether the signed text `payload` is about `image`, whose manifest, or index, has one of `digests`. Gives the name
/// and the digest that are signed, or why not.
pub fn judge(
    payload: &[u8],
    scheme: Scheme,
    (image, digests): (&Reference, &[Digest]),
    identity: &Identity,
) -> Result<(String, Digest), String> {
    let Payload { critical: Critical { kind, image: signed, identity: named }, .. } =
        serde_json::from_slice(payload)
            .map_err(|e| format!("what it signs is malformed: {}", printable(&e.to_string())))?;
    let due = match scheme {
        Scheme::Openpgp => "atomic container signature",
        Scheme::Sigstore => "cosign container image signature",
    };
    let name = named.docker_reference;
    if kind != due {
        return Err(format!("it signs a '{}', not a '{due}'", printable(&kind)));
    }
    if !digests.contains(&signed.docker_manifest_digest) {
        return Err(format!("it is for another image, {}", signed.docker_manifest_digest));
    }
    if !identity.accepts(&name, image) {
        return Err(format!("it is for the name '{}'", printable(&name)));
    }
    Ok((name, signed.docker_manifest_digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(kind: &str, digest: &str, name: &str) -> String {
        format!(
            "{{\"critical\":{{\"type\":\"{kind}\",\"image\":{{\"docker-manifest-digest\":\"{digest}\"}},\
             \"identity\":{{\"docker-reference\":\"{name}\"}}}},\"optional\":{{\"creator\":\"x\"}}}}"
        )
    }

    fn said(text: &str) -> Result<(String, Digest), String> {
        let image = Reference::parse("x.y/app:1").expect("static");
        let digests = [Digest::from_bytes(&[1; 32]), Digest::from_bytes(&[2; 32])];
        judge(text.as_bytes(), Scheme::Openpgp, (&image, &digests), &Identity::default())
    }

    const KIND: &str = "atomic container signature";

    #[test]
    fn a_manifest_or_its_index_may_be_signed() {
        for n in [1, 2] {
            let digest = Digest::from_bytes(&[n; 32]);
            let text = payload(KIND, &digest.to_string(), "x.y/app:1");
            assert_eq!(said(&text), Ok(("x.y/app:1".to_owned(), digest)));
            assert!(said(&text.replace("{\"creator\":\"x\"}", "null")).is_ok(), "as cosign writes it");
        }
    }

    #[test]
    fn every_other_text_is_refused_with_its_reason() {
        let one = Digest::from_bytes(&[1; 32]).to_string();
        let good = payload(KIND, &one, "x.y/app:1");
        let other = Digest::from_bytes(&[3; 32]).to_string();
        for (text, why) in [
            (payload(KIND, &other, "x.y/app:1"), "another image"),
            (payload(KIND, &one, "x.y/app:2"), "for the name 'x.y/app:2'"),
            (payload(KIND, &one, "x.y/a\\u001bpp:1"), "for the name 'x.y/a\\x1bpp:1'"),
            (payload("cosign container image signature", &one, "x.y/app:1"), "not a 'atomic"),
            (payload(KIND, "sha256:1", "x.y/app:1"), "malformed"),
            (good.replace("\"critical\"", "\"harmless\""), "malformed"),
            (good.replace("\"type\"", "\"more\":1,\"type\""), "malformed"),
            (good.replace("\"image\"", "\"type\":\"a\",\"image\""), "malformed"),
            (format!("{good}{good}"), "malformed"),
            (String::new(), "malformed"),
            ("[".repeat(100_000), "malformed"),
        ] {
            let error = said(&text).expect_err(&text);
            assert!(error.contains(why) && !error.contains('\n'), "{error}");
        }
    }
}
