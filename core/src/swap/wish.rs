//! Whose libraries a container gets: what the user says, the site's modules that bring a host stack, and the site's
//! default, put together in one way for submission, nodes and tools.

use serde::{Deserialize, Serialize};

use super::Mode;
use crate::module::{Active, ModuleName};
use crate::refusal::{printable, Refusal};

/// What is wanted of the host's libraries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// What decides.
    pub mode: Mode,
    /// Before it, a stack that a module brings which came by itself.
    pub first: Option<Brought>,
    /// The module that was asked for and whose stack `mode` is.
    asked: Option<ModuleName>,
}

/// A host stack that a module brings. As text: `MODULE=STACK`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Brought {
    /// The module.
    pub module: ModuleName,
    /// The stack.
    pub stack: String,
}

impl Wish {
    /// Of `--container-mpi`, the site's `default`, and the modules that a container gets.
    ///
    /// A module that was asked for is obeyed, also where it contradicts the site; to contradict the user is an error.
    /// One that came by itself is tried where nobody has said anything.
    pub fn of(said: Option<&Mode>, default: &Mode, modules: &[Active]) -> Result<Self, Refusal> {
        let mut wish = Self::from(said.unwrap_or(default).clone());
        let open = said.is_none_or(|mode| *mode == Mode::Auto);
        for active in modules {
            let Some(stack) = active.module.stack() else { continue };
            let theirs = Mode::Stack(stack.to_owned());
            match (active.asked, &wish.asked) {
                (true, _) if wish.mode == theirs => wish.asked = Some(active.name.clone()),
                (true, Some(other)) => {
                    return Err(Refusal::user(format!(
                        "the modules '{}' and '{}' bring different host stacks, '{}' and '{stack}'",
                        other.as_str(),
                        active.name.as_str(),
                        wish.mode
                    ))
                    .hint("ask for one of them"));
                }
                (true, None) if !open => {
                    return Err(Refusal::user(format!(
                        "the module '{}' brings host stack '{stack}', and --container-mpi={} contradicts it",
                        active.name.as_str(),
                        printable(&wish.mode.to_string())
                    ))
                    .hint("leave one of them out"));
                }
                (true, None) => {
                    (wish.mode, wish.asked) = (theirs, Some(active.name.clone()));
                }
                (false, None) if open && wish.first.is_none() && wish.mode != theirs => {
                    wish.first = Some(Brought { module: active.name.clone(), stack: stack.to_owned() });
                }
                (false, _) => {}
            }
        }
        Ok(wish)
    }

    /// With `first` before it.
    pub fn after(self, first: Option<Brought>) -> Self {
        Self { first, ..self }
    }

    /// Whether the image's own libraries are what is wanted.
    pub fn is_image(&self) -> bool {
        self.mode == Mode::Image && self.first.is_none()
    }

    /// Whether nothing is asked for where the host has nothing.
    pub fn is_auto(&self) -> bool {
        self.mode == Mode::Auto && self.first.is_none()
    }

    /// A refusal of the swap as one of the module that asks for it.
    pub fn told(&self, refusal: Refusal) -> Refusal {
        let Some(module) = &self.asked else { return refusal };
        let hint = format!(
            "leave it out, take another image, or ask the administrator; 'grus explain IMAGE --stack {}' shows each library",
            self.mode
        );
        let what = format!("the module '{}' cannot be had: {}", module.as_str(), refusal.what);
        Refusal { what, hint: Some(hint), ..refusal }
    }
}

impl From<Mode> for Wish {
    fn from(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }
}

impl Brought {
    /// Parses `MODULE=STACK`.
    pub fn parse(text: &str) -> Option<Self> {
        let (module, stack) = text.split_once('=')?;
        Some(Self { module: module.to_owned().try_into().ok()?, stack: stack.into() })
    }
}

impl std::fmt::Display for Brought {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.module.as_str(), self.stack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Modules;

    const MODULES: &str = r#"
        a = { libraries = "cxi" }
        b = { libraries = "verbs" }
        c = { libraries = "cxi" }
        plain = {}
    "#;

    /// The wish with these modules, those with a `!` asked for.
    fn wish(said: Option<&str>, default: &str, active: &str) -> Result<Wish, Refusal> {
        let modules: Modules = toml::from_str(MODULES).expect("well formed");
        let active: Vec<Active> = active
            .split_whitespace()
            .map(|word| {
                let name = ModuleName::try_from(word.trim_end_matches('!').to_owned()).expect("a name");
                let (name, module) = modules.get_key_value(&name).expect("a module");
                Active { name, module, asked: word.ends_with('!') }
            })
            .collect();
        let said = said.map(Mode::parse).transpose()?;
        Wish::of(said.as_ref(), &Mode::parse(default)?, &active)
    }

    #[test]
    fn users_come_first_then_modules_asked_for_then_those_by_themselves_then_the_site() {
        for (said, default, active, mode, first) in [
            (None, "auto", "", "auto", None),
            (None, "host", "plain", "host", None),
            (None, "auto", "a", "auto", Some("a=cxi")),
            (None, "image", "a b", "image", Some("a=cxi")),
            (None, "cxi", "a", "cxi", None),
            (None, "image", "b! a", "verbs", None),
            (None, "auto", "a! c!", "cxi", None),
            (Some("auto"), "image", "plain! a", "auto", Some("a=cxi")),
            (Some("auto"), "image", "a!", "cxi", None),
            (Some("cxi"), "image", "a! b", "cxi", None),
            (Some("image"), "auto", "a", "image", None),
            (Some("host"), "auto", "a", "host", None),
        ] {
            let wish = wish(said, default, active).expect("no contradiction");
            let shown = (wish.mode.to_string(), wish.first.as_ref().map(Brought::to_string));
            assert_eq!((shown.0.as_str(), shown.1.as_deref()), (mode, first), "{said:?} {default} {active}");
            assert_eq!(wish.first.as_ref().and_then(|first| Brought::parse(&first.to_string())), wish.first);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let of = |said, active| wish(said, "auto", active).expect_err("a contradiction").what;
        assert_eq!(
            of(Some("image"), "a!"),
            "the module 'a' brings host stack 'cxi', and --container-mpi=image contradicts it"
        );
        assert!(of(Some("verbs"), "plain! a!").contains("--container-mpi=verbs contradicts it"));
        assert_eq!(
            of(None, "a! b!"),
            "the modules 'a' and 'b' bring different host stacks, 'cxi' and 'verbs'"
        );
    }

    #[test]
    fn a_refusal_is_that_of_the_module_that_was_asked_for() {
        let why = || Refusal::image("image app:1 has no libfabric").hint("--container-mpi=image");
        let told = wish(None, "auto", "a!").expect("good").told(why());
        assert_eq!(told.what, "the module 'a' cannot be had: image app:1 has no libfabric");
        assert!(told.hint.is_some_and(|hint| hint.contains("grus explain IMAGE --stack cxi")));
        assert_eq!(wish(None, "cxi", "a").expect("good").told(why()), why());
    }
}
