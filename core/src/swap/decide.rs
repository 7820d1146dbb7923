//! Through modes and stacks to a decision.

use std::collections::BTreeSet;

use super::closure::{copies, Collect};
use super::family::{part, provider_family, Part};
use super::judge::{usual_name, Judge, Match};
use super::place::place;
use super::proof::Proof;
use super::survey::{name_of, survey, Group, Survey};
use super::{glibc, Decision, Extent, InUse, Mode, Question, Reason, Swap, Trial, Verdict};
use crate::elf::{ImageFacts, Libc, Object};
use crate::path::AbsPath;
use crate::refusal::{nearest, printable, Refusal};
use crate::stack::{Library, Role, Stack};

const FABRIC: &str = "libfabric.so.1";

/// Decides what of the host a container gets.
pub fn decide(q: &Question) -> Decision {
    let survey = survey(q.image, q.library_path);
    let found = survey.groups.iter().map(Group::found).collect();
    let mut trials = vec![];
    let (result, swapped) = match choose(q, &survey, &mut trials) {
        Ok((swap, stack)) => (Ok(swap), stack),
        Err(refusal) => (Err(refusal), None),
    };
    let in_use = survey.groups.iter().map(|g| in_use(g, swapped)).collect();
    Decision { result, found, in_use, trials }
}

fn in_use(group: &Group, swapped: Option<&Stack>) -> InUse {
    match swapped.and_then(|s| Some((s, s.mpi_of(group.family)?))) {
        Some((_, mpi)) => InUse { label: mpi.version.clone(), pmi: mpi.pmi.clone() },
        None => InUse { label: group.label(), pmi: group.pmi() },
    }
}

/// A swap, and the stack whose MPI it brings.
type Choice<'a> = (Swap, Option<&'a Stack>);

fn choose<'a>(q: &Question<'a>, survey: &Survey<'a>, trials: &mut Vec<Trial>) -> Result<Choice<'a>, Refusal> {
    let Some(first) = q.first.filter(|_| replaceable(q.image, survey)) else {
        return by_mode(q, survey, trials);
    };
    let tried = named(q.stacks, &first.stack).and_then(|stack| {
        let extent = extent_of(stack);
        let swap = attempt(q, survey, stack, extent, trials)?;
        Ok((swap, (extent == Extent::Mpi).then_some(stack)))
    });
    tried.or_else(|why| {
        let (mut swap, stack) = by_mode(q, survey, trials)?;
        swap.warnings.insert(0, format!("the module '{}' is left out: {why}", first.module.as_str()));
        Ok((swap, stack))
    })
}

/// Whether the image has an MPI or a libfabric.
fn replaceable(image: &ImageFacts, survey: &Survey) -> bool {
    let fabric = |(path, o): (&AbsPath, &Object)| o.soname.as_deref().unwrap_or(name_of(path)) == FABRIC;
    !survey.groups.is_empty() || !survey.linked_in.is_empty() || image.objects.iter().any(fabric)
}

/// What a stack is for that is named.
fn extent_of(stack: &Stack) -> Extent {
    match stack.mpi.is_empty() {
        true => Extent::Fabric,
        false => Extent::Mpi,
    }
}

fn by_mode<'a>(
    q: &Question<'a>,
    survey: &Survey<'a>,
    trials: &mut Vec<Trial>,
) -> Result<Choice<'a>, Refusal> {
    let nothing = |warnings| Ok((Swap { warnings, ..Swap::default() }, None));
    let usable = |s: &&Stack| !s.example;
    let stacks: Vec<&'a Stack> = match q.mode {
        Mode::Image => return nothing(vec![]),
        Mode::Stack(name) => vec![named(q.stacks, name)?],
        Mode::Host => q.stacks.iter().filter(usable).filter(|s| !s.mpi.is_empty()).collect(),
        _ => q.stacks.iter().filter(usable).collect(),
    };
    if *q.mode == Mode::Auto && survey.groups.is_empty() && survey.linked_in.is_empty() {
        return nothing(vec![]);
    }
    if stacks.is_empty() {
        return match q.mode {
            Mode::Auto => nothing(vec![]),
            _ => Err(Refusal::site("this site has no host MPI stack for containers")
                .hint("use --container-mpi=image, or ask the administrator to run 'grus host scan'")),
        };
    }
    let mut first: Option<Refusal> = None;
    let extents: &[Extent] = match q.mode {
        Mode::Fabric => &[Extent::Fabric],
        Mode::Auto => &[Extent::Mpi, Extent::Fabric],
        Mode::Stack(_) => &[extent_of(stacks[0])],
        _ => &[Extent::Mpi],
    };
    for extent in extents {
        // A stack without an MPI brings a fabric alone.
        for stack in stacks.iter().filter(|s| *extent == Extent::Fabric || !s.mpi.is_empty()) {
            match attempt(q, survey, stack, *extent, trials) {
                Ok(mut swap) => {
                    // Who asked for libfabric alone knows that the image's own MPI runs.
                    if let (Extent::Fabric, Mode::Auto, Some(why)) = (*extent, q.mode, &first) {
                        swap.warnings
                            .insert(0, format!("the image's own MPI runs, on the host's libfabric: {why}"));
                    }
                    return Ok((swap, (*extent == Extent::Mpi).then_some(*stack)));
                }
                Err(refusal) => first = Some(prefer(first, refusal, survey, stack)),
            }
        }
    }
    let refusal = first.unwrap_or_else(|| Refusal::site("no host stack was tried"));
    if *q.mode == Mode::Auto {
        return nothing(vec![format!("the image's own MPI runs, without the host's fabric: {refusal}")]);
    }
    Err(refusal)
}

/// Of several refusals, that of a stack with the image's own family says most; else the first.
fn prefer(first: Option<Refusal>, next: Refusal, survey: &Survey, stack: &Stack) -> Refusal {
    let same = survey.groups.iter().any(|g| stack.mpi_of(g.family).is_some());
    match first {
        None => next,
        Some(first) if same && first.what.contains("one cannot stand for the other") => next,
        Some(first) => first,
    }
}

fn named<'a>(stacks: &'a [Stack], name: &str) -> Result<&'a Stack, Refusal> {
    let known = || stacks.iter().filter(|s| !s.example).map(|s| s.name.as_str());
    match stacks.iter().find(|s| s.name == name) {
        Some(stack) if stack.example => Err(Refusal::site(format!(
            "host stack '{}' is a shipped example, not this host",
            printable(name)
        ))
        .hint("the administrator writes a real one with 'grus host scan'")),
        Some(stack) => Ok(stack),
        None => {
            let all = known().collect::<Vec<_>>().join(", ");
            let hint = match nearest(name, known().chain(["auto", "host", "image", "fabric"])) {
                Some(near) => format!("did you mean '{near}'?"),
                None if all.is_empty() => "this site has none; use auto or image".into(),
                None => format!("this site has {all}"),
            };
            Err(Refusal::user(format!("there is no host stack '{}'", printable(name))).hint(hint))
        }
    }
}

/// Tries one stack and keeps a record of it.
fn attempt<'a>(
    q: &Question<'a>,
    survey: &Survey<'a>,
    stack: &'a Stack,
    extent: Extent,
    trials: &mut Vec<Trial>,
) -> Result<Swap, Refusal> {
    let mut reasons = vec![];
    let result = match extent {
        Extent::Fabric => fabric(q, survey, stack, &mut reasons),
        _ => mpi(q, survey, stack, &mut reasons),
    };
    let refused = result.as_ref().err().map(|r| r.what.clone());
    trials.push(Trial { stack: stack.name.clone(), extent, refused, reasons });
    result
}

/// What no host library can be put into.
fn possible(q: &Question, survey: &Survey, stack: &Stack) -> Result<(), Refusal> {
    let refuse = |what: String, hint: &str| Err(Refusal::image(what).hint(hint));
    let keep = "--container-mpi=image runs the image's own MPI";
    if q.image.truncated || survey.world.exhausted() {
        return refuse(format!("image {} has more libraries than can be judged", q.image_name), keep);
    }
    if let Some(what) = on_musl(q, survey) {
        return refuse(
            format!("{what} is built on musl; the libraries of host stack {} need glibc", stack.label()),
            "use an image on glibc (Debian, Ubuntu, Rocky …), or --container-mpi=image",
        );
    }
    if survey.machine != stack.machine && !survey.machine.is_empty() {
        return refuse(
            format!(
                "image {} is for {}, host stack {} for {}",
                q.image_name,
                survey.machine,
                stack.label(),
                stack.machine
            ),
            keep,
        );
    }
    if survey.groups.is_empty() {
        if let Some(program) = survey.linked_in.first() {
            return refuse(
                format!(
                    "image {}: {program} has its MPI linked in statically; nothing can replace it",
                    q.image_name
                ),
                "link the program to a shared MPI, or use --container-mpi=image",
            );
        }
    }
    Ok(())
}

/// What of the image is for musl's loader. Both C libraries may be there: then its users of MPI tell.
fn on_musl(q: &Question, survey: &Survey) -> Option<String> {
    if q.image.libc == Libc::Musl {
        return Some(format!("image {}", q.image_name));
    }
    let mut users = survey.groups.iter().flat_map(|g| &g.users);
    users.find(|(_, o)| o.is_musl()).map(|(user, _)| format!("image {}: {user}", q.image_name))
}

fn mpi<'a>(
    q: &Question<'a>,
    survey: &Survey<'a>,
    stack: &'a Stack,
    reasons: &mut Vec<Reason>,
) -> Result<Swap, Refusal> {
    possible(q, survey, stack)?;
    let mut all = Match::default();
    let mut users = BTreeSet::new();
    let mut foreign = None;
    // An MPI that the image has counts; one that it merely could use (mpi4py's other halves) comes second.
    let has_own = |g: &Group| g.providers().next().is_some();
    let any_own = survey.groups.iter().any(has_own);
    // Of several, those that are used: MPICH 5 brings a second MPI, the standard ABI, that most images never touch.
    let counted = |g: &Group| has_own(g) || !any_own;
    let any_used = survey.groups.iter().any(|g| counted(g) && !g.users.is_empty());
    let mut served = false;
    let fabric = stack.library_named(FABRIC).is_some_and(|l| !copies(q.image, l, &stack.machine).is_empty());
    for group in &survey.groups {
        let judged = Judge { image_name: q.image_name, survey, stack, fabric, reasons }.judge(group);
        // A group of another family is left alone as long as the stack serves one.
        if stack.mpi_of(group.family).is_none() {
            let counts = !group.users.is_empty() && counted(group);
            foreign = if counts { judged.err().or(foreign) } else { foreign.or(judged.err()) };
            let why = format!("host stack {} has none; the image's own stays", stack.label());
            reasons.push(Reason::new(group.label(), Verdict::Note, why));
            continue;
        }
        let found = match judged {
            Err(_) if any_own && !has_own(group) => continue,
            judged => judged?,
        };
        served |= counted(group) && (!any_used || !group.users.is_empty());
        users.extend(group.users.keys().copied());
        all.pairs.extend(found.pairs);
        all.roots.extend(found.roots);
        all.names.extend(found.names);
        all.warnings.extend(found.warnings);
    }
    if !served {
        if let Some(refusal) = foreign {
            return Err(refusal);
        }
        all.roots = whole(stack);
        let usual = |l: &&'a Library| usual_name(provider_family(l.soname(), &l.object)?, l);
        all.names = all.roots.iter().filter_map(usual).collect();
        reasons.push(Reason::new(
            stack.name.as_str(),
            Verdict::Note,
            "the image has no MPI; the host's is added",
        ));
    }
    for program in &survey.linked_in {
        all.warnings.push(format!("{program} has its MPI linked in statically and keeps it"));
    }
    // Verbs providers and UCX modules are opened, not linked; Intel MPI opens its libfabric, too.
    let opened = |l: &&Library| matches!(l.role, Role::Plugin | Role::Fabric | Role::Pmi);
    all.opened = stack.library.iter().filter(opened).collect();
    finish(q, survey, stack, Extent::Mpi, all, users, reasons)
}

/// Every MPI library of a stack that a program may be linked to.
fn whole(stack: &Stack) -> Vec<&Library> {
    let public = |l: &&Library| {
        let part = part(l.soname(), &l.object);
        provider_family(l.soname(), &l.object).is_some() || part.is_some_and(|p| p != Part::Private)
    };
    stack.library.iter().filter(|l| l.role == Role::Mpi).filter(public).collect()
}

/// The image's MPI on the host's libfabric.
fn fabric<'a>(
    q: &Question<'a>,
    survey: &Survey<'a>,
    stack: &'a Stack,
    reasons: &mut Vec<Reason>,
) -> Result<Swap, Refusal> {
    possible(q, survey, stack)?;
    let keep = "--container-mpi=image runs the image as it is";
    let Some(library) = stack.library_named(FABRIC) else {
        return Err(Refusal::site(format!("host stack {} has no libfabric", stack.label())).hint(keep));
    };
    let copies = copies(q.image, library, &stack.machine);
    // Who names a stack wants it: programs may bring what needs it (NCCL's plugin for libfabric).
    let added = copies.is_empty() && *q.mode == Mode::Stack(stack.name.clone());
    if added {
        let why = format!("{} of the host; the image has none", library.path);
        reasons.push(Reason::new(FABRIC, Verdict::Add, why));
    } else if copies.is_empty() {
        return Err(Refusal::image(format!("image {} has no libfabric to replace", q.image_name)).hint(keep));
    }
    for (path, object) in &copies {
        if let Some(node) = object.provides.iter().find(|n| !library.object.provides.contains(n)) {
            let what = format!(
                "image {}: {path} has {node}, which the older libfabric of host stack {} lacks",
                q.image_name,
                stack.label()
            );
            return Err(Refusal::image(what).hint(keep));
        }
        reasons.push(Reason::new(
            path.as_str(),
            Verdict::Replace,
            format!("libfabric: {} of the host", library.path),
        ));
    }
    let mut all = Match { roots: vec![library], ..Match::default() };
    let provider = |l: &Library| l.role == Role::Plugin && l.file_name().ends_with("-fi.so");
    let verbs = |l: &Library| l.object.needed.iter().any(|n| n.starts_with("libibverbs.so"));
    // libibverbs loads the providers of its own release only.
    let verbs = stack.library.iter().any(|l| (l.soname() == FABRIC || provider(l)) && verbs(l));
    let opened =
        |l: &&Library| provider(l) || verbs && l.role == Role::Plugin && l.file_name().contains("-rdmav");
    all.opened = stack.library.iter().filter(opened).collect();
    finish(q, survey, stack, Extent::Fabric, all, BTreeSet::new(), reasons)
}

/// Closure, glibc, placement and proof: the same for both extents.
fn finish<'a>(
    q: &Question<'a>,
    survey: &Survey<'a>,
    stack: &'a Stack,
    extent: Extent,
    all: Match<'a>,
    users: BTreeSet<&'a AbsPath>,
    reasons: &mut Vec<Reason>,
) -> Result<Swap, Refusal> {
    let replaced = all.pairs.iter().map(|(path, _)| *path).collect();
    let (image_name, facts) = (q.image_name, q.image);
    let collect = &mut Collect { image_name, facts, survey, stack, replaced, extent, reasons };
    let mut closure = collect.closure(&all.roots, &all.opened)?;
    closure.over.extend(all.pairs.iter().copied());
    closure.outgrown(q.image);
    let glibc = glibc::settle(q.image_name, q.image, &survey.world, stack, q.glibc, &mut closure, reasons)?;
    let mut placed = place(q, stack, extent, &closure, &all.names, glibc)?;
    let proof = Proof { image_name: q.image_name, facts: q.image, stack, survey, placed: &placed, users };
    placed.swap.check = proof.prove(&closure.libraries)?;
    placed.swap.warnings.extend(all.warnings);
    Ok(placed.swap)
}
