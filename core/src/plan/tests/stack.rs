//! Libraries of a host stack in plans.

use super::*;
use crate::swap::{Check, Extent, ExtraBind};

/// A stack with one library over the image's, one new, one directory and one that only some nodes have.
pub(super) fn swap() -> Swap {
    let extra =
        |at: &str, to: &str, optional| ExtraBind { source: path(at), destination: path(to), optional };
    let (mpi, cxi) = (path("/opt/mpi/libmpi.so.12.4"), path("/run/grus/host/usr/lib/libcxi.so.1"));
    Swap {
        extent: Extent::Mpi,
        stack: "cray".into(),
        machine: "x86_64".into(),
        over: [(path("/usr/lib/libmpi.so.12.1"), mpi.clone())].into(),
        links: [("libmpi.so.12".to_owned(), mpi.clone()), ("libcxi.so.1".to_owned(), cxi)].into(),
        needs: [mpi, path("/usr/lib/libcxi.so.1")].into(),
        cached: vec!["libcxi.so.1".into(), "libmpi.so.12".into()],
        library_path: Some(path("/run/grus/lib")),
        extras: vec![
            extra("/opt/mpi", "/opt/mpi", false),
            extra("/opt/missing", "/opt/missing", true),
            extra("/usr/lib/ucx", "/usr/lib/ucx", false),
            extra("/usr/lib", "/run/grus/host/usr/lib", false),
        ],
        set: [("FI_PROVIDER_PATH".to_owned(), "/opt/mpi/prov".to_owned())].into(),
        default: [("FI_PROVIDER".to_owned(), "cxi".to_owned())].into(),
        check: Some(Check {
            loader: path("/lib64/ld-linux-x86-64.so.2"),
            object: path("/usr/bin/app"),
            expect: [("libmpi.so.12".to_owned(), "/run/grus/lib/libmpi.so.12".to_owned())].into(),
        }),
        ..Swap::default()
    }
}

pub(super) fn swapped(options: &'static [&'static str]) -> Case {
    let mut case = Case::of(options);
    case.swap = Some(swap());
    case.tree = Tree::debian()
        .with(Kind::Directory, &["/usr/lib", "/var", "/var/run"])
        .with(Kind::Symlink, &["/run -> var/run"])
        .with(Kind::File, &["/usr/lib/libmpi.so.12.1"]);
    case
}

#[test]
fn a_host_stack_comes_with_binds_links_cache_and_variables() {
    swapped(&[]).golden("stack");
    let mut case = swapped(&[]);
    case.site = "[mpi]\nverify = false\n[mounts]\nsite = ['/opt/mpi']\n";
    case.golden("stack_of_a_site_that_mounts_it");
}

#[test]
fn what_was_seen_of_an_image_is_not_looked_at_again() {
    let mut case = swapped(&[]);
    let own = Entry { kind: Kind::Directory, mode: 0o2775, uid: 7, gid: 8, target: None };
    case.tree.entries.insert("/usr/lib".into(), own);
    let cache = crate::ldcache::Cache::default().write();
    case.tree = case.tree.with(Kind::File, &["/etc/ld.so.cache"]);
    case.tree.contents.insert("/etc/ld.so.cache".into(), cache);
    let plan = case.decide().expect("a plan");
    let swap = case.swap.as_mut().expect("set");
    let seen = Seen::of(swap, &case.tree).expect("it can be seen");
    let text = serde_json::to_string(&seen).expect("it has a JSON form");
    swap.seen = serde_json::from_str(&text).expect("own text");
    assert_eq!((&swap.seen, swap.seen.check()), (&seen, Ok(())));
    // Had it been looked for, it would not have been found.
    for path in
        ["/usr", "/usr/lib", "/usr/lib/libmpi.so.12.1", "/run", "/var/run", "/opt", "/etc/ld.so.cache"]
    {
        case.tree.entries.remove(path);
    }
    case.tree.contents.remove("/etc/ld.so.cache");
    assert_eq!(case.decide().as_ref(), Ok(&plan));
    // What is no text of ours is as good as none.
    let swap = case.swap.as_mut().expect("set");
    swap.seen = serde_json::from_str(r#"{"cache":"?"}"#).expect("well-formed");
    assert!(case.decide().is_ok());
    let long = format!(r#"{{"cache":"{}"}}"#, "A".repeat(40 << 10));
    assert!(serde_json::from_str::<Seen>(&long).expect("well-formed").check().is_err());
}

#[test]
fn nothing_goes_below_a_link_or_in_its_place() {
    for (over, options) in [
        (&["/usr/new", "/usr/new/deeper"][..], &[][..]),
        (&["/usr/new"], &["mount=/data:/usr/new/deeper"]),
        (&["/var/run"], &[]),
        (&["/var/run/grus"], &[]),
        (&["/var/run/grus/lib"], &[]),
    ] {
        let mut case = swapped(options);
        let swap = case.swap.as_mut().expect("set");
        swap.over.extend(over.iter().map(|at| (path(at), path("/etc"))));
        let refusal = case.refused();
        assert!(refusal.what.contains("a link to a library of the host"), "{over:?}: {refusal}");
        assert!(refusal.hint.is_some());
    }
}

#[test]
fn a_mount_over_what_was_proved_keeps_the_images_mpi_or_is_refused() {
    swapped(&["mount=/data:/usr/lib"]).golden("stack_covered");
    for options in
        [&["container-mpi=host", "mount=/data:/usr/lib"][..], &["container-mpi=cray", "mount=/data:/usr"]]
    {
        let mount = options[1].rsplit(':').next().expect("a destination");
        let refusal = swapped(options).refused();
        let what = format!(
            "/usr/lib/libmpi.so.12.1, which host stack 'cray' would replace, lies below the mount {mount}"
        );
        assert_eq!(refusal.what, what);
        assert!(refusal.hint.is_some());
    }
    let refusal = swapped(&["container-mpi=host", "mount=/data:/run"]).refused();
    assert!(refusal.what.starts_with("/run/grus/lib, which host stack"), "{refusal}");
}

#[test]
fn a_stack_that_this_node_lacks_is_no_reason_to_run_another() {
    let mut case = swapped(&[]);
    case.swap.as_mut().expect("set").needs.insert(path("/opt/mpi/gone.so"));
    let refusal = case.refused();
    assert_eq!(refusal.what, "host stack 'cray' is incomplete: /opt/mpi/gone.so: No such file or directory");
    // A stack is told by users, too: what only root reaches stays out of reach.
    case.swap.as_mut().expect("set").extras[0].source = path("/secret");
    assert!(case.refused().what.ends_with("/secret: Permission denied"));
}
