//! Owns the getting of signatures, each kind when it is first asked for: simple ones from the lookaside, cosign's from the
//! image's registry.

use std::cell::OnceCell;
use std::path::Path;

use grus_core::digest::Digest;
use grus_core::refusal::{printable, Refusal};
use grus_core::signature::Lookaside;

use crate::failure::Failure;
use crate::registry::{address, Attached, Client, Resolved, MAX_SIGNATURE, MAX_SIGNATURES};
use crate::repository::read_limited;

/// What is said of one image.
pub struct Evidence<'a> {
    client: &'a Client,
    resolved: &'a Resolved,
    digests: &'a [Digest],
    lookaside: Lookaside,
    simple: OnceCell<Vec<Vec<u8>>>,
    attached: OnceCell<Vec<Attached>>,
}

impl<'a> Evidence<'a> {
    /// Nothing is fetched yet. `digests` are those a signature may be for.
    pub fn new(
        client: &'a Client,
        resolved: &'a Resolved,
        digests: &'a [Digest],
        lookaside: Lookaside,
    ) -> Self {
        Self { client, resolved, digests, lookaside, simple: OnceCell::new(), attached: OnceCell::new() }
    }

    /// Whether there is a place for simple signatures.
    pub fn has_lookaside(&self) -> bool {
        self.lookaside.directory(&self.resolved.reference, &self.resolved.digest).is_some()
    }

    /// Whether cosign's signatures are looked for.
    pub fn looks_for_attached(&self) -> bool {
        self.lookaside.attachments(&self.resolved.reference)
    }

    /// Simple signatures: OpenPGP messages.
    pub fn simple(&self) -> Result<&[Vec<u8>], Failure> {
        if self.simple.get().is_none() {
            let mut all = vec![];
            for digest in self.digests {
                if let Some(directory) = self.lookaside.directory(&self.resolved.reference, digest) {
                    self.numbered(&directory, &mut all)?;
                }
            }
            let _ = self.simple.set(all);
        }
        Ok(self.simple.get().map_or(&[], Vec::as_slice))
    }

    /// The files signature-1, signature-2 and so on of a directory, up to the first that is missing.
    fn numbered(&self, directory: &str, all: &mut Vec<Vec<u8>>) -> Result<(), Failure> {
        for n in 1..=MAX_SIGNATURES + 1 {
            let at = format!("{directory}/signature-{n}");
            let found = match directory.strip_prefix("file://") {
                Some(_) => file(Path::new(at.trim_start_matches("file://")))?,
                None => match address(&at)? {
                    Some(url) => self.client.small_file(&url)?,
                    None => return Err(no_address(directory)),
                },
            };
            match found {
                None => return Ok(()),
                Some(_) if n > MAX_SIGNATURES => break,
                Some(signature) => all.push(signature),
            }
        }
        Err(Refusal::image(format!("{} has more than {MAX_SIGNATURES} signatures", printable(directory)))
            .hint("tell whoever keeps them")
            .into())
    }

    /// Signatures of cosign's.
    pub fn attached(&self) -> Result<&[Attached], Failure> {
        if self.attached.get().is_none() {
            let mut all = vec![];
            if self.looks_for_attached() {
                for digest in self.digests {
                    all.extend(self.client.attached(self.resolved, digest)?);
                }
            }
            let _ = self.attached.set(all);
        }
        Ok(self.attached.get().map_or(&[], Vec::as_slice))
    }
}

fn file(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match read_limited(path, MAX_SIGNATURE) {
        Ok(bytes) if bytes.len() > MAX_SIGNATURE => Err(Refusal::image(format!(
            "the signature {} is too large",
            printable(&path.display().to_string())
        ))
        .hint(format!("it may have {MAX_SIGNATURE} bytes; tell whoever keeps it"))
        .into()),
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::io("read", path, &e)),
    }
}

fn no_address(place: &str) -> Failure {
    Refusal::site(format!("'{}' is no place of signatures", printable(place)))
        .hint("a lookaside is a https:// or file:// address, see containers-registries.d(5)")
        .into()
}
