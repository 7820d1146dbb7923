//! Options given by the environment: `GRUS_CONTAINER_IMAGE` for `--container-image`, and so on, and Pyxis's names for
//! those that Pyxis has. A flag's variable is 1/0, true/false, yes/no or y/n; a false value means the opposite option,
//! as with Pyxis, and nothing where there is none. An empty variable says nothing.

use super::{by_name, Opt, Spec, TABLE};
use crate::refusal::{printable, Refusal};

/// Options that Pyxis has variables for (Pyxis's args.c).
const PYXIS: &[&str] = &[
    "container-image",
    "container-mounts",
    "container-workdir",
    "container-name",
    "container-save",
    "container-mount-home",
    "container-remap-root",
    "container-entrypoint",
    "container-entrypoint-log",
    "container-writable",
    "container-readonly",
    "container-env",
    "container-unshare",
];

/// An option's variable; None for the `--no-` form of another, which shares that one's.
pub fn variable(spec: &Spec) -> Option<String> {
    if spec.name.starts_with("no-") {
        return None;
    }
    let name = spec.name.strip_prefix("container-").unwrap_or(spec.name);
    Some(format!("GRUS_CONTAINER_{}", name.replace('-', "_").to_ascii_uppercase()))
}

/// Pyxis's variable for an option that it has.
pub fn pyxis_variable(spec: &Spec) -> Option<String> {
    let own = variable(spec).filter(|_| PYXIS.contains(&spec.name))?;
    Some(own.replacen("GRUS", "PYXIS", 1))
}

/// All variables of an option.
fn variables(spec: &Spec) -> Vec<String> {
    variable(spec).into_iter().chain(pyxis_variable(spec)).collect()
}

/// Every variable that gives an option.
pub fn all() -> Vec<String> {
    TABLE.iter().flat_map(variables).collect()
}

/// An option that the environment gives.
#[derive(Clone, Debug)]
pub struct Given {
    /// Which one.
    pub spec: &'static Spec,
    /// Its value; empty for a flag.
    pub value: String,
    /// The variable that gave it.
    pub variable: String,
}

/// The options that the environment gives, in the order of the table.
pub fn given(read: impl Fn(&str) -> Option<String>) -> Result<Vec<Given>, Refusal> {
    let mut given = vec![];
    for spec in TABLE {
        let said = |name: String| Some((read(&name).filter(|value| !value.is_empty())?, name));
        let mut values: Vec<(String, String)> = variables(spec).into_iter().filter_map(said).collect();
        if let [(first, a), (second, b)] = values.as_slice() {
            if first != second {
                return Err(Refusal::user(format!("{a} and {b} differ")).hint("unset one of them"));
            }
        }
        let Some((value, name)) = values.pop() else { continue };
        match spec.value {
            Some(_) => given.push(Given { spec, value, variable: name }),
            None => given.extend(flag(spec, &name, &value)?.map(|spec| Given {
                spec,
                value: String::new(),
                variable: name.clone(),
            })),
        }
    }
    Ok(given)
}

/// The option that a flag's variable stands for, if any.
fn flag(spec: &'static Spec, name: &str, value: &str) -> Result<Option<&'static Spec>, Refusal> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "y" => Ok(Some(spec)),
        "0" | "false" | "no" | "n" => Ok(match spec.opt {
            Opt::Writable => by_name("container-readonly"),
            Opt::Readonly => by_name("container-writable"),
            _ => by_name(&format!("no-{}", spec.name)),
        }),
        _ => Err(Refusal::user(format!("{name}={} is neither true nor false", printable(value)))
            .hint("use 1 or 0, or unset it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pairs: &[(&str, &str)]) -> Result<Vec<(&'static str, String)>, Refusal> {
        let read = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Ok(given(read)?.into_iter().map(|given| (given.spec.name, given.value)).collect())
    }

    #[test]
    fn both_families_of_names_are_read() {
        let found = said(&[
            ("GRUS_CONTAINER_IMAGE", "a"),
            ("GRUS_CONTAINER_MOUNT", "/x"),
            ("GRUS_CONTAINER_WRITABLE_VOLATILE", "/opt"),
            ("PYXIS_CONTAINER_MOUNTS", "/y"),
            ("PYXIS_CONTAINER_MOUNT_HOME", "no"),
            ("GRUS_CONTAINER_WRITABLE", "1"),
            ("GRUS_CONTAINER_READONLY", "0"),
            ("GRUS_CONTAINER_PULL", ""),
            ("GRUS_CONTAINER_BATCH", "0"),
        ]);
        let expected = [
            ("container-image", "a"),
            ("mount", "/x"),
            ("container-mounts", "/y"),
            ("writable-volatile", "/opt"),
            ("no-container-mount-home", ""),
            ("container-writable", ""),
            ("container-writable", ""),
        ];
        assert_eq!(found.expect("good"), expected.map(|(n, v)| (n, v.to_owned())));
    }

    #[test]
    fn not_writable_is_read_only() {
        let one = |name: &str, value: &str| said(&[(name, value)]).expect("good")[0].0;
        assert_eq!(one("PYXIS_CONTAINER_WRITABLE", "0"), "container-readonly");
        assert_eq!(one("GRUS_CONTAINER_READONLY", "no"), "container-writable");
    }

    #[test]
    fn contradictions_and_half_truths_are_refused() {
        let same = [("GRUS_CONTAINER_IMAGE", "a"), ("PYXIS_CONTAINER_IMAGE", "a")];
        assert_eq!(said(&same).expect("the same").len(), 1);
        let differ = [("GRUS_CONTAINER_IMAGE", "a"), ("PYXIS_CONTAINER_IMAGE", "b")];
        assert_eq!(
            said(&differ).expect_err("differ").what,
            "GRUS_CONTAINER_IMAGE and PYXIS_CONTAINER_IMAGE differ"
        );
        let maybe = [("PYXIS_CONTAINER_WRITABLE", "maybe")];
        assert_eq!(
            said(&maybe).expect_err("maybe").what,
            "PYXIS_CONTAINER_WRITABLE=maybe is neither true nor false"
        );
    }

    #[test]
    fn every_option_has_a_variable_of_its_own() {
        let names = all();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
