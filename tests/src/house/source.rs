//! Rules on Rust source, read as syntax: `unsafe` in three files, mounts in one crate, short functions, telling
//! names, a header on every module.

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::text::is_test;

/// Longest function, from its name to its closing brace.
const FUNCTION: usize = 60;
/// The only files with `unsafe`.
const UNSAFE: &[&str] = &["enter/src/sys/mod.rs", "enter/src/sys/spawn.rs", "plugin/src/abi.rs"];
/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"];
/// Written by a tool: build.rs checks it in, nobody edits it.
const GENERATED: &[&str] = &["plugin/src/slurm_constants.rs"];
/// Calls that change mounts or namespaces: enter/ makes them, and bench/ to know the kernel's floor.
const MOUNT_CALLS: &[&str] = &[
    "pivot_root",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "umount",
    "umount2",
    "setns",
    "unshare",
    "chroot",
];
/// Crates that may not make them.
const NO_MOUNTS: &[&str] = &["core/", "plugin/", "squash/", "helper/"];

/// Appends what the file `name` breaks.
pub fn faults(name: &str, content: &str, faults: &mut Vec<String>) -> Result<()> {
    let file = syn::parse_file(content)?;
    if !content.starts_with("//!") && !is_test(name) && !GENERATED.contains(&name) {
        faults.push(format!("{name}: no header comment that says what the module owns and refuses"));
    }
    let stem = name.rsplit('/').next().and_then(|f| f.strip_suffix(".rs")).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        faults.push(format!("{name}: the name says nothing"));
    }
    let mut reader = Reader { name, faults };
    reader.visit_file(&file);
    let tokens: TokenStream = content.parse().map_err(|e| anyhow::anyhow!("{e}"))?;
    reader.idents(tokens);
    Ok(())
}

struct Reader<'a> {
    name: &'a str,
    faults: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn fault(&mut self, line: usize, what: &str) {
        self.faults.push(format!("{}:{line}: {what}", self.name));
    }

    fn function(&mut self, name: &syn::Ident, whole: proc_macro2::Span) {
        let lines = whole.end().line - name.span().start().line + 1;
        if lines > FUNCTION {
            self.fault(name.span().start().line, &format!("fn {name} has {lines} lines, at most {FUNCTION}"));
        }
    }

    /// Keywords and names wherever they are, inside macros too, which syntax trees do not show.
    fn idents(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.idents(group.stream()),
                TokenTree::Ident(ident) => {
                    let (text, line) = (ident.to_string(), ident.span().start().line);
                    if text == "unsafe" && !UNSAFE.contains(&self.name) {
                        self.fault(line, "unsafe outside enter/src/sys/ and plugin/src/abi.rs");
                    }
                    let barred =
                        NO_MOUNTS.iter().any(|dir| self.name.starts_with(dir)) && !is_test(self.name);
                    let call = text.strip_prefix("SYS_").unwrap_or(&text);
                    if barred && MOUNT_CALLS.contains(&call) {
                        self.fault(line, &format!("{text}: only enter/ touches mounts and namespaces"));
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if EMPTY_NAMES.iter().any(|name| item.ident == name) {
            self.fault(item.ident.span().start().line, &format!("mod {}: the name says nothing", item.ident));
        }
        visit::visit_item_mod(self, item);
    }
}
