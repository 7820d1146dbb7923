//! The site's modules in `grus explain`: which an image gets on this host, and whether their libraries fit.

use std::collections::BTreeMap;

use grus_core::module::bring_libraries;
use grus_core::plan::{standings, Standing};
use grus_core::refusal::{printable, Refusal};
use grus_core::request::Request;
use grus_core::swap::{decide, Decision, Mode, Wish};
use serde::Serialize;

use super::libraries::{profiles, Looked};
use super::plan::OwnView;
use crate::context::Context;
use crate::failure::Failure;

/// A module, with its libraries judged.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    #[serde(flatten)]
    standing: Standing,
    /// Why its libraries do not fit.
    unfit: Option<String>,
}

/// Judges each module of the site. `decision` is what was decided with those that come.
pub(super) fn judge(
    context: &Context,
    request: &Request,
    looked: &Looked,
    decision: &Decision,
) -> Result<Vec<Judged>, Failure> {
    let all = standings(request, &context.site, looked.tree(), &OwnView)?;
    let stacks = match bring_libraries(&context.site.module) {
        true => profiles(&context.stacks_dir())?.parse()?,
        false => vec![],
    };
    let mut refusals: BTreeMap<&str, Option<Refusal>> = BTreeMap::new();
    for stack in all.iter().filter_map(|standing| standing.stack.as_deref()) {
        let alone = Wish::from(Mode::Stack(stack.to_owned()));
        refusals.entry(stack).or_insert_with(|| looked.ask(context, &stacks, &alone, decide).result.err());
    }
    let used = decision.result.as_ref().map_or("", |swap| swap.stack.as_str());
    let judged = |standing: &Standing| {
        let mut standing = standing.clone();
        let refusal = standing.stack.as_deref().and_then(|stack| refusals.get(stack)?.as_ref());
        let asked =
            request.modules.iter().flat_map(|asked| &asked.names).any(|n| n.as_str() == standing.name);
        let without = standing.stack.as_deref().is_some_and(|stack| stack != used);
        if standing.comes && without && !asked && decision.result.is_ok() {
            standing.comes = false;
            standing.why = match refusal {
                Some(_) => "its libraries do not fit",
                None => "another choice of libraries comes first, or the image has none to replace",
            }
            .into();
        }
        Judged { unfit: refusal.map(|why| why.what.clone()), standing }
    };
    Ok(all.iter().map(judged).collect())
}

/// For people.
pub(super) fn shown(modules: &[Judged]) -> String {
    if modules.is_empty() {
        return String::new();
    }
    let mut text = "\nModules of this site:\n".to_owned();
    for Judged { standing, unfit } in modules {
        let comes = if standing.comes { "comes" } else { "stays out" };
        text.push_str(&format!("  {:20} {comes}: {}\n", standing.name, printable(&standing.why)));
        if let Some(stack) = &standing.stack {
            let fits = match unfit {
                None => "fit".to_owned(),
                Some(why) => format!("do not fit: {}", printable(why)),
            };
            text.push_str(&format!("    the libraries of host stack '{}' {fits}\n", printable(stack)));
        }
        for path in &standing.missing {
            text.push_str(&format!("    not on this host: {path}\n"));
        }
    }
    text
}
