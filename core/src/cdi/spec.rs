//! One file of devices, JSON or YAML, read as hostile text.

use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::name::{is_device_name, Kind};
use super::yaml;
use crate::path::AbsPath;
use crate::refusal::printable;

/// Largest file that is read, in bytes. One of eight GPUs with all driver files has some 60 KiB.
pub const MAX_SPEC: usize = 4 << 20;

/// Versions by major and minor number.
const VERSIONS: &[(u32, u32)] = &[(0, 3), (0, 4), (0, 5), (0, 6), (0, 7), (0, 8), (1, 0), (1, 1)];

/// Points in a container's life at which hooks are asked for (OCI runtime-spec, config.md).
const HOOK_NAMES: &[&str] =
    &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The devices of one kind that a file describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Vendor and class.
    pub kind: Kind,
    /// The devices, in the file's order; at least one.
    pub devices: Vec<Device>,
    /// What any of them needs.
    pub edits: Edits,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name within the kind.
    pub name: String,
    /// What it needs.
    pub edits: Edits,
}

/// What a container needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Variables, in order.
    pub env: Vec<(String, String)>,
    /// Device nodes.
    pub nodes: Vec<Node>,
    /// Files and directories of the host.
    pub mounts: Vec<BindMount>,
    /// Programs that would be run, and are not.
    pub hooks: Vec<Hook>,
    /// Groups that the tasks must be in.
    pub gids: Vec<u32>,
    /// Fields that have no meaning here.
    pub ignored: BTreeSet<&'static str>,
}

/// A device node. Its type, numbers, mode and owner are the host's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// In the container.
    pub path: AbsPath,
    /// On the host.
    pub host: AbsPath,
}

/// A file or directory of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindMount {
    /// On the host.
    pub source: AbsPath,
    /// In the container.
    pub destination: AbsPath,
    /// With what is mounted below it.
    pub recursive: bool,
    /// Nothing in it can be written.
    pub readonly: bool,
    /// Nothing in it can be executed.
    pub noexec: bool,
    /// Device nodes do not work through it.
    pub nodev: bool,
}

/// A program that would be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program.
    pub path: AbsPath,
    /// Its arguments, its own name first.
    pub args: Vec<String>,
}

/// Parses a file; the reason why not. JSON begins with a brace; all else is YAML.
pub fn parse(file: &[u8]) -> Result<Spec, String> {
    if file.len() > MAX_SPEC {
        return Err(format!("it is larger than {MAX_SPEC} bytes"));
    }
    let text = std::str::from_utf8(file).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let raw: RawSpec = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text).map_err(|e| e.to_string()),
        false => yaml::parse(text).and_then(|tree| serde_json::from_value(tree).map_err(|e| e.to_string())),
    }
    .map_err(|e| printable(&e))?;
    raw.checked()
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSpec {
    cdi_version: Text,
    kind: String,
    #[serde(default)]
    #[allow(dead_code, reason = "a field of the specification that has no effect")]
    annotations: Option<BTreeMap<String, String>>,
    devices: Vec<RawDevice>,
    #[serde(default)]
    container_edits: Option<RawEdits>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawDevice {
    name: Text,
    #[serde(default)]
    #[allow(dead_code, reason = "a field of the specification that has no effect")]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    container_edits: Option<RawEdits>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct RawEdits {
    env: Option<Vec<String>>,
    device_nodes: Option<Vec<RawNode>>,
    net_devices: Option<de::IgnoredAny>,
    mounts: Option<Vec<RawMount>>,
    hooks: Option<Vec<RawHook>>,
    #[serde(rename = "additionalGids", alias = "additionalGIDs")]
    additional_gids: Option<Vec<Number>>,
    intel_rdt: Option<de::IgnoredAny>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "what the node itself says is checked for its form only")]
struct RawNode {
    path: String,
    host_path: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<Number>,
    minor: Option<Number>,
    file_mode: Option<Number>,
    permissions: Option<String>,
    uid: Option<Number>,
    gid: Option<Number>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawMount {
    host_path: String,
    container_path: String,
    options: Option<Vec<String>>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "hooks are never run, so their environment and patience do not matter")]
struct RawHook {
    hook_name: String,
    path: String,
    args: Option<Vec<Text>>,
    env: Option<Vec<String>>,
    timeout: Option<Number>,
}

impl RawSpec {
    fn checked(self) -> Result<Spec, String> {
        let version = &self.cdi_version.0;
        let mut numbers = version.trim_start_matches('v').split('.').map(|n| n.parse::<u32>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) if VERSIONS.contains(&(major, minor)) => {}
            _ => return Err(format!("cdiVersion '{}' is not known, 0.3 to 1.1 are", printable(version))),
        }
        if self.devices.is_empty() {
            return Err("it describes no device".into());
        }
        let mut names = BTreeSet::new();
        let mut devices = vec![];
        for device in self.devices {
            let name = device.name.0;
            if !is_device_name(&name) {
                return Err(format!("'{}' is no name of a device", printable(&name)));
            }
            if !names.insert(name.clone()) {
                return Err(format!("device '{name}' is described twice"));
            }
            let edits = device.container_edits.unwrap_or_default().checked();
            devices.push(Device { edits: edits.map_err(|e| format!("device '{name}': {e}"))?, name });
        }
        let edits = self.container_edits.unwrap_or_default().checked()?;
        Ok(Spec { kind: Kind::parse(&self.kind)?, devices, edits })
    }
}

impl RawEdits {
    fn checked(self) -> Result<Edits, String> {
        let ignored = [(self.net_devices.is_some(), "netDevices"), (self.intel_rdt.is_some(), "intelRdt")];
        Ok(Edits {
            env: self.env.into_iter().flatten().map(variable).collect::<Result<_, _>>()?,
            nodes: self.device_nodes.into_iter().flatten().map(RawNode::checked).collect::<Result<_, _>>()?,
            mounts: self.mounts.into_iter().flatten().map(RawMount::checked).collect::<Result<_, _>>()?,
            hooks: self.hooks.into_iter().flatten().map(RawHook::checked).collect::<Result<_, _>>()?,
            gids: self.additional_gids.into_iter().flatten().map(Number::id).collect::<Result<_, _>>()?,
            ignored: ignored.into_iter().filter(|(there, _)| *there).map(|(_, name)| name).collect(),
        })
    }
}

fn variable(text: String) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => Ok((name.into(), value.into())),
        _ => Err(format!("'{}' is no NAME=VALUE", printable(&text))),
    }
}

fn path(text: &str) -> Result<AbsPath, String> {
    let path = AbsPath::parse(text).map_err(|e| e.what)?;
    match path.depth() {
        0 => Err("'/' is no place for a device".into()),
        _ => Ok(path),
    }
}

impl RawNode {
    fn checked(self) -> Result<Node, String> {
        let kind = self.kind.unwrap_or_default();
        if !["", "b", "c", "u", "p"].contains(&kind.as_str()) {
            return Err(format!(
                "device node {}: there is no type '{}'",
                printable(&self.path),
                printable(&kind)
            ));
        }
        if !self.permissions.unwrap_or_default().chars().all(|c| "rwm".contains(c)) {
            return Err(format!("device node {}: permissions are of r, w and m", printable(&self.path)));
        }
        let host = self.host_path.filter(|p| !p.is_empty());
        let path_of = path(&self.path)?;
        Ok(Node { host: host.map_or(Ok(path_of.clone()), |host| path(&host))?, path: path_of })
    }
}

impl RawMount {
    fn checked(self) -> Result<BindMount, String> {
        let destination = path(&self.container_path)?;
        let options = self.options.unwrap_or_default();
        let kind = self.kind.unwrap_or_default();
        if !["", "none", "bind"].contains(&kind.as_str()) {
            return Err(format!("mount on {destination}: type '{}' is not taken, bind is", printable(&kind)));
        }
        let has = |name: &str| options.iter().any(|o| o == name);
        Ok(BindMount {
            source: path(&self.host_path)?,
            destination,
            recursive: has("rbind") || !has("bind"),
            readonly: has("ro"),
            noexec: has("noexec"),
            nodev: has("nodev"),
        })
    }
}

impl RawHook {
    fn checked(self) -> Result<Hook, String> {
        if !HOOK_NAMES.contains(&self.hook_name.as_str()) {
            return Err(format!("there is no hook '{}'", printable(&self.hook_name)));
        }
        let args = self.args.into_iter().flatten().map(|arg| arg.0).collect();
        Ok(Hook { path: path(&self.path)?, args })
    }
}

/// Text, also where YAML's rules or a careless generator make a number of it.
struct Text(String);

/// A number, also as the text of one; octal where it begins like that, as YAML has modes.
struct Number(i64);

impl Number {
    fn id(self) -> Result<u32, String> {
        u32::try_from(self.0).map_err(|_| format!("{} is no group", self.0))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.into()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
        }
        from.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Number, E> {
                i64::try_from(number).map(Number).map_err(|_| E::custom("a number is too large"))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                let octal =
                    text.strip_prefix("0o").or(text.strip_prefix('0').filter(|rest| !rest.is_empty()));
                let number = octal.map_or_else(|| text.parse(), |digits| i64::from_str_radix(digits, 8));
                number.map(Number).map_err(|_| E::custom(format!("'{}' is no whole number", printable(text))))
            }
        }
        from.deserialize_any(Any)
    }
}
