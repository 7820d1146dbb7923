//! Content digests as OCI writes them (image-spec, descriptor.md): `sha256:` and 64 lower-case hex digits.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::refusal::{printable, Refusal};

/// A sha256 digest. Other algorithms are refused: no registry in use needs them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Parses `sha256:<64 hex digits>`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let hex = text.strip_prefix("sha256:").unwrap_or("");
        if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(Self(hex.to_owned()));
        }
        Err(Refusal::user(format!("'{}' is not a digest", printable(text)))
            .hint("a digest is 'sha256:' and 64 lower-case hex digits"))
    }

    /// From the 32 bytes of a finished hash.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        use fmt::Write;
        let mut hex = String::with_capacity(64);
        for b in bytes {
            let _ = write!(hex, "{b:02x}");
        }
        Self(hex)
    }

    /// The 64 hex digits, safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as Docker shows them.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = Refusal;
    fn try_from(text: String) -> Result<Self, Refusal> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_sha256_digests_pass() {
        let good = format!("sha256:{}", "a1".repeat(32));
        assert_eq!(Digest::parse(&good).expect("well formed").to_string(), good);
        for bad in ["", "sha256:", "sha512:00", &good[..70], &good.to_uppercase(), "sha256:../../etc"] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }
}
