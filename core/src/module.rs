//! Modules of the site (`[module.NAME]` of grus.toml): libraries, binds and variables that containers get together, always,
//! on request, or where a device or a part of the image is there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::environment::Rules;
use crate::mount::{Mount, What};
use crate::path::AbsPath;
use crate::refusal::{nearest, printable, Refusal};
use crate::swap::Mode;

/// All modules of a site, by name.
pub type Modules = BTreeMap<ModuleName, Module>;

/// One module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Module {
    /// What it is for, in a line.
    pub about: String,
    /// When a container gets it.
    pub when: When,
    /// Devices of the node, any of which must be there.
    pub devices: Vec<AbsPath>,
    /// Paths of the image, any of which must be there.
    pub image_has: Vec<AbsPath>,
    /// Binds, in the grammar of `--mount`.
    pub binds: Vec<String>,
    /// A host stack whose libraries it brings; empty: none.
    pub libraries: String,
    /// Variables.
    pub environment: Rules,
    /// Modules that it cannot be together with.
    pub conflicts: Vec<ModuleName>,
}

/// When a container gets a module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum When {
    /// Where it was asked for.
    #[default]
    #[serde(rename = "on request")]
    OnRequest,
    /// Always.
    #[serde(rename = "always")]
    Always,
    /// On nodes with one of its devices.
    #[serde(rename = "if device present")]
    IfDevicePresent,
    /// Where the image has one of its paths.
    #[serde(rename = "if image has")]
    IfImageHas,
}

/// A name of a module: 1 to 64 letters, digits, `_`, `-` and `.`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleName(String);

/// No module but those that are named beside it.
pub const NONE: &str = "none";

/// Most modules of one request.
pub const MAX_MODULES: usize = 64;

/// What a user says of modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// Whether only these are wanted.
    pub only: bool,
    /// Their names.
    pub names: Vec<ModuleName>,
}

impl ModuleName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ModuleName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let good = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain);
        match good && text.len() <= 64 && text != NONE {
            true => Ok(Self(text)),
            false => Err(format!("'{}' is no name of a module", printable(&text))),
        }
    }
}

impl From<ModuleName> for String {
    fn from(name: ModuleName) -> String {
        name.0
    }
}

impl Asked {
    /// Parses the value of `--container-module`.
    pub fn parse(value: &str) -> Result<Self, Refusal> {
        let mut asked = Self::default();
        for word in value.split(',') {
            if word == NONE {
                asked.only = true;
                continue;
            }
            let name = ModuleName::try_from(word.to_owned()).map_err(|why| {
                Refusal::user(format!("--container-module={}: {why}", printable(value)))
                    .hint("write names of modules with commas between, or none")
            })?;
            if !asked.names.contains(&name) {
                asked.names.push(name);
            }
        }
        match asked.names.len() <= MAX_MODULES {
            true => Ok(asked),
            false => {
                Err(Refusal::user(format!("more than {MAX_MODULES} modules are asked for"))
                    .hint("ask for fewer"))
            }
        }
    }
}

/// What nodes and images have, as far as modules depend on it.
pub trait Surroundings {
    /// Whether the node has this device.
    fn device(&self, path: &AbsPath) -> bool;
    /// Whether the image has something at this path.
    fn image(&self, path: &AbsPath) -> bool;
}

/// A module that a container gets.
#[derive(Clone, Copy, Debug)]
pub struct Active<'a> {
    /// Its name.
    pub name: &'a ModuleName,
    /// What it is.
    pub module: &'a Module,
    /// Whether it was asked for: then it is had as a whole, or there is no container.
    pub asked: bool,
}

impl Module {
    /// Refuses what cannot be meant; `name` is its own.
    pub fn check(&self, name: &ModuleName) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("module.{}: {why}", name.0));
        match self.when {
            When::IfDevicePresent if self.devices.is_empty() => {
                return wrong("'if device present' needs devices")
            }
            When::IfImageHas if self.image_has.is_empty() => return wrong("'if image has' needs image-has"),
            _ => {}
        }
        if self.stack().is_some_and(|stack| !matches!(Mode::parse(stack), Ok(Mode::Stack(_)))) {
            return wrong("libraries must name a host stack");
        }
        for text in &self.binds {
            match Mount::parse(text, &AbsPath::root()) {
                Ok(mount) if matches!(mount.what, What::Bind { .. }) => {}
                Ok(_) => return wrong("only binds are possible"),
                Err(refusal) => return wrong(&refusal.what),
            }
        }
        Ok(())
    }

    /// The host stack whose libraries it brings.
    pub fn stack(&self) -> Option<&str> {
        Some(self.libraries.as_str()).filter(|stack| !stack.is_empty())
    }

    /// Its binds, parsed.
    pub fn mounts(&self) -> Vec<Mount> {
        self.binds.iter().filter_map(|text| Mount::parse(text, &AbsPath::root()).ok()).collect()
    }

    /// `unseen` is the answer where nobody can look.
    fn has_device(&self, around: Option<&dyn Surroundings>, unseen: bool) -> bool {
        let any = |around: &dyn Surroundings| self.devices.iter().any(|path| around.device(path));
        self.devices.is_empty() || around.map_or(unseen, any)
    }

    fn suits(&self, around: Option<&dyn Surroundings>, unseen: bool) -> bool {
        let any = |around: &dyn Surroundings| self.image_has.iter().any(|path| around.image(path));
        self.image_has.is_empty() || around.map_or(unseen, any)
    }
}

/// Whether a module of the site brings libraries.
pub fn bring_libraries(modules: &Modules) -> bool {
    modules.values().any(|module| module.stack().is_some())
}

/// Which modules a container gets: those asked for, in that order, then the site's own, in the order of their names. Of
/// the latter, one that does not go together with an earlier one is left out.
///
/// Submission, which knows neither node nor image, has no `around`: those asked for, and what comes by itself anywhere.
pub fn active<'a>(
    modules: &'a Modules,
    asked: Option<&Asked>,
    around: Option<&dyn Surroundings>,
) -> Result<Vec<Active<'a>>, Refusal> {
    let mut all: Vec<Active> = vec![];
    for name in asked.iter().flat_map(|asked| &asked.names) {
        let Some((name, module)) = modules.get_key_value(name) else { return Err(unknown(modules, name)) };
        if let Some(other) = all.iter().find(|other| conflict(other, name, module)) {
            return Err(Refusal::user(format!(
                "the modules {} and {} exclude each other",
                other.name.0, name.0
            ))
            .hint("ask for one of them"));
        }
        if !module.has_device(around, true) {
            return Err(lacking(
                name,
                "this node has none of its devices",
                "run on nodes that have one, or leave it out",
            ));
        }
        if !module.suits(around, true) {
            return Err(lacking(
                name,
                "the image has nothing that it is for",
                "take another image, or leave it out",
            ));
        }
        all.push(Active { name, module, asked: true });
    }
    let only = asked.is_some_and(|asked| asked.only);
    for (name, module) in modules.iter().filter(|_| !only) {
        let there = all.iter().any(|other| other.name == name || conflict(other, name, module));
        let comes = module.when != When::OnRequest;
        if comes && !there && module.has_device(around, false) && module.suits(around, false) {
            all.push(Active { name, module, asked: false });
        }
    }
    Ok(all)
}

fn conflict(other: &Active, name: &ModuleName, module: &Module) -> bool {
    module.conflicts.contains(other.name) || other.module.conflicts.contains(name)
}

fn unknown(modules: &Modules, name: &ModuleName) -> Refusal {
    let known = modules.keys().map(ModuleName::as_str);
    let hint = match (nearest(&name.0, known.clone()), modules.is_empty()) {
        (Some(near), _) => format!("did you mean '{near}'?"),
        (None, true) => "this site has none; see [module.NAME] in grus.toml(5)".into(),
        (None, false) => format!("there are: {}", known.collect::<Vec<_>>().join(", ")),
    };
    Refusal::user(format!("this site has no module '{}'", name.0)).hint(hint)
}

fn lacking(name: &ModuleName, why: &str, hint: &str) -> Refusal {
    Refusal::user(format!("the module '{}' cannot be had: {why}", name.0)).hint(hint)
}

/// Refuses modules that cannot be meant.
pub fn check(modules: &Modules) -> Result<(), String> {
    for (name, module) in modules {
        module.check(name)?;
        if let Some(other) = module.conflicts.iter().find(|other| !modules.contains_key(other)) {
            return Err(format!("module.{}: it conflicts with '{}', which is no module", name.0, other.0));
        }
    }
    Ok(())
}

/// The rules for variables: those of modules, the first above the others, and the site's own above them all.
pub fn rules(active: &[Active], site: &Rules) -> Rules {
    let mut all = Rules::default();
    for rules in active.iter().rev().map(|active| &active.module.environment).chain([site]) {
        all.set.extend(rules.set.clone());
        for (name, front) in &rules.prepend {
            let joined = all.prepend.get(name).map_or(front.clone(), |back| format!("{front}:{back}"));
            all.prepend.insert(name.clone(), joined);
        }
        for (name, back) in &rules.append {
            let joined = all.append.get(name).map_or(back.clone(), |front| format!("{front}:{back}"));
            all.append.insert(name.clone(), joined);
        }
        all.unset.extend(rules.unset.clone());
        all.keep.extend(rules.keep.clone());
    }
    all
}

#[cfg(test)]
#[path = "module_tests.rs"]
mod tests;
