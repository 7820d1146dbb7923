//! glibc: the image's own, unless a node is missing; then the host's as a whole, if the site allows it.
//!
//! One piece of another glibc breaks the loader ("GLIBC_PRIVATE"), so pieces are never mixed. A newer glibc
//! runs what was linked to an older one; the reverse never holds.

use super::closure::{copies, Closure};
use super::loader::World;
use super::{GlibcRule, Reason, Verdict};
use crate::elf::{glibc_version, ImageFacts, Libc};
use crate::refusal::Refusal;
use crate::stack::{role_of, Library, Role, Stack};

/// For debuggers and profilers alone: many hosts have not installed them, and no program is linked to one. And
/// modules that libc itself has from 2.34 on.
const DISPENSABLE: &[&str] = &[
    "libthread_db",
    "libmemusage",
    "libpcprofile",
    "libc_malloc_debug",
    "libSegFault",
    "libnss_files",
    "libnss_dns",
];

/// Checks every node that `closure` needs of glibc. True: the whole family was added to `closure`.
pub(super) fn settle<'a>(
    image_name: &str,
    facts: &'a ImageFacts,
    world: &World<'a>,
    stack: &'a Stack,
    rule: GlibcRule,
    closure: &mut Closure<'a>,
    reasons: &mut Vec<Reason>,
) -> Result<bool, Refusal> {
    let Some((by, library, node)) = lacking(world, stack, closure) else { return Ok(false) };
    let version = match &facts.libc {
        Libc::Glibc(version) => format!("glibc {version}"),
        Libc::Musl => "musl".into(),
        Libc::None => "no glibc".into(),
    };
    let why = format!("{} needs {node} of {library}; the image has {version}", by.path);
    let verdict = if rule == GlibcRule::Never { Verdict::Conflict } else { Verdict::Note };
    reasons.push(Reason::new("glibc", verdict, why));
    let what = format!(
        "image {image_name} has {version}; {} of host stack {} needs {node}",
        by.soname(),
        stack.label()
    );
    if rule == GlibcRule::Never {
        return Err(Refusal::image(what).hint(
            "use an image with a newer glibc; or the site may allow the host's with mpi.glibc = \"auto\" in grus.toml",
        ));
    }
    let refuse = |why: String| {
        Err(Refusal::image(format!("{what}, and the host's glibc cannot take its place: {why}"))
            .hint("use an image with a newer glibc, or --container-mpi=image"))
    };
    let family: Vec<&Library> = stack.library.iter().filter(|l| l.role == Role::Glibc).collect();
    let lacks = |l: &&&Library| l.soname() == library && l.object.provides.contains(&node);
    if !family.is_empty() && !family.iter().any(|l| lacks(&l)) {
        return refuse(format!("it lacks {node} too"));
    }
    if let Err(why) = whole(facts, stack, &family, closure) {
        return refuse(why);
    }
    for library in family {
        for (path, _) in copies(facts, library, &stack.machine) {
            closure.over.insert(path, library);
        }
        closure.libraries.push(library);
    }
    reasons.push(Reason::new("glibc", Verdict::Replace, "the host's, as a whole, as the site allows"));
    closure.warnings.push(format!(
        "the container runs on the host's glibc: {}",
        by.soname().to_owned() + " needs " + &node
    ));
    Ok(true)
}

/// Whether `family` has a piece for each of the image's, and every node of it.
fn whole(
    facts: &ImageFacts,
    stack: &Stack,
    family: &[&Library],
    closure: &mut Closure,
) -> Result<(), String> {
    if !family.iter().any(|l| l.soname() == "libc.so.6") {
        return Err("the profile lists no glibc".into());
    }
    for (path, object) in facts.objects.iter().filter(|(_, o)| o.machine == stack.machine) {
        let name = object.soname.as_deref().unwrap_or_default();
        if name.is_empty() || role_of(name, object) != Role::Glibc {
            continue;
        }
        match family.iter().find(|l| l.soname() == name) {
            Some(host) => {
                // The private node is the pieces' affair among themselves, and all of them change.
                let mut public = object.provides.iter().filter(|n| *n != "GLIBC_PRIVATE");
                if let Some(node) = public.find(|n| !host.object.provides.contains(n)) {
                    return Err(format!("the image's {name} has {node}, the host's does not"));
                }
            }
            None if DISPENSABLE.iter().any(|part| name.starts_with(part)) => {}
            // An NSS module that the host lacks fails where it is opened; it is told.
            None if name.starts_with("libnss_") => {
                closure.warnings.push(format!("{path} does not work with the host's glibc"));
            }
            None => return Err(format!("the host has no {name}")),
        }
    }
    Ok(())
}

/// The first node that the image's glibc lacks: needed by whom, of which library.
fn lacking<'a>(
    world: &World<'a>,
    stack: &Stack,
    closure: &Closure<'a>,
) -> Option<(&'a Library, String, String)> {
    for by in &closure.libraries {
        for (library, nodes) in &by.object.requires {
            if !nodes.iter().any(|n| n.starts_with("GLIBC_")) {
                continue;
            }
            let Some(file) = world.plain(library, &stack.machine) else {
                let node = nodes.iter().max_by_key(|n| glibc_version(n))?;
                return Some((by, library.clone(), node.clone()));
            };
            let newest =
                nodes.iter().filter(|n| !file.object.provides.contains(n)).max_by_key(|n| glibc_version(n));
            if let Some(node) = newest {
                return Some((by, library.clone(), node.clone()));
            }
        }
    }
    None
}
