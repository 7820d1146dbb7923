//! A profile as text: what `grus host scan` writes and people edit. Long lists are wrapped.

use std::fmt::Write;
use toml::Value;

use super::{Stack, Variables};
use crate::site::wrapped;

impl Stack {
    /// The profile's file.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        self.head(&mut out);
        for mpi in &self.mpi {
            let words: Vec<&str> = mpi.pmi.iter().map(|p| p.word()).collect();
            let family = format!("{:?}", mpi.family).to_lowercase();
            line(&mut out, "\n[[mpi]]");
            line(&mut out, format!("family = {}", quoted(&family)));
            line(&mut out, format!("version = {}", quoted(&mpi.version)));
            list(&mut out, "pmi", words);
        }
        for extra in &self.path {
            line(&mut out, "\n[[path]]");
            line(&mut out, format!("path = {}", quoted(extra.path.as_str())));
            line(&mut out, format!("with = {}", quoted(&format!("{:?}", extra.with).to_lowercase())));
            for (name, on) in [("replace", extra.replace), ("optional", extra.optional)] {
                if on {
                    line(&mut out, format!("{name} = true"));
                }
            }
        }
        variables(&mut out, &self.environment);
        for library in &self.library {
            self.library(&mut out, library);
        }
        out
    }

    fn head(&self, out: &mut String) {
        line(
            out,
            "# A host stack of Grus: libraries that replace an image's own. See HOST STACKS in grus.toml(5).",
        );
        line(out, format!("format = {}", self.format));
        if !self.description.is_empty() {
            line(out, format!("description = {}", quoted(&self.description)));
        }
        if self.example {
            line(
                out,
                "# An example shows the format and is never used: write your own with 'grus host scan'.",
            );
            line(out, "example = true");
        }
        line(out, format!("machine = {}", quoted(&self.machine)));
        if !self.devices.is_empty() {
            list(out, "devices", self.devices.iter().map(|d| d.as_str()));
        }
    }

    fn library(&self, out: &mut String, library: &super::Library) {
        let object = &library.object;
        line(out, "\n[[library]]");
        line(out, format!("path = {}", quoted(library.path.as_str())));
        line(out, format!("role = {}", quoted(&format!("{:?}", library.role).to_lowercase())));
        if let Some(soname) = &object.soname {
            line(out, format!("soname = {}", quoted(soname)));
        }
        // glibc's own libraries are programs as well.
        if let Some(interpreter) = &object.interpreter {
            line(out, format!("interpreter = {}", quoted(interpreter)));
        }
        if object.kind == crate::elf::Kind::Program {
            line(out, "kind = \"program\"");
        }
        let lists = [
            ("needed", &object.needed),
            ("rpath", &object.rpath),
            ("runpath", &object.runpath),
            ("provides", &object.provides),
        ];
        for (name, values) in lists {
            if !values.is_empty() {
                list(out, name, values.iter().map(String::as_str));
            }
        }
        if object.no_default_dirs {
            line(out, "no_default_dirs = true");
        }
        for (of, nodes) in &object.requires {
            list(out, &format!("requires.{}", quoted(of)), nodes.iter().map(String::as_str));
        }
        words(out, "data", &object.data.words());
        words(out, "exports", &object.exports.words());
        words(out, "imports", &object.imports.words());
        words(out, "weak", &object.weak.words());
    }
}

fn line(out: &mut String, text: impl AsRef<str>) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{}", text.as_ref());
}

/// A TOML string.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn list<'a>(out: &mut String, name: &str, values: impl IntoIterator<Item = &'a str>) {
    let values: Vec<String> = values.into_iter().map(quoted).collect();
    let short = format!("{name} = [{}]", values.join(", "));
    if short.len() <= 100 {
        return line(out, short);
    }
    line(out, format!("{name} = ["));
    let mut row = String::new();
    for value in values {
        if row.len() + value.len() > 94 {
            line(out, format!("   {row}"));
            row.clear();
        }
        row.push_str(&format!(" {value},"));
    }
    line(out, format!("   {row}"));
    line(out, "]");
}

fn words(out: &mut String, name: &str, words: &[String]) {
    if words.is_empty() {
        return;
    }
    let words = words.join(" ");
    // A symbol may have any name, also one that a literal string cannot hold.
    if words.contains("'''") || words.contains(char::is_control) {
        return line(out, format!("{name} = {}", quoted(&words)));
    }
    line(out, format!("{name} = '''"));
    for row in wrapped(&words, 98) {
        line(out, row);
    }
    line(out, "'''");
}

fn variables(out: &mut String, variables: &Variables) {
    let parts = [("set", &variables.set), ("default", &variables.default), ("prepend", &variables.prepend)];
    for (part, values) in parts.into_iter().filter(|(_, v)| !v.is_empty()) {
        line(out, format!("\n[environment.{part}]"));
        for (name, value) in values {
            line(out, format!("{name} = {}", quoted(value)));
        }
    }
}
