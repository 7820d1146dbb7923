//! containers-policy.json(5): which requirements hold for an image of a registry.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::scope::scopes;
use super::Identity;
use crate::path::AbsPath;
use crate::reference::Reference;
use crate::refusal::{printable, Refusal};

/// Largest policy file that is read, in bytes.
pub const MAX_POLICY: usize = 1 << 20;

/// A policy file. What it says of other transports than `docker` has no meaning here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    default: Vec<Requirement>,
    docker: BTreeMap<String, Vec<Requirement>>,
}

/// What holds for an image; all of it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Where in the file.
    pub scope: String,
    /// Never empty.
    pub requirements: &'a [Requirement],
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// None.
    Accept,
    /// No image can meet it.
    Reject,
    /// A simple signature by one of these OpenPGP keys.
    Openpgp(Vec<Key>, Identity),
    /// A cosign signature by one of these public keys.
    Sigstore(Vec<Key>, Identity),
    /// One that Grus cannot check, which therefore no image meets: what it wants.
    Unsupported(&'static str),
}

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// In a file.
    File(AbsPath),
    /// In the policy.
    Data(Vec<u8>),
}

impl Policy {
    /// Parses a policy file; `on` names it.
    pub fn parse(text: &[u8], on: &str) -> Result<Self, Refusal> {
        let bad = |why: String| {
            Refusal::site(format!("the signature policy {} {}", printable(on), printable(&why)))
                .hint("no image is taken before it is mended; see containers-policy.json(5)")
        };
        if text.len() > MAX_POLICY {
            return Err(bad(format!("is larger than {MAX_POLICY} bytes")));
        }
        let file: File = serde_json::from_slice(text).map_err(|e| bad(format!("is wrong: {e}")))?;
        Ok(Self {
            default: file.default.0,
            docker: file.transports.0 .0.into_iter().map(|(k, v)| (k, v.0)).collect(),
        })
    }

    /// What holds for `image`: the most specific scope alone decides.
    pub fn of(&self, image: &Reference) -> Found<'_> {
        for scope in scopes(image) {
            if let Some(requirements) = self.docker.get(&scope) {
                return Found { scope, requirements };
            }
        }
        match self.docker.get("") {
            Some(requirements) => Found { scope: "docker".into(), requirements },
            None => Found { scope: "default".into(), requirements: &self.default },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: List,
    #[serde(default)]
    transports: Transports,
}

/// At least one requirement: an empty list would accept everything by saying nothing.
struct List(Vec<Requirement>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let list: Vec<Written> = Vec::deserialize(from)?;
        if list.is_empty() {
            return Err(D::Error::custom("a list of requirements is empty"));
        }
        list.into_iter().map(Written::meaning).collect::<Result<_, _>>().map(List).map_err(D::Error::custom)
    }
}

#[derive(Default)]
struct Transports(Unique<List>);

impl<'de> Deserialize<'de> for Transports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut all: Unique<Transport> = Unique::deserialize(from)?;
        Ok(match all.0.remove("docker") {
            Some(Transport::Docker(scopes)) => Self(scopes),
            _ => Self::default(),
        })
    }
}

enum Transport {
    Docker(Unique<List>),
    Other,
}

/// An object in which no member is written twice: of two, a reader and the program might believe different ones.
struct Unique<T>(BTreeMap<String, T>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// A member's value, read by its name.
trait Member: Sized {
    fn read<'de, A: MapAccess<'de>>(name: &str, from: &mut A) -> Result<Self, A::Error>;
}

impl Member for List {
    fn read<'de, A: MapAccess<'de>>(_: &str, from: &mut A) -> Result<Self, A::Error> {
        from.next_value()
    }
}

impl Member for Transport {
    fn read<'de, A: MapAccess<'de>>(name: &str, from: &mut A) -> Result<Self, A::Error> {
        match name {
            "docker" => from.next_value().map(Self::Docker),
            _ => from.next_value::<IgnoredAny>().map(|_| Self::Other),
        }
    }
}

impl<'de, T: Member> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Member> Visitor<'de> for Members<T> {
            type Value = Unique<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = T::read(&name, &mut map)?;
                    if all.insert(name.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("'{name}' is there twice")));
                    }
                }
                Ok(Unique(all))
            }
        }
        from.deserialize_map(Members(PhantomData))
    }
}

/// A requirement in the file's words.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Written {
    InsecureAcceptAnything {},
    Reject {},
    SignedBy {
        key_type: KeyType,
        key_path: Option<String>,
        key_paths: Option<Vec<String>>,
        key_data: Option<String>,
        signed_identity: Option<Identity>,
    },
    SignedBaseLayer {
        #[serde(rename = "baseLayerIdentity")]
        _base_layer_identity: IgnoredAny,
    },
    SigstoreSigned {
        key_path: Option<String>,
        key_paths: Option<Vec<String>>,
        key_data: Option<String>,
        key_datas: Option<Vec<String>>,
        fulcio: Option<IgnoredAny>,
        pki: Option<IgnoredAny>,
        rekor_public_key_path: Option<IgnoredAny>,
        rekor_public_key_paths: Option<IgnoredAny>,
        rekor_public_key_data: Option<IgnoredAny>,
        rekor_public_key_datas: Option<IgnoredAny>,
        signed_identity: Option<Identity>,
    },
}

#[derive(Deserialize)]
enum KeyType {
    #[serde(rename = "GPGKeys")]
    Gpg,
}

impl Written {
    fn meaning(self) -> Result<Requirement, String> {
        Ok(match self {
            Self::InsecureAcceptAnything {} => Requirement::Accept,
            Self::Reject {} => Requirement::Reject,
            Self::SignedBaseLayer { .. } => Requirement::Unsupported("signed base layers (signedBaseLayer)"),
            Self::SignedBy { key_type: KeyType::Gpg, key_path, key_paths, key_data, signed_identity } => {
                let keys = keys(key_path, key_paths, key_data, None)?.ok_or_else(|| no_keys("signedBy"))?;
                Requirement::Openpgp(keys, checked(signed_identity)?)
            }
            Self::SigstoreSigned {
                key_path,
                key_paths,
                key_data,
                key_datas,
                fulcio,
                pki,
                rekor_public_key_path,
                rekor_public_key_paths,
                rekor_public_key_data,
                rekor_public_key_datas,
                signed_identity,
            } => {
                let keys = keys(key_path, key_paths, key_data, key_datas)?;
                let identity = checked(signed_identity)?;
                let rekor = [
                    rekor_public_key_path,
                    rekor_public_key_paths,
                    rekor_public_key_data,
                    rekor_public_key_datas,
                ];
                match keys {
                    _ if fulcio.is_some() => Requirement::Unsupported("signatures without a key (fulcio)"),
                    _ if pki.is_some() => Requirement::Unsupported("signatures by certificates (pki)"),
                    _ if rekor.iter().any(Option::is_some) => {
                        Requirement::Unsupported("an entry in Rekor's log")
                    }
                    None => return Err(no_keys("sigstoreSigned")),
                    Some(keys) => Requirement::Sigstore(keys, identity),
                }
            }
        })
    }
}

fn no_keys(kind: &str) -> String {
    format!("{kind} names no key (keyPath, keyPaths or keyData)")
}

fn checked(identity: Option<Identity>) -> Result<Identity, String> {
    let identity = identity.unwrap_or_default();
    identity.check().map(|()| identity)
}

/// The keys of a requirement; None if no member names any.
fn keys(
    path: Option<String>,
    paths: Option<Vec<String>>,
    data: Option<String>,
    datas: Option<Vec<String>>,
) -> Result<Option<Vec<Key>>, String> {
    let files = path.map(|path| vec![path]).into_iter().chain(paths).map(|paths| {
        let file = |path: &String| AbsPath::parse(path).map(Key::File).map_err(|e| e.what);
        paths.iter().map(file).collect::<Result<Vec<_>, _>>()
    });
    let texts = data.map(|data| vec![data]).into_iter().chain(datas).map(|datas| {
        let bytes = |text: &String| {
            STANDARD.decode(text).map(Key::Data).map_err(|e| format!("a key is not base64: {e}"))
        };
        datas.iter().map(bytes).collect::<Result<Vec<_>, _>>()
    });
    let mut all: Vec<Vec<Key>> = files.chain(texts).collect::<Result<_, _>>()?;
    match all.len() {
        0 => Ok(None),
        1 if !all[0].is_empty() => Ok(all.pop()),
        1 => Err("a list of keys is empty".into()),
        _ => {
            Err("keys are named in two ways; exactly one of keyPath, keyPaths and keyData is allowed".into())
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
