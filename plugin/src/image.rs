//! The image at submission: found as the user in the user's and the system's repository, pulled once if
//! need be, and pinned, so that all nodes and all later steps run the same bytes.

use std::collections::BTreeMap;
use std::fs::File;

use grus_core::path::AbsPath;
use grus_core::platform::Platform;
use grus_core::reference::Reference;
use grus_core::repository::Layout;
use grus_core::request::{Image, PullPolicy, Request, Resolved};
use grus_core::site::{expand, Site, Who};
use grus_core::Refusal;
use grus_enter::{account, repository};

use crate::program::Program;
use crate::{abi, say};

/// Finds the image of a request that asks for one.
pub fn resolve(request: &Request, site: &Site, grus: &Program) -> Result<Option<Resolved>, Refusal> {
    match &request.image {
        None | Some(Image::None) => Ok(None),
        Some(Image::File(path)) => readable(path).map(Some),
        Some(Image::Reference(reference)) => {
            let policy = request.pull.unwrap_or(site.pull.policy);
            find_or_pull(reference, policy, &repositories(site)?, grus).map(Some)
        }
    }
}

/// A file must be there and readable by the user now; the nodes open it as the user again.
fn readable(path: &AbsPath) -> Result<Resolved, Refusal> {
    let refuse = |why: &str, hint: &str| Err(Refusal::user(format!("image {path}: {why}")).hint(hint));
    let hint = "check the path; a name from a registry is written without '/' or '.' in front";
    match File::open(path.as_path()).and_then(|file| file.metadata()) {
        Err(error) => refuse(&reason(&error), hint),
        Ok(meta) if !meta.is_file() => refuse("it is not a file", "give the path of a SquashFS file"),
        Ok(_) => Ok(Resolved { path: path.clone(), digest: None }),
    }
}

/// The system's words for an error, without Rust's ` (os error N)`.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The user's repository, then the system's.
pub fn repositories(site: &Site) -> Result<Vec<Layout>, Refusal> {
    let (uid, gid) = abi::ids();
    let user = account::user(uid, gid, &[gid])?;
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let who = Who { user: &user.name, home: &user.home, uid, environment: &environment };
    [&site.repository.user, &site.repository.system]
        .into_iter()
        .filter(|template| !template.is_empty())
        .map(|template| Ok(Layout::new(expand(template, &who)?.as_path())))
        .collect()
}

fn find_or_pull(
    reference: &Reference,
    policy: PullPolicy,
    repositories: &[Layout],
    grus: &Program,
) -> Result<Resolved, Refusal> {
    if policy != PullPolicy::Always {
        if let Some(found) = find(reference, repositories)? {
            return Ok(found);
        }
    }
    let shown = reference.familiar();
    if policy == PullPolicy::Never {
        return Err(Refusal::user(format!("image {shown} is not in {}", shown_places(repositories)))
            .hint(format!("run 'grus pull {shown}' on a login node, or pass --container-pull=missing")));
    }
    if policy == PullPolicy::Missing {
        say::note(&format!("image {shown} is in no repository, pulling it"));
    }
    grus.pull(reference)?;
    find(reference, repositories)?.ok_or_else(|| {
        Refusal::site(format!("image {shown} was pulled but is not in {}", shown_places(repositories)))
            .hint("grus and the plugin must use the same site file; tell the administrator")
    })
}

/// The image for this host's platform; else the one that was pulled for another, for the nodes are of that then.
fn find(reference: &Reference, repositories: &[Layout]) -> Result<Option<Resolved>, Refusal> {
    for layout in repositories {
        let Some(found) = repository::find(layout, reference, &Platform::here())? else { continue };
        repository::note_use(layout, reference, &Platform::here());
        return resolved(found).map(Some);
    }
    for layout in repositories {
        let Some(found) = repository::find_staged(layout, reference)? else { continue };
        repository::note_use(layout, reference, &found.meta.platform);
        say::note(&format!("image {} is here for {}", reference.familiar(), found.meta.platform));
        return resolved(found).map(Some);
    }
    Ok(None)
}

fn resolved(found: repository::Found) -> Result<Resolved, Refusal> {
    let path = AbsPath::parse(&found.path.to_string_lossy())?;
    Ok(Resolved { path, digest: Some(found.digest) })
}

fn shown_places(repositories: &[Layout]) -> String {
    let places: Vec<String> = repositories.iter().map(|r| r.root().display().to_string()).collect();
    match places.as_slice() {
        [] => "any repository, for the site has none".into(),
        [one] => format!("the repository {one}"),
        many => format!("the repositories {}", many.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> AbsPath {
        AbsPath::parse(text).expect("static")
    }

    #[test]
    fn a_file_must_be_a_readable_file() {
        assert_eq!(
            readable(&path("/nonexistent/x.sqsh")).expect_err("missing").what,
            "image /nonexistent/x.sqsh: No such file or directory"
        );
        assert_eq!(readable(&path("/tmp")).expect_err("directory").what, "image /tmp: it is not a file");
        let found = readable(&path("/proc/self/exe")).expect("a file");
        assert_eq!((found.path.as_str(), found.digest), ("/proc/self/exe", None));
    }

    #[test]
    fn a_missing_image_is_refused_with_the_place_and_the_way_out() {
        let reference = Reference::parse("ubuntu:24.04").expect("static");
        let places = [Layout::new("/nonexistent/a"), Layout::new("/nonexistent/b")];
        let refusal = find_or_pull(&reference, PullPolicy::Never, &places, &Program::none())
            .expect_err("no such repository");
        assert_eq!(
            refusal.what,
            "image ubuntu:24.04 is not in the repositories /nonexistent/a and /nonexistent/b"
        );
        assert!(refusal.hint.expect("a way out").contains("grus pull ubuntu:24.04"));
    }
}
